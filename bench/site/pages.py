"""The pages of a site, each a pure function of the board: templates filled with sentences and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from bench.compare.pairs import ALPHA
from bench.pictures import Figure
from bench.report import LEGEND, Falls, Leaderboard, Method, Part, Row, Section, figures, method_name
from bench.report.paper import samples
from bench.report.tables import DOUBTED
from bench.results import AttackResult, Finding
from bench.site import words
from bench.site.asked import Examples, class_names
from bench.site.documents import Document, Group
from bench.site.gallery import Gallery, gallery
from bench.site.markup import columns, drawn, environment, percent
from bench.site.measures import measured_of
from bench.site.pairs import Duel, beats, flips, other_plans
from bench.verify import Check
from bench.wording import count_of

ALIKE = 400
"""Methods of a plan that a picture can hold."""


FINE = ("rank:", "8-bit:", "sd:", "proof:", "certified:")
"""How notes begin that explain a column and say nothing of a single row."""


_EFFORT = (
    "The portfolio's rounds in order, which end where nothing more falls. Where the line is flat to the end, more effort would "
    "hardly change the number."
)
_AGAIN = (
    "The same samples each time; a curve that still falls at its end says that the number is not final. Shaded: 95 % interval."
)
_GRID = "On a probe before the attack; the best was used. At an edge, the search was too narrow. Shaded: 95 % interval."
_RADII = "What fell in a smaller ball has fallen in a larger one. Shaded: 95 % interval."
_VALIDATION = (
    "Held-out training images after every epoch, at the target budget. Where FGSM stays and PGD falls, the training collapsed."
)
_BECOMES = "Of the adversarial examples in the archive, how many of each class the network takes for each other one."
_TRANSFER = "Percent of the adversarial examples made on the network on the left that the network above gets wrong too."


class Picture(NamedTuple):
    """A drawn picture with its words."""

    title: str
    drawn: Markup
    caption: str = ""


def pictures(*found: tuple[str, Figure | None, str]) -> list[Picture]:
    """Those that there is something to show of."""
    return [Picture(title, drawn(figure), caption) for title, figure, caption in found if figure is not None]


def page(template: str, board: Leaderboard, title: str, root: str, here: str = "", **values: object) -> str:
    """A filled template."""
    html = environment().get_template(template).render(board=board, title=title, root=root, here=here, **values)
    return re.sub(r" %(?<=\d %)", "\u00a0%", html)


def index(board: Leaderboard, groups: Sequence[Group]) -> str:
    """The first page: what there is, who leads, what was left out."""
    return page("index.html", board, "Leaderboard", "", lead=words.board_lead(board), groups=groups)


def document(board: Leaderboard, doc: Document, groups: Sequence[Group]) -> str:
    """A document with the way to all others beside it."""
    root, folder = "../" * (doc.page.count("/") + 1), doc.name.rpartition("/")[0]
    above = next((entry for group in groups for entry in group.pages if folder and entry[0] == f"{folder}/README"), None)
    return page("doc.html", board, doc.title, root, "docs", doc=doc, groups=groups, above=above)


def leaderboard(board: Leaderboard, section: Section, paired: Sequence[str]) -> str:
    """A data set under a threat model; paired: the parts whose pairs have pages."""
    shown = {}
    for part in section.parts:
        shown[part.key] = {
            "tradeoff": drawn(figures.tradeoff(part, _link)),
            "cost": drawn(figures.cost(part, _link)),
            "several": any(len(method.rows) > 1 for method in part.methods),
            "doubted": any(method.cells["verdict"] in DOUBTED for method in part.methods),
            "certified": "certified" in part.columns,
        }
    verdicts = sorted({str(method.cells["verdict"] or "none") for part in section.parts for method in part.methods})
    return page(
        "board.html", board, f"{section.dataset[:60]} {section.threat[:40]}", "../", section.key,
        section=section, lead=words.section_lead(section), pictures=shown, columns={p.key: columns(p) for p in section.parts},
        verdicts=verdicts, pairs=set(paired), legend=LEGEND, fine=FINE,
        captions={p.key: caption(section, p) for p in section.parts},
    )  # fmt: skip


def caption(section: Section, part: Part) -> str:
    """What a table in a paper says of itself: n, plan and eps."""
    told = samples([method.cells for method in part.methods])
    return f"{section.dataset[:60]}, {section.threat[:40]}, plan {part.plan[:40]}, {told}"


def _link(method: Method) -> str:
    return f"../row/{method.key}.html"


def row_page(
    board: Leaderboard, section: Section, part: Part, row: Row, falls: Falls | None, found: Examples | None, results: Path
) -> tuple[str, Gallery | None]:
    """One evaluation, and the images that its page shows."""
    card, names = row.entry.card, class_names(row)
    shown = gallery(found, falls, names) if found and falls else None
    seen = None
    if falls and found and found.after is not None:
        seen = figures.becomes([falls.label_of[number] for number in found.ids.tolist()], found.after.argmax(1).tolist(), names)
    measured, refused = measured_of(row)
    html = page(
        "row.html", board, f"{card.name[:60]} on {card.dataset[:40]}", "../", section.key, section=section, part=part, row=row,
        card=card, lead=words.row_lead(row), warnings=_warnings(row), waterfall=drawn(figures.waterfall(row, falls)),
        fell=words.fell(card.attacks), others=[(key, words.other_plan(pair)) for key, pair in other_plans(section, row)],
        overlap=drawn(figures.overlap(falls) if falls else None), search=_search(row, falls),
        diagnosis=_diagnosis(row), gallery=shown, perclass=_classes(falls, seen, names), training=_training(row),
        trained=words.trained(row), proved=words.proved(row), checks=[_checked(check) for check in row.checks],
        measured=measured, unmeasured=refused, commands=words.commands(row, results), files=_files(row),
        attacks=[_attack(attack) for attack in card.attacks],
        rounds=[one for attack in card.attacks for one in attack.rounds], facts=words.facts(card),
    )  # fmt: skip
    return html, shown


def _warnings(row: Row) -> list[str]:
    """What a reader must know before the number."""
    card = row.entry.card
    told = [row.entry.lowered] if row.entry.lowered else []
    told += [f"does not hold: {fault}" for fault in row.fails] + [*row.told] + [*card.warnings]
    told += [f"lowered by {count_of(added.broken, 'sample')} with examples of {added.by}" for added in card.additions]
    told += [f"{attack.name}: the gradient looks masked: {attack.masked}" for attack in card.attacks if attack.masked]
    if card.certified and card.certified.contradicted:
        told.append(f"of the samples that are said to be certain, {card.certified.contradicted} fell all the same")
    return told


def _search(row: Row, falls: Falls | None) -> list[Picture]:
    return pictures(
        ("What stood as effort was spent", figures.rounds([(row, falls)]), _EFFORT),
        ("After so many restarts", figures.restarts([row]), _AGAIN),
        ("Step size", figures.steps([row]), _GRID),
        ("Over the radius", figures.eps([row]), _RADII),
    )  # fmt: skip


def _classes(falls: Falls | None, becomes: Figure | None, names: Sequence[str]) -> list[Picture]:
    if falls is None:
        return []
    return pictures(
        ("Clean and robust", figures.classes(falls, names), ""),
        (
            "Who becomes whom",
            becomes,
            _BECOMES,
        ),
    )


def _training(row: Row) -> list[Picture]:
    if not row.entry.card.model.training and not row.history:
        return []
    return pictures(
        ("Validation", figures.training([row]), _VALIDATION),
        ("Loss", figures.loss(row), ""),
        ("Budget of the steps", figures.budget(row), "In the middle of each epoch, by the schedule of the recipe."),
        ("Learning rate", figures.rate(row), "In the middle of each epoch, by the schedule of the recipe."),
    )  # fmt: skip


def _diagnosis(row: Row) -> dict[str, object]:
    """Lamps of every check, the doubtful ones first."""
    card = row.entry.card
    findings = card.diagnosis.findings if card.diagnosis else card.noticed
    if not findings:
        return {}
    lamps = [_lamp(finding) for finding in findings]
    bad = [lamp for lamp in lamps if lamp["verdict"] != "ok"]
    told = f"{len(findings)} checks" + (
        f" on {card.diagnosis.n} samples" if card.diagnosis else " during the evaluation; no diagnosis was made"
    )
    told += f": {len(bad)} of them give reason to doubt it." if bad else ": none gives reason to doubt it."
    return {"told": told, "doubted": bad, "sound": [lamp for lamp in lamps if lamp["verdict"] == "ok"]}


def _lamp(finding: Finding) -> dict[str, str]:
    value = "does not apply" if finding.value is None else f"{finding.value:.3g}"
    limit = "" if finding.threshold is None or finding.value is None else f", sound up to {finding.threshold:.3g}"
    kind = "none" if finding.value is None else finding.verdict
    return {"check": finding.check, "kind": kind, "verdict": finding.verdict, "value": value + limit, "told": finding.told}


def _checked(check: Check) -> dict[str, str]:
    kind = {True: "ok", False: "broken", None: "none"}[check.ok]
    verdict = {True: "holds", False: "FAILS", None: "not here"}[check.ok]
    return {"check": check.name, "kind": kind, "verdict": verdict, "told": "; ".join(check.told)}


def _attack(attack: AttackResult) -> dict[str, object]:
    told = ", ".join(f"{key} {value}" for key, value in attack.parameters.items())
    rounds = f"{len(attack.rounds)} rounds" if attack.rounds else ""
    return {
        **{key: getattr(attack, key) for key in ("name", "attempted", "broken", "robust_accuracy", "forwards", "backwards")},
        "told": "; ".join(filter(None, [told, rounds, *attack.notes])),
    }


def _files(row: Row) -> list[tuple[str, str]]:
    card = row.entry.card
    found = [("card.json", f"{row.where}/card.json")]
    found += [
        (file.file, f"sha256 {file.sha256}, {file.rows:,} rows")
        for file in (card.records, card.archive, *(a.archive for a in card.additions))
    ]
    return [
        *found,
        ("weights", f"sha256 {card.model.digest}"),
        ("data", f"sha256 {card.data.digest}"),
        ("plan", f"sha256 {card.plan_digest}"),
    ]


def matrix(
    board: Leaderboard, section: Section, part: Part, found: Sequence[Duel], failed: Sequence[str], transfer: Figure | None
) -> str:
    """Who beats whom in a plan."""
    settled = sum(duel.found.winner is not None for duel in found)
    lead = f"{count_of(len(part.methods), 'method')}, {count_of(len(found), 'pair')}: "
    lead += f"{settled} settled, {len(found) - settled} open."
    return page(
        "matrix.html", board, "Who beats whom", "../", section.key, section=section, part=part, lead=lead,
        beats=drawn(beats(part, list(found))), pairs=[_summary(duel) for duel in found], failed=failed,
        transfer=drawn(transfer), transfer_told=_TRANSFER,
    )  # fmt: skip


def pair_page(
    board: Leaderboard, section: Section, part: Part, duel: Duel, asked: Mapping[str, Examples], falls: Mapping[str, Falls]
) -> tuple[str, dict[str, bytes]]:
    """Two methods, and the images of its page by their names."""
    told = flips(duel)
    bars, ids, words_ = told if told else (None, {}, "")
    sides, images = [], {}
    for letter, loser in (("A", duel.b), ("B", duel.a)):
        keeper = duel.a if letter == "A" else duel.b
        found, fell = asked.get(loser.key), falls.get(loser.key)
        only = ids.get(letter, [])
        shown = gallery(found, fell, class_names(loser.rows[0]), only) if found and fell and only else None
        if shown:
            file = duel.file.replace(".html", f"-{letter.lower()}.png")
            images[file] = shown.png
            title = f"Only {method_name(keeper)[:60]} keeps these"
            told_ = f"{len(only):,} images; shown are examples that break {method_name(loser)[:60]}."
            sides.append(
                {
                    "title": title,
                    "told": told_,
                    "file": file,
                    "width": shown.width,
                    "height": shown.height,
                    "tiles": shown.tiles,
                }
            )
    rows = [duel.a.rows[0], duel.b.rows[0]]
    curves = pictures(
        ("Training: PGD-10 on validation images", figures.training(rows), ""),
        (
            "What stood as effort was spent",
            figures.rounds([(method.rows[0], falls.get(method.key)) for method in (duel.a, duel.b)]),
            "",
        ),
        ("After so many restarts", figures.restarts(rows), ""),
        ("Over the radius", figures.eps(rows), ""),
    )
    html = page(
        "pair.html", board, f"{method_name(duel.a)[:40]} and {method_name(duel.b)[:40]}", "../", section.key, section=section,
        part=part, pair=_summary(duel), flips=drawn(bars), flips_told=words_, flipped=sides, curves=curves,
    )  # fmt: skip
    return html, images


def _summary(duel: Duel) -> dict[str, object]:
    found = duel.found
    a, b = method_name(duel.a), method_name(duel.b)
    low, high = (100 * end for end in found.interval)
    winner, loser = (b, a) if found.winner == "B" else (a, b)
    gap = abs(100 * found.difference)
    headline = (
        f"{winner[:60]} beats {loser[:60]} by {gap:.1f} points of robust accuracy on the same {found.n:,} images."
        if found.winner
        else f"Not settled: they are {gap:.1f} points apart on the same {found.n:,} images"
        + ("." if found.p is not None else ", and with one seed on a side no test between seeds is possible.")
    )
    sentences = []
    if found.only_a is not None and found.only_b is not None:
        sentences.append(
            f"Only A keeps {found.only_a} images, only B {found.only_b}; the rest says nothing about who is better."
        )
    if not found.winner and found.needed:
        unit = "samples" if found.only_a is not None else "seeds on either side"
        sentences.append(
            f"About {found.needed:,.0f} {unit} would settle it at p < {ALPHA} with power 0.8, if what was seen is the truth."
        )
    test = (
        "exact McNemar"
        if found.only_a is not None
        else "Welch's t test between seeds"
        if found.p is not None
        else "one seed on a side"
    )
    settled = f"{winner} is better" if found.winner else "open"
    return {
        "a": a, "b": b, "a_key": duel.a.key, "b_key": duel.b.key, "file": duel.file, "settled": settled, "headline": headline,
        "a_robust": percent(100 * found.a.mean), "b_robust": percent(100 * found.b.mean),
        "a_told": _seeds(found.a.accuracies), "b_told": _seeds(found.b.accuracies),
        "difference": f"{100 * found.difference:+z.1f}", "interval": f"{low:+z.1f} to {high:+z.1f}",
        "p": "-" if found.p is None else f"{found.p:.2g}", "test": test, "sentences": sentences, "notes": list(found.notes),
    }  # fmt: skip


def _seeds(accuracies: Sequence[float]) -> str:
    return f"mean of {len(accuracies)} seeds" if len(accuracies) > 1 else "one seed"
