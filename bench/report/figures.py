"""The pictures of a board: from rows to figures, for pages and for papers alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bench.errors import BadInput
from bench.pictures import (
    TONES,
    Axis,
    Bar,
    Bars,
    Chart,
    Curve,
    Figure,
    Heat,
    Mark,
    Moment,
    Pair,
    Pairs,
    percent_axis,
    rising_axis,
)
from bench.report.falls import Falls
from bench.report.sections import Method, Part, Row
from bench.report.tables import DOUBTED
from bench.results import AttackResult, CurvePoint
from bench.statistics import wilson

ROBUST = "robust accuracy, %"
LONGEST = 80
"""Characters of a name in a picture or a sentence."""
FEW = 5
"""Samples from which on shares of them say something."""


def tradeoff(part: Part, link: Callable[[Method], str] = lambda _: "") -> Chart:
    """Clean against robust accuracy: a mark per method."""
    clean = [
        value for m in part.methods for value in (_number(m, "clean"), *(100 * r.entry.card.clean_accuracy for r in m.rows))
    ]
    return Chart(
        about=f"Clean against robust accuracy of {len(part.methods)} methods under plan {part.plan[:LONGEST]}.",
        x=percent_axis("clean accuracy, %", clean, whole=False), y=_robust_axis(part), wide=True,
        marks=tuple(_mark(m, _number(m, "clean"), lambda r: 100 * r.entry.card.clean_accuracy, link) for m in part.methods),
    )  # fmt: skip


def cost(part: Part, link: Callable[[Method], str] = lambda _: "") -> Chart | None:
    """Robust accuracy against what the training took, and the front that nothing beats; None where costs are unknown."""
    known = [method for method in part.methods if _passes(method.rows[0]) and method.cells["train passes"] != ""]
    if len(known) < 2:
        return None
    x = [float(str(method.cells["train passes"])) for method in known]
    marks = tuple(_mark(m, at, partial(_passes, usual=at), link) for m, at in zip(known, x, strict=True))
    return Chart(
        about=f"Robust accuracy against the cost of training of {len(known)} methods under plan {part.plan[:LONGEST]}.",
        x=rising_axis("backward passes per training image, log scale", x, log=True), y=_robust_axis(part), wide=True,
        marks=marks, front=_front(marks),
    )  # fmt: skip


def waterfall(row: Row, falls: Falls | None) -> Bars:
    """From clean to robust: what each attack, or each arm of a portfolio, took that nothing before it had."""
    card, n = row.entry.card, row.entry.card.n
    left, share = round(card.clean_accuracy * n), 100 / n
    bars = [Bar("clean", 0, left * share, f"{left * share:.1f}", told=f"{left} of {n} are right")]
    taken = _taken(falls) if falls else [("all attacks", card.archive.rows, "the records are not here")]
    for name, broken, told in [*taken, *((f"by {added.by}", added.broken, "handed in later") for added in card.additions)]:
        value = f"\u2212{broken * share:.1f}" if broken else "0"
        bars.append(Bar(name, (left - broken) * share, left * share, value, 1, f"{name}: {broken} samples, {told}"))
        left -= broken
    stands = round(card.robust_accuracy * n)
    bars.append(Bar("robust", 0, stands * share, f"{stands * share:.1f}", told=f"{stands} of {n} stand"))
    return Bars(f"From {card.clean_accuracy:.1%} clean to {card.robust_accuracy:.1%} robust.", "% of the samples", tuple(bars))


def _taken(falls: Falls) -> list[tuple[str, int, str]]:
    """Attacks in order with what each took, a portfolio by arms and stages; what took nothing is one line where it is much."""
    stages = {
        (attack.name, f"round {number}: {one.arm}"): f"{one.arm} ({one.stage})"
        for attack in falls.card.attacks
        for number, one in enumerate(attack.rounds)
    }
    alike: dict[str, list[int]] = {}
    for (attack, run), count in falls.taken.items():
        alike.setdefault(stages.get((attack, run), attack), []).append(count)
    found = [(name, sum(counts), f"{len(counts)} runs" if len(counts) > 1 else "one run") for name, counts in alike.items()]
    idle = [name for name, count, _ in found if not count]
    if len(idle) < 4:
        return found
    return [one for one in found if one[1]] + [(f"{len(idle)} others", 0, "which took nothing more: " + ", ".join(idle))]


def rounds(rows: Sequence[tuple[Row, Falls | None]]) -> Chart | None:
    """What still stands while a portfolio spends its effort."""
    curves, every = [], [row for row, _ in rows]
    for tone, (row, falls) in enumerate(rows):
        card = row.entry.card
        attack = next((attack for attack in card.attacks if attack.rounds), None)
        if attack is None or falls is None:
            continue
        spent, left = 0.0, int(falls.clean.sum())
        points = [(0.0, 100 * left / card.n)]
        for number, one in enumerate(attack.rounds):
            spent += one.cost * one.samples / card.n
            left -= falls.taken.get((attack.name, f"round {number}: {one.arm}"), 0)
            points.append((spent, 100 * left / card.n))
        curves.append(Curve(_name(row, every), tuple(points), tone, steps=True, dots=False))
    return _lines(
        "What stands while the portfolio spends its effort.", "passes per test image, a backward pass counts two", curves
    )


def restarts(rows: Sequence[Row]) -> Chart | None:
    """Robust accuracy after 1, 2, 5, ... restarts on the same samples."""
    found = [(row, attack) for row in rows for attack in row.entry.card.attacks if len(attack.restarts) > 1][:TONES]
    curves = [
        Curve(
            _attack_name(row, attack, rows),
            tuple((float(point.restarts), 100 * point.robust_accuracy) for point in attack.restarts),
            tone,
            tuple(_band(point.robust_accuracy, attack.n) for point in attack.restarts),
        )
        for tone, (row, attack) in enumerate(found)
    ]
    return _lines(
        "Robust accuracy after so many restarts, on the same samples.", "restarts, log scale", curves, log=True, zoom=True
    )


def steps(rows: Sequence[Row]) -> Figure | None:
    """The step-size search: a curve, or a heat map where two settings were searched."""
    grids = [(row, attack) for row in rows for attack in row.entry.card.attacks if attack.grid and attack.grid.points]
    curves: list[Curve] = []
    for row, attack in grids:
        assert attack.grid is not None
        keys = list(attack.grid.points[0].parameters)
        values = [[*(point.parameters.get(key) for key in keys), 100 * point.robust_accuracy] for point in attack.grid.points]
        points = [[float(v) for v in point if isinstance(v, int | float)] for point in values]
        if any(len(point) <= len(keys) for point in points):
            continue
        if len(keys) == 2 and len(rows) == 1:
            return _searched(attack, keys, points)
        if len(keys) == 1:
            name = f"{_attack_name(row, attack, rows)}, {keys[0]}"
            where = tuple(sorted((x, y) for x, y in points))
            curves.append(Curve(name, where, len(curves) % TONES, tuple(_band(y / 100, attack.grid.probe) for _, y in where)))
    label = "value of the searched setting, log scale"
    return _lines(
        "Robust accuracy on the probe over the settings that were searched.", label, curves[:TONES], log=True, zoom=True
    )


def _band(share: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share of n samples, in percent."""
    low, high = wilson(min(max(round(share * n), 0), n), max(n, 1))
    return 100 * low, 100 * high


def _searched(attack: AttackResult, keys: Sequence[str], points: Sequence[Sequence[float]]) -> Heat:
    down, across = (sorted({point[place] for point in points}) for place in (0, 1))
    known = {(point[0], point[1]): point[2] for point in points}
    grid = [[known.get((one, other)) for other in across] for one in down]
    return Heat(
        f"Robust accuracy on the probe by {keys[0]} and {keys[1]} of {attack.name}.",
        tuple(f"{v:g}" for v in down), tuple(f"{v:g}" for v in across),
        tuple(tuple(None if v is None else v / 100 for v in line) for line in grid),
        tuple(tuple("" if v is None else f"{v:.1f}" for v in line) for line in grid), keys[1], keys[0],
    )  # fmt: skip


def eps(rows: Sequence[Row]) -> Chart | None:
    """Accuracy over the radius, with what is certified and what the distances of closest examples leave."""
    curves: list[Curve] = []
    for row in rows:
        card = row.entry.card
        name = _name(row, rows) if len(rows) > 1 else "robust"
        if len(card.curve) > 1:
            curves.append(_radii(name, card.curve, len(curves), 100 * card.clean_accuracy))
        for attack in card.attacks:
            if len(attack.curve) > 1:
                curves.append(_radii(_attack_name(row, attack, rows), attack.curve, len(curves)))
        if card.certified and len(card.certified.curve) > 1:
            curves.append(_radii(f"{name}, certified" if len(rows) > 1 else "certified", card.certified.curve, len(curves)))
    norm = rows[0].entry.card.threat.norm if rows else ""
    return _lines("Accuracy over the radius of the ball.", f"eps, {norm}, input units", curves[:TONES], least=0.0)


def _radii(name: str, points: Sequence[CurvePoint], tone: int, clean: float | None = None) -> Curve:
    where = [(_radius(point.eps), 100 * point.robust_accuracy) for point in points]
    band = [(100 * point.interval[0], 100 * point.interval[1]) for point in points]
    if clean is not None and where[0][0] > 0:
        where, band = [(0.0, clean), *where], [(clean, clean), *band]
    return Curve(name, tuple(where), tone % TONES, tuple(band))


def training(rows: Sequence[Row]) -> Chart | None:
    """Accuracy on validation images over epochs, the kept one and the moment of collapse."""
    known = [row for row in rows if row.history and row.history.epochs > 1]
    if len(known) > 1:
        curves = [Curve(_name(row, rows), _over(row, "pgd"), tone, dots=False) for tone, row in enumerate(known) if row.history]
        return _lines("Robust accuracy on validation images over the epochs.", "epoch", curves)
    if not known:
        return None
    training = known[0].entry.card.model.training
    curves = [Curve(name, _over(known[0], key), tone, dots=False) for tone, (key, name) in enumerate(_WATCHED.items())]
    moments = [Moment(float(training["best_epoch"]), "kept")] if training.get("best_epoch") else []
    moments += [Moment(float(training["collapse_epoch"]), "collapse", bad=True)] if training.get("collapse_epoch") else []
    chart = _lines("Accuracy on validation images over the epochs.", "epoch", [c for c in curves if c.points])
    last = chart.x.high if chart else 0.0
    return None if chart is None else _with(chart, tuple(m for m in moments if chart.x.low <= m.at <= last))


_WATCHED = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD-10"}


def loss(row: Row) -> Chart | None:
    """Loss over epochs."""
    if not row.history or row.history.epochs < 2 or "loss" not in row.history.curves:
        return None
    points = tuple((epoch, value) for epoch, value in enumerate(row.history.curves["loss"], 1))
    y = rising_axis("training loss", [value for _, value in points], least=0.0)
    return Chart("Training loss over the epochs.", _epochs(len(points)), y, (Curve("loss", points, 0, dots=False),))


def rate(row: Row) -> Chart | None:
    """Learning rate over epochs."""
    return _scheduled(row.history.rate if row.history else (), "learning rate")


def budget(row: Row) -> Chart | None:
    """The scheduled budget over epochs."""
    return _scheduled(row.history.budget if row.history else (), "budget, share of eps")


def _scheduled(values: Sequence[float], label: str) -> Chart | None:
    if len(values) < 2:
        return None
    points = tuple((float(epoch), value) for epoch, value in enumerate(values, 1))
    y = rising_axis(label, values, least=0.0)
    return Chart(f"{label} over the epochs.", _epochs(len(points)), y, (Curve(label, points, 0, dots=False),))


def classes(falls: Falls, names: Sequence[str] = ()) -> Pairs | None:
    """Clean and robust accuracy of every class, where they are few."""
    found = falls.per_class()
    if not 1 < len(found) <= 40:
        return None
    pairs = tuple(Pair(_class(label, names), 100 * robust, 100 * clean) for label, _, clean, robust in found)
    return Pairs("Clean and robust accuracy of every class.", "% of the class", ("robust", "clean"), pairs)


def becomes(labels: Sequence[int], predicted: Sequence[int], names: Sequence[str] = ()) -> Heat | None:
    """Who becomes whom: of the adversarial examples of each class, the share that is taken for each other one."""
    count = max([*labels, *predicted], default=0) + 1
    if not 1 < count <= 20:
        return None
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (np.asarray(labels), np.asarray(predicted)), 1)
    totals = table.sum(1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros(table.shape), where=totals > 0)
    own, every = tuple(_class(label, names) for label in range(count)), range(count)
    return Heat(
        "What the adversarial examples of each class are taken for.", own, own,
        tuple(tuple(None if down == across else float(shares[down, across]) for across in every) for down in every),
        tuple(tuple(str(table[down, across] or "") if down != across else "" for across in every) for down in every),
        "taken for", "true class",
    )  # fmt: skip


def overlap(falls: Falls) -> Heat | None:
    """Of the samples that one attack broke, the share that another broke too, where both were run on them."""
    runs = {name: (ran, broke) for name, (ran, broke) in falls.runs.items() if len(broke)}
    if len(runs) < 2 or len(np.unique(np.concatenate([broke for _, broke in runs.values()]))) < FEW:
        return None
    names = tuple(list(runs)[:12])
    ran, broke = (np.array([np.isin(falls.ids, runs[name][kind]) for name in names], dtype=np.int64) for kind in (0, 1))
    table = [
        list(zip(hits, tried, strict=True))
        for hits, tried in zip((broke @ broke.T).tolist(), (broke @ ran.T).tolist(), strict=True)
    ]
    return Heat(
        "Of the samples that the attack on the left broke, the share that the attack above broke too.", names, names,
        tuple(tuple(None if not of else hit / of for hit, of in line) for line in table),
        tuple(tuple("" if not of else f"{100 * hit / of:.0f}" for hit, of in line) for line in table),
        "broke it too, %", "broken by",
    )  # fmt: skip


def _mark(method: Method, x: float, seed: Callable[[Row], float], link: Callable[[Method], str]) -> Mark:
    cells = method.cells
    robust, interval = _number(method, "robust"), str(cells["95% interval"])
    proved = cells.get("certified", "")
    dots = tuple((seed(row), 100 * row.entry.card.robust_accuracy) for row in method.rows)
    told = f"{method_name(method)}: {robust:.1f} robust, {_number(method, 'clean'):.1f} clean"
    return Mark(
        method_name(method), (x, robust), _range(interval), dots,
        float(str(proved)) if proved not in ("", None) else None,
        hollow=cells["verdict"] in DOUBTED, link=link(method), told=told,
    )  # fmt: skip


def method_name(method: Method) -> str:
    """What a method is called among others of its section, cut where it is long."""
    apart = str(method.cells["differs in"])
    name = str(method.cells["defense"]) + (f" ({apart})" if apart else "")
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "\u2026"


def _range(interval: str) -> tuple[float, float] | None:
    low, _, high = interval.partition("-")
    return (float(low), float(high)) if high else None


def _robust_axis(part: Part) -> Axis:
    values = [100 * row.entry.card.robust_accuracy for row in part.rows]
    highs = [bounds[1] for m in part.methods if (bounds := _range(str(m.cells["95% interval"])))]
    top = max([*values, *highs, 10.0])
    return percent_axis(ROBUST) if top > 60 else rising_axis(ROBUST, [0.0, top])


def _front(marks: Sequence[Mark]) -> tuple[tuple[float, float], ...]:
    """Cheapest first, only those more robust than everything cheaper; doubted marks make none."""
    best, found = -1.0, []
    for mark in sorted((m for m in marks if not m.hollow), key=lambda m: (m.at[0], -m.at[1])):
        if mark.at[1] > best:
            best = mark.at[1]
            found.append(mark.at)
    return tuple(found)


def _lines(
    about: str, label: str, curves: Sequence[Curve], *, log: bool = False, zoom: bool = False, least: float | None = None
) -> Chart | None:
    """Percent over something; None without a curve."""
    curves = [curve for curve in curves if len(curve.points) > 1]
    if not curves:
        return None
    if len(curves) > TONES:
        raise BadInput(f"{len(curves)} curves cannot be told apart; give at most {TONES} rows")
    across = [x for curve in curves for x, _ in curve.points]
    up = [y for curve in curves for y in (*(y for _, y in curve.points), *(end for ends in curve.band for end in ends))]
    x = _epochs(int(max(across))) if label == "epoch" else rising_axis(label, across, log=log, least=least)
    return Chart(about, x, percent_axis("accuracy, %", up, whole=not zoom), tuple(curves))


def _epochs(count: int) -> Axis:
    return rising_axis("epoch", [1.0, float(count)], least=0.0)


def _with(chart: Chart, moments: tuple[Moment, ...]) -> Chart:
    return Chart(chart.about, chart.x, chart.y, chart.curves, moments=moments)


def _over(row: Row, key: str) -> tuple[tuple[float, float], ...]:
    values = row.history.curves.get(key, ()) if row.history else ()
    return tuple((float(epoch), 100 * value) for epoch, value in enumerate(values, 1))


def _number(method: Method, column: str) -> float:
    return float(str(method.cells[column]))


def _passes(row: Row, usual: float = 0.0) -> float:
    passes = row.entry.card.model.training.get("backwards_per_sample")
    return float(passes) if passes else usual


def _radius(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _class(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def _name(row: Row, rows: Sequence[Row]) -> str:
    """A row's name, with the seed where several share it."""
    name, seed = row.entry.card.name, str(row.cells["seed"])
    alike = [other for other in rows if other.entry.card.name == name]
    return f"{name} s{seed}" if len(alike) > 1 and seed else name


def _attack_name(row: Row, attack: AttackResult, rows: Sequence[Row]) -> str:
    return f"{_name(row, rows)}, {attack.name}" if len(rows) > 1 else attack.name
