"""The leaderboard: a pure function of the cards below a folder, so that the same cards give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tabulate import tabulate

from bench.compare import known_outcomes, ranks, remarks, section
from bench.errors import BadInput, GauntletError, UnknownName
from bench.files import below, write_text
from bench.results import GAP, ORDER, Card, Outcomes, read_card

FORMATS = ("md", "csv", "tex", "html")


Skip = dict[str, str]


def read_skips(results: Path) -> list[Skip]:
    """Why some defenses have no row: name, dataset, threat and reason of each."""
    skips = []
    for path in below(results, "*-skipped.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("schema_version", 1) != 1:
                continue
            skips.append({key: str(content[key]) for key in ("name", "dataset", "threat", "reason")})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return skips


def read_cards(results: Path) -> tuple[list[Card], list[str]]:
    """Every readable card below a folder in the order of their paths, and a sentence for each that is not."""
    rows, refused = read_rows(results)
    return [card for card, _ in rows], refused


def read_rows(results: Path) -> tuple[list[tuple[Card, Path]], list[str]]:
    """The same, each card with its path."""
    if not results.is_dir():
        raise BadInput(f"no results folder at {results}; `gauntlet run` makes one")
    rows, refused = [], []
    for path in below(results, "card.json"):
        try:
            rows.append((read_card(path), path))
        except GauntletError as error:
            refused.append(str(error))
    return rows, refused


def leaderboard(cards: Iterable[Card], outcomes: Sequence[Outcomes | None] = ()) -> pd.DataFrame:
    """One row per card; most robust first within a data set, threat model and plan. Accuracies are in percent.

    outcomes: those of every card, as far as its records are there; without them ranks are wider (see bench.compare.bands).
    """
    cards = list(cards)
    if not cards:
        return pd.DataFrame()
    table = pd.DataFrame([_row(card) for card in cards])
    table.insert(list(table.columns).index("plan") + 1, "rank", ranks(cards, outcomes or [None] * len(cards)))
    if all(card.eight_bit_accuracy is None for card in cards):
        table = table.drop(columns="8-bit")
    attacks = dict.fromkeys(attack.name for card in cards for attack in card.attacks)
    # Cards of other plans bring columns of their own, which would end up behind the rest.
    place = list(table.columns).index("clean") + 1
    others = [name for name in table.columns if name not in attacks]
    table = table[[*others[:place], *attacks, *others[place:]]]
    # What cannot be trusted never stands above what can.
    order = ["dataset", "threat", "plan", "_doubt", "robust", "clean", "defense", "seed", "_key"]
    rising = [True, True, True, True, False, False, True, True, True]
    return table.sort_values(order, ascending=rising, kind="stable", ignore_index=True).drop(columns=["_key", "_doubt"])


def _row(card: Card) -> dict[str, object]:
    training = card.model.training
    passes = training.get("backwards_per_sample")
    low, high = card.interval
    return {
        "dataset": card.dataset,
        "threat": f"{card.threat.norm} {card.threat.eps}",
        "plan": card.plan.name,
        "defense": card.name,
        "model": card.model.arch,
        "seed": training.get("seed", ""),
        "n": card.n,
        "clean": 100 * card.clean_accuracy,
        **{attack.name: 100 * attack.robust_accuracy for attack in card.attacks},
        "robust": 100 * card.robust_accuracy,
        "95% interval": f"{100 * low:.1f}-{100 * high:.1f}",
        "8-bit": "" if card.eight_bit_accuracy is None else 100 * card.eight_bit_accuracy,
        "certified": 100 * card.certified.accuracy if card.certified else "",
        "collapse": _collapse(card),
        "verdict": NOT_COMPARABLE if card.batch_dependent and not card.diagnosis else card.verdict or "",
        "train passes": "" if passes is None else f"{passes:.0f}",
        "notes": len(card.notes) or "",
        "_key": card.model.digest,
        "_doubt": len(ORDER) if card.batch_dependent else ORDER.index(card.verdict or "ok"),
    }


def _collapse(card: Card) -> str | int:
    """The epoch of a collapse; "masked" where FGSM never stopped overestimating, as when there was nothing to fall from."""
    training = card.model.training
    if not training:
        return ""
    return training.get("collapse_epoch") or ("masked" if training.get("single_step_gap", 0) > GAP else "no")


def render(
    cards: Sequence[Card],
    form: str,
    skips: Sequence[Skip] = (),
    outcomes: Sequence[Outcomes | None] = (),
    *,
    ranked: bool = True,
) -> str:
    """The leaderboard as md, csv, tex (booktabs), html or text; a section per data set, threat and plan."""
    if form not in (*FORMATS, "text"):
        raise UnknownName("format", form, [*FORMATS, "all"])
    table = leaderboard(cards, outcomes)
    remark = remarks(cards, outcomes or [None] * len(cards)) if ranked else {}
    if form == "csv":
        return str(table.to_csv(index=False, float_format="%.2f", lineterminator="\n"))
    sections = []
    if len(table):
        for (dataset, threat, plan), part in table.groupby(["dataset", "threat", "plan"], sort=True):
            told = remark.get((str(dataset), str(threat), str(plan)))
            columns = [name for name in part.columns if name not in ("dataset", "threat", "plan", *(() if told else ("rank",)))]
            shown = part[columns].dropna(axis="columns", how="all")
            shown = shown.loc[:, [name for name in shown.columns if (shown[name].astype(str) != "").any()]]
            left = [
                f"{skip['name']} skipped: {skip['reason']}"
                for skip in skips
                if (skip["dataset"], skip["threat"]) == (dataset, threat)
            ]
            if told:
                left.append(told)
            if ranked:
                left += _doubts(card for card in cards if section(card) == (dataset, threat, plan))
            if "8-bit" in shown.columns:
                left.append(EIGHT_BIT)
            if "verdict" in shown.columns and (shown["verdict"] == NOT_COMPARABLE).any():
                left.append(f"{NOT_COMPARABLE}: the answer to an image depends on the others in its batch; no rank")
            if "certified" in shown.columns:
                left.append("certified: right and proven so, which no attack can go below (smoothing proves up to its alpha)")
                left += [
                    f"{card.name}: {card.certified.contradicted} samples that it says are certain were broken all the same"
                    for card in cards
                    if card.certified and card.certified.contradicted and section(card) == (dataset, threat, plan)
                ]
            sections.append(Section(f"{dataset} · {threat} · plan {plan}", shown, left))
    return {"md": _markdown, "tex": _latex, "html": _html, "text": _text}[form](sections)


def _doubts(cards: Iterable[Card]) -> list[str]:
    """What evaluations noticed of the gradients of rows that no diagnosis has looked at."""
    return [
        f"{card.name}: {finding.check}: {finding.told}"
        for card in cards
        for finding in card.noticed
        if finding.verdict != "ok" and card.diagnosis is None
    ]


class Section(NamedTuple):
    """One table of the leaderboard, and what is to be said below it, such as why a defense has no row in it."""

    title: str
    frame: pd.DataFrame
    notes: list[str]


NOT_COMPARABLE = "not comparable"
EIGHT_BIT = "8-bit: robust where an adversarial example has to survive rounding to 256 levels, which no attack here aims at"
LEGEND = (
    "Accuracies in percent over n test samples. robust: right on the clean image and against every attack of the plan, "
    "per sample; the interval is Wilson's. train passes: backward passes per training sample."
)


def summary(rows: Sequence[tuple[Card, Path]]) -> str:
    """What an evaluation prints: the rows, what the reader must know about them, and where the cards are."""
    lines = []
    for card, _ in rows:
        if card.curve:
            points = (f"{point.eps} {point.robust_accuracy:.1%}" for point in card.curve)
            lines.append(f"robust accuracy over eps: {', '.join(points)}")
        lines += [f"note: {a.name}: the gradient looks masked: {a.masked}" for a in card.attacks if a.masked]
        lines += [f"note: {note}" for note in dict.fromkeys(card.notes)]
        if card.eot > 1:
            lines.append(f"note: a randomised model; attacks saw the mean of {card.eot} answers, fresh draws judged them")
    lines += [f"card: {path}" for _, path in rows]
    return "\n".join([render([card for card, _ in rows], "text", ranked=False), *lines])


def _table(frame: pd.DataFrame, style: str) -> str:
    return str(tabulate(frame.to_dict("list"), headers="keys", tablefmt=style, floatfmt=".1f", missingval="-"))


def _markdown(sections: Sequence[Section]) -> str:
    body = ""
    for title, frame, notes in sections:
        body += f"## {title}\n\n{_table(frame, 'github')}\n\n" + "".join(f"{line}\n\n" for line in notes)
    return f"# Leaderboard\n\n{body}{LEGEND}\n"


def _text(sections: Sequence[Section]) -> str:
    body = ""
    for title, frame, notes in sections:
        body += f"{title}\n{_table(frame, 'simple')}\n" + "".join(f"{line}\n" for line in notes) + "\n"
    return body + LEGEND


def _latex(sections: Sequence[Section]) -> str:
    special = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "·": "--"})
    parts = [
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\caption{{{title.translate(special)}}}\n"
        f"{_table(frame, 'latex_booktabs')}\n\\end{{table}}\n"
        for title, frame, _ in sections
    ]
    return "\n".join(parts)


def _html(sections: Sequence[Section]) -> str:
    body = ""
    for title, frame, notes in sections:
        body += f"<h2>{escape(title)}</h2>\n{_table(frame, 'html')}\n" + "".join(f"<p>{escape(line)}</p>\n" for line in notes)
    return _PAGE.format(body=body, legend=escape(LEGEND))


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


def write_leaderboard(results: Path, forms: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Write leaderboard.md, .csv, .tex or .html into the results folder; returns the files and what was refused."""
    rows, refused = read_rows(results)
    if not rows:
        raise BadInput(f"no cards below {results}; `gauntlet run` or `gauntlet evaluate` writes them")
    written, skips = [], read_skips(results)
    cards, outcomes = [card for card, _ in rows], [known_outcomes(card, path) for card, path in rows]
    for form in forms:
        text = render(cards, form, skips, outcomes)
        path = results / f"leaderboard.{form}"
        write_text(path, text)
        written.append(path)
    return written, refused
