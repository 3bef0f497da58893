"""The leaderboard for a reader: Markdown, CSV, LaTeX, HTML and the terminal, from the one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from tabulate import tabulate

from bench import escape
from bench.compare import ON_PURPOSE, methods, remarks, sections
from bench.errors import BadInput, UnknownName
from bench.files import below, read_json, regular, write_text
from bench.report.entries import Entry, Read, chosen, entry_of
from bench.report.naming import slug
from bench.report.paper import latex, samples
from bench.report.tables import CONSTANT, NOT_COMPARABLE, leaderboard
from bench.results import Card

FORMATS = ("md", "csv", "tex", "html")
STATED = (
    "proof: audited, where the board's maintainer also attacked some samples again; proved, where records and examples lie "
    "beside the card and agree with it (`gauntlet verify` judges them by the model); stated, where the number is the card's "
    "word alone"
)
OURS = (STATED,)
"""Notes that are Markdown already; every other may hold a name."""
SEVERAL = (
    "sd: of robust accuracy between the seeds of a training; then accuracies are means, and the interval is that of their "
    "mean, for other seeds and other samples"
)

Skip = dict[str, str]
NOTE = 2**16
"""Bytes of a note on a defense that was skipped, at most."""


def read_skips(results: Path) -> list[Skip]:
    """Why some defenses have no row: name, dataset, threat and reason of each."""
    skips = []
    for path in below(results, "*-skipped.json"):
        try:
            regular(path, NOTE)
            content = read_json(path, NOTE)
            if content.get("schema_version", 1) != 1:
                continue
            skips.append({key: escape.line(content[key])[:1000] for key in ("name", "dataset", "threat", "reason")})
        except (BadInput, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return skips


def render(
    entries: Sequence[Entry],
    form: str,
    skips: Sequence[Skip] = (),
    *,
    by: Literal["method", "seed"] = "method",
    ranked: bool = True,
    width: int | None = None,
) -> str:
    """The leaderboard as md, csv, tex (booktabs), html or text; a section per data set, threat and plan.

    width: characters that a line of text has; columns that do not fit are left out and named. None for any.
    """
    if form not in (*FORMATS, "text"):
        raise UnknownName("format", form, [*FORMATS, "all"])
    if form == "csv":
        return str(
            _cells(leaderboard(entries, by="seed"), escape.csv).to_csv(index=False, float_format="%.2f", lineterminator="\n")
        )
    table, cards = leaderboard(entries, by=by), [entry.card for entry in entries]
    remark = remarks(cards, [entry.outcomes for entry in entries], methods(cards)) if ranked else {}
    parts = []
    if len(table):
        every = sections(cards)
        seeds = leaderboard(entries, by="seed") if by == "method" and form in ("md", "html") else table[:0]
        for (dataset, threat, plan), part in table.groupby(["dataset", "threat", "plan"], sort=True):
            place = (str(dataset), str(threat), str(plan))
            told = remark.get(place)
            here = [entry for entry, section in zip(entries, every, strict=True) if section == place]
            notes = [
                f"{skip['name']} skipped: {skip['reason']}" for skip in skips if (skip["dataset"], skip["threat"]) == place[:2]
            ]
            shown = shown_columns(part, ranked=bool(told), proof=ranked)
            notes += [told] if told else []
            notes += doubts_of(here) if ranked else []
            parts.append(Section(f"{dataset} · {threat} · plan {plan}", shown, [*notes, *remarks_on(shown, here)]))
            if "sd" in shown.columns and len(seeds):
                alike = ["dataset", "threat", "plan", "defense", "model", "differs in"]
                own = seeds.merge(part.loc[part["seeds"] > 1, alike], on=alike)
                parts.append(
                    Section(f"{dataset} · {threat} · plan {plan} · each seed", shown_columns(own, ranked=False, proof=True), [])
                )
    if form == "text":
        return _text(parts, width)
    return {"md": _markdown, "tex": _latex, "html": _html}[form](parts)


def shown_columns(part: pd.DataFrame, *, ranked: bool, proof: bool) -> pd.DataFrame:
    """The columns of a section that say something: none that is empty, nor a plan of one attack beside robust.

    proof: whether to say what stands behind rows that are all proved, too.
    """
    hidden = {"dataset", "threat", "plan", *(() if ranked else ("rank",))}
    if not proof and (part["proof"] != "stated").all():
        hidden.add("proof")
    shown = part[[name for name in part.columns if name not in hidden]].dropna(axis="columns", how="all")
    if "seeds" in shown.columns and (shown["seeds"] == 1).all():
        shown = shown.drop(columns="seeds")
    plan = str(part["plan"].iloc[0]).removesuffix(ON_PURPOSE)
    # The column "robust" is ours, and no attack's.
    if plan != "robust" and plan in shown.columns and shown[plan].equals(shown["robust"].rename(plan)):
        shown = shown.drop(columns=plan)
    return shown.loc[:, [name for name in shown.columns if (shown[name].astype(str) != "").any()]]


def doubts_of(entries: Sequence[Entry]) -> list[str]:
    """What evaluations noticed of the gradients of rows that no diagnosis has looked at."""
    return [
        f"{card.name}: {finding.check}: {finding.told}"
        for card in (entry.card for entry in entries)
        for finding in card.noticed
        if finding.verdict != "ok" and card.diagnosis is None
    ]


def remarks_on(shown: pd.DataFrame, entries: Sequence[Entry]) -> list[str]:
    """What is to be said below a section."""
    told = [EIGHT_BIT] if "8-bit" in shown.columns else []
    if "sd" in shown.columns:
        told.append(SEVERAL)
    if "proof" in shown.columns:
        told.append(STATED)
    if "verdict" in shown.columns and (shown["verdict"] == NOT_COMPARABLE).any():
        told.append(f"{NOT_COMPARABLE}: the answer to an image depends on the others in its batch; no rank")
    if any(entry.card.constant for entry in entries):
        told.append(f"{CONSTANT}: one class is answered to (almost) every image, whatever it shows; no rank")
    told += dict.fromkeys(f"{entry.card.name}: warning: {warning}" for entry in entries for warning in entry.card.warnings)
    if "certified" in shown.columns:
        told.append("certified: right and proven so, which no attack can go below (smoothing proves up to its alpha)")
    told += [entry.lowered for entry in entries if entry.lowered]
    for card in (entry.card for entry in entries):
        if card.certified and card.certified.contradicted:
            told.append(
                f"{card.name}: of the samples that it says are certain, {card.certified.contradicted} fell all the same"
            )
    return told + _handed_in(entries)


def _handed_in(entries: Sequence[Entry]) -> list[str]:
    """Whose examples lowered which method, and by how many samples, seed after seed."""
    found: dict[tuple[str, str], list[int]] = {}
    for card in (entry.card for entry in entries):
        for addition in card.additions:
            found.setdefault((card.name, addition.by), []).append(addition.broken)
    return [
        f"{name}: lowered with examples of {by} ({', '.join(map(str, counts))} sample{'s' if sum(counts) > 1 else ''})"
        for (name, by), counts in found.items()
    ]


class Section(NamedTuple):
    """One table of the leaderboard, and what is to be said below it, such as why a defense has no row in it."""

    title: str
    frame: pd.DataFrame
    notes: list[str]


EIGHT_BIT = "8-bit: robust where an adversarial example has to survive rounding to 256 levels, which no attack here aims at"
LEGEND = (
    "Accuracies in percent over n test samples. robust: right on the clean image and against every attack of the plan, "
    "per sample; the interval is Wilson's. train passes: backward passes per training sample."
)
UNPROVED = ("collapse", "certified", "verdict", "train passes")
"""Columns that are the card's word, whatever stands behind the robust accuracy."""


def summary(rows: Sequence[tuple[Card, Path]], told: Sequence[str] = (), width: int | None = None) -> str:
    """What an evaluation prints: the rows, what the reader must know about them, and where the cards are.

    told: what of each row is not the work of this run. width: characters of a line, None for any.
    """
    lines = []
    for card, _ in rows:
        if card.curve:
            points = (f"{point.eps} {point.robust_accuracy:.1%}" for point in card.curve)
            lines.append(f"robust accuracy over eps: {', '.join(points)}")
        if card.data.taken:
            lines.append(f"samples: {card.data.taken}")
        lines += [f"note: {a.name}: the gradient looks masked: {a.masked}" for a in card.attacks if a.masked]
        lines += [f"note: {note}" for note in dict.fromkeys(card.notes)]
        if card.eot > 1:
            lines.append(f"note: a randomised model; attacks saw the mean of {card.eot} answers, fresh draws judged them")
    lines += [f"note: {sentence}" for sentence in dict.fromkeys(told) if sentence]
    lines += [f"card: {path}" for _, path in rows]
    entries = [entry_of(card, path) for card, path in rows]
    return "\n".join([render(entries, "text", by="seed", ranked=False, width=width), *map(escape.line, lines)])


def _table(frame: pd.DataFrame, style: str) -> str:
    # What HTML and LaTeX act on is tabulate's to escape.
    plain = _cells(frame, escape.markdown if style == "github" else escape.line)
    content = plain.astype(object).where(plain.notna(), None).to_dict("list")
    return str(tabulate(content, headers="keys", tablefmt=style, floatfmt=".1f", missingval="-"))


def _cells(frame: pd.DataFrame, escaped: Callable[[object], str]) -> pd.DataFrame:
    """The same table with its texts, and the names of its columns, escaped; numbers are numbers."""
    return frame.rename(columns=escaped).map(lambda value: escaped(value) if isinstance(value, str) else value)


def _legend(sections: Sequence[Section]) -> str:
    """What the columns are, and which of those shown no example proves."""
    *others, last = [name for name in UNPROVED if any(name in section.frame.columns for section in sections)] or [""]
    if not last:
        return LEGEND
    named = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return f"{LEGEND} {named} stated by the card; no example proves {'them' if others else 'it'}."


def _markdown(sections: Sequence[Section]) -> str:
    body = ""
    for title, frame, notes in sections:
        told = "".join(f"{note if note in OURS else escape.markdown(note)}\n\n" for note in notes)
        body += f"## {escape.markdown(title)}\n\n{_table(frame, 'github')}\n\n{told}"
    return f"# Leaderboard\n\n{body}{_legend(sections)}\n"


def _text(sections: Sequence[Section], width: int | None = None) -> str:
    """For a terminal of so many characters; None for any."""
    body = ""
    for title, frame, notes in sections:
        shown, left = _fitting(frame, width)
        told = "".join(f"{escape.line(note)}\n" for note in notes)
        if left:
            named = escape.line(", ".join(left))
            told = f"left out to fit {width} characters: {named}; `gauntlet leaderboard` writes every column\n{told}"
        body += f"{escape.line(title)}\n{_table(shown, 'simple')}\n{told}\n"
    return body + _legend(sections)


_KEPT = (
    "defense", "robust", "rank", "seed", "seeds", "n", "clean", "95% interval", "verdict", "sd", "certified", "differs in",
    "collapse", "train passes", "model", "proof", "8-bit", "notes",
)  # fmt: skip
"""Columns that a narrow terminal keeps, the dearest first; those of attacks come before the last five."""


def _fitting(frame: pd.DataFrame, width: int | None) -> tuple[pd.DataFrame, list[str]]:
    """The columns that fit, in their order, and those that do not."""
    names = [str(name) for name in frame.columns]
    if width is None:
        return frame, []
    attacks = [name for name in names if name not in _KEPT]
    dearest = [name for name in (*_KEPT[:-5], *attacks, *_KEPT[-5:]) if name in names]
    kept = list(dearest)
    while len(kept) > 2 and _width(frame[[name for name in names if name in kept]]) > width:
        kept.pop()
    return frame[[name for name in names if name in kept]], [name for name in names if name not in kept]


def _width(frame: pd.DataFrame) -> int:
    return max(map(len, _table(frame, "simple").splitlines()))


def _latex(sections: Sequence[Section]) -> str:
    parts = []
    for title, frame, _ in sections:
        lines = [{str(key): value for key, value in line.items()} for line in frame.to_dict("records")]
        caption = f"{title.replace(' · ', ', ')[:200]}, {samples(lines)}"
        parts.append(latex(lines, set(map(str, frame.columns)), caption, slug(title, title)))
    return "\n".join(parts)


def _html(sections: Sequence[Section]) -> str:
    body = ""
    for title, frame, notes in sections:
        told = "".join(f"<p>{escape.html(note)}</p>\n" for note in notes)
        body += f"<h2>{escape.html(title)}</h2>\n{_table(frame, 'html')}\n{told}"
    return _PAGE.format(body=body, legend=escape.html(_legend(sections)))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Gauntlet leaderboard</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1b1f; }}
table {{ border-collapse: collapse; margin: 0 0 2rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .8rem; border-bottom: 1px solid #ddd; white-space: nowrap; }}
thead th {{ border-bottom: 2px solid #1b1b1f; }}
tbody tr:hover {{ background: #f5f5f7; }}
</style>
</head>
<body>
<h1>Gauntlet leaderboard</h1>
{body}<p>{legend}</p>
</body>
</html>
"""


def write_leaderboard(
    results: Path, forms: Sequence[str], *, every: bool = False, verified: bool = False, read: Read | None = None
) -> tuple[list[Path], list[str]]:
    """Write leaderboard.md, .csv, .tex or .html into the results folder; returns the files, and what was left out and why.

    every: all evaluations of a model in a section, not only the one with most samples. verified: none whose number is stated.
    read: what `read_entries` gave, where somebody has read it already.
    """
    entries, refused = chosen(results, every=every, verified=verified, read=read)
    written, skips = [], read_skips(results)
    for form in forms:
        path = results / f"leaderboard.{form}"
        write_text(path, render(entries, form, skips))
        written.append(path)
    return written, refused
