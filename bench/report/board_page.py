"""The page of one board: its rows, the broken ones apart, and what others have published beside ours, without a rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from bench import escape
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


class Page(NamedTuple):
    """All that a board shows."""

    title: str
    about: str
    rows: Sequence[Entry]
    broken: Sequence[Entry]
    published: Sequence[Figure]
    skips: Sequence[Skip]


def write_board(path: Path, page: Page) -> None:
    """Write the page as Markdown; the same cards give the same bytes."""
    about = f"{escape.markdown(page.about)}\n\n" if page.about else ""
    parts = [f"# {escape.markdown(page.title)}\n\n{about}"]
    if page.rows:
        parts.append(_below(render(page.rows, "md", page.skips)))
    if page.broken:
        parts.append(f"## Broken on purpose\n\n{BROKEN}\n\n{_below(render(page.broken, 'md', ranked=False), deeper=True)}")
    if page.published:
        parts.append(f"## Published\n\n{PUBLISHED}\n\n{_figures(page.published)}\n")
    write_text(path, "\n".join(part.strip("\n") + "\n" for part in parts))


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
