"""When single steps begin to fool a training: Kaplan-Meier curves, exact log-rank tests, how many fell, how many recover.

What overfitting.py has seen is recorded in docs/findings/collapse.json, accuracies of every epoch, from which this counts
by the rule of today, without a training:

    python tests/studies/collapse.py
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from finding import FOLDER, Finding, Table, published, rounded

from bench.pictures.figure import Axis, Chart, Curve, percent_axis
from bench.results.collapse import collapsed, fooled
from bench.statistics import Differences, holm, kaplan_meier, log_rank, paired

NAME = "collapse"
DRAWN = ("fgsm_at", "zerograd", "fast_at", "n_fgsm")
"""The curves of the figure; what else is never fooled would lie upon that of n_fgsm."""


@dataclass(frozen=True)
class Cell:
    """The trainings of one cell, by what validation has seen of each."""

    label: str
    passes: int
    images: int
    """Of the validation."""
    seen: tuple[tuple[tuple[float, float], ...], ...]
    """Accuracies under FGSM and PGD-10 after every epoch, of every training."""
    ranks: tuple[tuple[float, float], ...] = ()
    """Effective ranks of the kernels of clean and of attacked test images after the last epoch, of every training."""

    @property
    def epochs(self) -> int:
        """Of each training."""
        return len(self.seen[0])

    @property
    def seeds(self) -> int:
        """How many trainings."""
        return len(self.seen)

    @property
    def histories(self) -> list[list[dict[str, float]]]:
        """What was seen of each training, as the harness records it."""
        return [[{"fgsm": fgsm, "pgd": pgd} for fgsm, pgd in one] for one in self.seen]

    @property
    def fooled(self) -> list[int | None]:
        """The first epoch of each training, counted from 1, whose single steps missed what several steps find."""
        places = [[fooled(now, self.images) for now in history] for history in self.histories]
        return [one.index(True) + 1 if any(one) else None for one in places]

    @property
    def collapses(self) -> int:
        """How many trainings fell into that from a robustness that both agreed upon."""
        return sum(collapsed(history, self.images) is not None for history in self.histories)

    @property
    def recovered(self) -> int:
        """How many of those that were fooled end with PGD-10 accuracy of half of what FGSM leaves, or more."""
        ends = [one[-1] for one in self.seen]
        return sum(at is not None and pgd >= fgsm / 2 for at, (fgsm, pgd) in zip(self.fooled, ends, strict=True))

    def times(self) -> tuple[list[float], list[bool]]:
        """For each training the epoch until which it was seen, and whether it was fooled in it."""
        return [float(at or self.epochs) for at in self.fooled], [at is not None for at in self.fooled]


def cell(label: str, records: Sequence[dict[str, Any]], ranks: Sequence[tuple[float, float]] = ()) -> Cell:
    """From the records of its trainings, and what their kernels say."""
    # As they are recorded: a half in the last digit that is shown would fall otherwise when it is said again.
    seen = tuple(tuple(map(tuple, rounded([(e["fgsm"], e["pgd"]) for e in found["history"]]))) for found in records)
    passes = fmean(found["training"]["backwards_per_sample"] for found in records)
    return Cell(label, round(passes), records[0]["training"]["validation"], seen, tuple(ranks))


def finding(cells: Sequence[Cell], settings: dict[str, str]) -> Finding:
    """Each cell against plain FGSM training and against fast_at, of those with as many epochs; Holm over each column."""
    tables = [_table(cells), *([_ranks(cells)] if any(one.ranks for one in cells) else [])]
    return Finding(NAME, settings, tables, _figure(cells), {"cells": [asdict(one) for one in cells]})


def _table(cells: Sequence[Cell]) -> Table:
    columns = []
    for base in ("fgsm_at", "fast_at"):
        own = next(one for one in cells if one.label == base)
        others = [one for one in cells if one.epochs == own.epochs and one is not own]
        p = [log_rank(*own.times(), *one.times()) for one in others]
        told = {one.label: f"{a:.2g} ({b:.2g})" for one, a, b in zip(others, p, holm(p).tolist(), strict=True)}
        columns.append(told)
    rows = []
    for one in cells:
        when = ", ".join("-" if at is None else str(at) for at in one.fooled)
        many = sum(at is not None for at in one.fooled)
        last = " ".join(f"{100 * each[-1][1]:.0f}" for each in one.seen)
        counts = (f"{many} of {one.seeds}", when, f"{one.collapses}", f"{one.recovered}" if many else "-", last)
        rows.append((one.label, f"{one.epochs}", f"{one.passes}", *counts, *(told.get(one.label, "") for told in columns)))
    heads = (
        "cell", "epochs", "passes", "fooled", "from epoch", "collapsed", "recovered", "last PGD-10",
        "against fgsm_at", "against fast_at",
    )  # fmt: skip
    return Table(heads, tuple(rows))


def _ranks(cells: Sequence[Cell]) -> Table:
    """Effective ranks, a seed each: of attacked images against clean ones, against plain FGSM training, and of each noise
    against the isotropic one."""
    known = {one.label: one for one in cells if one.ranks}
    columns = []
    for base, kind in (("fgsm_at", ""), ("noise-isotropic", "noise-")):
        own = known.get(base)
        others = [
            one for one in known.values() if own and one is not own and one.seeds == own.seeds and one.label.startswith(kind)
        ]
        found = [paired(_attacked(own), _attacked(one)) for one in others if own]
        held = holm([one.p for one in found]).tolist() if found else []
        columns.append({one.label: f"{_gap(p)} ({h:.2g})" for one, p, h in zip(others, found, held, strict=True)})
    rows = []
    for one in known.values():
        clean, attacked = (" ".join(f"{pair[k]:.1f}" for pair in one.ranks) for k in (0, 1))
        less = paired([clean for clean, _ in one.ranks], _attacked(one))
        rows.append((one.label, clean, attacked, _gap(less), *(own.get(one.label, "") for own in columns)))
    heads = (
        "cell", "rank, clean images", "rank, attacked images", "attacked less clean", "attacked, against fgsm_at",
        "attacked, against noise-isotropic",
    )  # fmt: skip
    return Table(heads, tuple(rows))


def _gap(found: Differences) -> str:
    return f"{found.mean:+.1f}, 95% {found.low:+.1f} to {found.high:+.1f}, p = {found.p:.2g}"


def _attacked(one: Cell) -> list[float]:
    return [attacked for _, attacked in one.ranks]


def _figure(cells: Sequence[Cell]) -> Chart:
    known = {one.label: one for one in cells}
    last = float(max(known[label].epochs for label in DRAWN if label in known))
    curves = []
    for tone, label in enumerate(label for label in DRAWN if label in known):
        found = kaplan_meier(*known[label].times())
        points = [(0.0, 100.0), *((time, 100 * left) for time, left in zip(found.times, found.left, strict=True))]
        band = [(100.0, 100.0), *((100 * low, 100 * high) for low, high in zip(found.low, found.high, strict=True))]
        points, band = [*points, (last, points[-1][1])], [*band, band[-1]]
        curves.append(Curve(label, tuple(points), tone, tuple(band), dots=False, steps=True))
    epochs = Axis("epoch", 0.0, last, tuple((float(epoch), str(epoch)) for epoch in range(0, int(last) + 1, 2)))
    about = "The share of trainings that single steps have not fooled, over the epochs: Kaplan-Meier, Greenwood's intervals."
    return Chart(about, epochs, percent_axis("trainings not fooled yet, %"), tuple(curves))


def recorded(path: Path) -> tuple[list[Cell], dict[str, str]]:
    """The cells of a finding that was written, and its settings."""
    content = json.loads(path.read_text())
    cells = content["numbers"]["cells"]
    seen = [tuple(tuple((fgsm, pgd) for fgsm, pgd in each) for each in one["seen"]) for one in cells]
    ranks = [tuple((clean, attacked) for clean, attacked in one.get("ranks", ())) for one in cells]
    both = zip(cells, seen, ranks, strict=True)
    return [Cell(**one | {"seen": each, "ranks": rank}) for one, each, rank in both], content["settings"]


def added(cells: Sequence[Cell], settings: dict[str, str], path: Path) -> list[Cell]:
    """What is recorded there with these settings, and these cells in their places or behind it."""
    known = {}
    if path.exists():
        before, under = recorded(path)
        known = {one.label: one for one in before if under == settings}
    return [*(known | {one.label: one for one in cells}).values()]


def main() -> None:
    """Say again what is recorded."""
    chosen = published(argparse.ArgumentParser(description=__doc__)).parse_args()
    finding(*recorded(FOLDER / f"{NAME}.json")).publish(chosen.write)


if __name__ == "__main__":
    main()
