"""The page of one board: its rows, the broken ones apart, and what others have published beside ours, without a rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from bench import escape
from bench.compare import TwoPlans
from bench.files import write_text
from bench.report.entries import Entry
from bench.report.pages import Skip, render

BROKEN = (
    "Defenses that are broken on purpose, to see that the diagnosis tells them: their numbers are no robustness and have no "
    "rank."
)
PUBLISHED = (
    "What others have published, measured by themselves on networks of their own; it stands beside ours to be compared by a "
    "reader, and has no rank."
)

BESIDE = (
    "The same networks on the samples that both plans were asked for, the only ones to compare two plans on; examples sent in "
    "later do not count. alone: what stands under this plan and falls under the other."
)


class Figure(NamedTuple):
    """A published number, and ours of the same row."""

    row: str
    source: str
    clean: float | None
    robust: float | None
    """In percent, as the other one."""
    attack: str
    n: int | None
    note: str
    ours: Sequence[Entry]


class Count(NamedTuple):
    """How many of the cards that a board asks for are here, of a row under a plan."""

    row: str
    plan: str
    there: int
    asked: int


class Beside(NamedTuple):
    """A network under two plans."""

    row: str
    seed: int
    plans: TwoPlans


class Page(NamedTuple):
    """All that a board shows."""

    title: str
    about: str
    rows: Sequence[Entry]
    broken: Sequence[Entry]
    published: Sequence[Figure]
    skips: Sequence[Skip]
    beside: Sequence[Beside]
    counts: Sequence[Count]
    """Of all that the board asks for, so that the page says what is missing."""


def write_board(path: Path, page: Page) -> None:
    """Write the page as Markdown; the same cards give the same bytes."""
    paragraphs = re.split(r"\n\s*\n", page.about.strip())
    about = "".join(f"{escape.markdown(' '.join(one.split()))}\n\n" for one in paragraphs if one)
    parts = [f"# {escape.markdown(page.title)}\n\n{about}"]
    if page.rows:
        parts.append(_below(render(page.rows, "md", page.skips)))
    if page.beside:
        parts.append(f"## Under two plans\n\n{BESIDE}\n\n{_pairs(page.beside)}\n")
    if page.broken:
        parts.append(f"## Broken on purpose\n\n{BROKEN}\n\n{_below(render(page.broken, 'md', ranked=False), deeper=True)}")
    if page.published:
        parts.append(f"## Published\n\n{PUBLISHED}\n\n{_figures(page.published)}\n")
    if missing := [one for one in page.counts if one.there < one.asked]:
        parts.append(f"## Not here\n\n{_missing(missing, page.counts)}\n")
    write_text(path, "\n".join(part.strip("\n") + "\n" for part in parts))


def _pairs(beside: Sequence[Beside]) -> str:
    """A table for every pair of plans, in the order of the board's rows."""
    pairs: dict[tuple[str, str], list[Beside]] = {}
    for one in beside:
        pairs.setdefault((one.plans.a.card.plan.name, one.plans.b.card.plan.name), []).append(one)
    return "\n\n".join(_pair(a, b, rows) for (a, b), rows in pairs.items())


def _pair(a: str, b: str, rows: Sequence[Beside]) -> str:
    fewer = [sum(one.plans.standing[k] < one.plans.standing[1 - k] for one in rows) for k in (0, 1)]
    table = [
        [escape.markdown(one.row), one.seed, one.plans.n, *(f"{100 * left / one.plans.n:.1f}" for left in one.plans.standing),
         *one.plans.alone]
        for one in rows
    ]  # fmt: skip
    heads = ["row", "seed", "n", a, b, f"{a} alone", f"{b} alone"]
    right = (None, *["right"] * (len(heads) - 1))
    networks = "network" if len(rows) == 1 else "networks"
    told = f"{a} leaves fewer samples on {fewer[0]} of {len(rows)} {networks}, {b} on {fewer[1]}."
    return f"### {a} and {b}\n\n{told}\n\n" + str(
        tabulate(table, headers=heads, tablefmt="github", disable_numparse=True, colalign=right)
    )


def _missing(missing: Sequence[Count], counts: Sequence[Count]) -> str:
    """What the board asks for and has no card of, a line for each plan."""
    left, asked = sum(one.asked - one.there for one in missing), sum(one.asked for one in counts)
    head = (
        f"Of the {asked} evaluations that this board asks for {left} {'has' if left == 1 else 'have'} no card here, and ranks "
        "are among the others; in brackets, of several seeds, how many are here."
    )
    plans = groupby(sorted(missing, key=attrgetter("plan")), key=attrgetter("plan"))
    return "\n".join([head, "", *(f"- {plan}: {', '.join(map(_short, rows))}" for plan, rows in plans)])


def _short(count: Count) -> str:
    return escape.markdown(count.row) + (f" ({count.there} of {count.asked})" if count.asked > 1 else "")


def _below(text: str, *, deeper: bool = False) -> str:
    """A rendered leaderboard without its heading, its sections one level deeper where they stand below another."""
    body = text.split("\n", 2)[2]
    return body.replace("\n## ", "\n### ").replace("## ", "### ", 1) if deeper else body


def _figures(published: Sequence[Figure]) -> str:
    """What was published, a row each; columns that nobody fills are left out."""
    rows = [
        {
            "row": one.row, "clean": _number(one.clean), "robust": _number(one.robust), "measured with": one.attack,
            "n": str(one.n or ""), "ours": _ours(one.ours), "note": one.note, "source": one.source,
        }
        for one in published
    ]  # fmt: skip
    filled = [key for key in rows[0] if any(row[key] for row in rows)]
    content = [{key: escape.markdown(row[key]) or "-" for key in filled} for row in rows]
    return str(tabulate(content, headers="keys", tablefmt="github", disable_numparse=True))


def _number(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"


def _ours(entries: Sequence[Entry]) -> str:
    """Our robust accuracy under each plan, as a mean where there are several seeds."""
    plans: dict[tuple[str, int], list[float]] = {}
    for entry in entries:
        plans.setdefault((entry.card.plan.name, entry.card.n), []).append(entry.card.robust_accuracy)
    told = [
        f"{100 * sum(shares) / len(shares):.2f} under {plan}, n {n}" + (f", {len(shares)} seeds" if len(shares) > 1 else "")
        for (plan, n), shares in plans.items()
    ]
    return "; ".join(told)
