"""One folder of static files from a folder of results: it opens from disk, asks nothing of a network, and runs no attack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import NamedTuple

from bench.errors import BadInput
from bench.files import LOCK, Reporter, alone, write_text
from bench.report import Falls, Leaderboard, Part, Read, Section, read_entries, read_leaderboard, render
from bench.report.paper import latex
from bench.site import pages
from bench.site.asked import Examples, examples_of
from bench.site.documents import documents
from bench.site.markup import asset, columns
from bench.site.pairs import MOST, duels, transfers

MARK = "gauntlet-report"
"""A file that says the folder is ours to renew."""


class Written(NamedTuple):
    """What was made."""

    first: Path
    pages: int
    refused: tuple[str, ...]


def write_report(
    results: Path,
    out: Path | None = None,
    *,
    every: bool = False,
    galleries: bool = True,
    quiet: bool = False,
    read: Read | None = None,
) -> Written:
    """Write the site of a results folder into out, by default its own `report`; an earlier one there is replaced.

    galleries: show samples, and ask the networks that are here what they take them for. read: what `read_entries` gave, with
    falls, where somebody has read it already.
    """
    out = out or results / "report"
    read = read or read_entries([results], falls=True)
    board = read_leaderboard(results, every=every, read=read)
    _ours(out)
    with Reporter("report", 1, quiet=quiet) as report, alone(out, report.tell):
        _cleared(out)
        site = _Site(out)
        _pages(site, board, results, report, galleries=galleries)
        write_text(out / MARK, "This folder is made by `gauntlet report`, which replaces it.\n")
    return Written(out / "index.html", site.count, board.refused)


def _pages(site: _Site, board: Leaderboard, results: Path, report: Reporter, *, galleries: bool) -> None:
    """Every page and what it shows."""
    docs = documents()
    for name in ("style.css", "board.js"):
        site.text(f"assets/{name}", asset(name))
    for section in board.sections:
        paired = []
        for part in section.parts:
            asked, falls = _rows(site, board, section, part, results, report, galleries=galleries)
            if 1 < len(part.methods) <= MOST and _pairs(site, board, section, part, asked, falls):
                paired.append(part.key)
            _downloads(site, section, part)
        site.text(f"board/{section.key}.html", pages.leaderboard(board, section, paired))
    for doc in docs.pages:
        site.text(f"docs/{doc.page}", pages.document(board, doc, docs.groups))
    for name, content in docs.figures.items():
        site.bytes(f"docs/{name}", content)
    site.text("index.html", pages.index(board, docs.groups))


class _Site:
    """Where files go."""

    def __init__(self, out: Path) -> None:
        self.out, self.count = out, 0

    def text(self, name: str, text: str) -> None:
        self.bytes(name, text.encode("utf-8"))
        self.count += name.endswith(".html")

    def bytes(self, name: str, content: bytes) -> None:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _ours(out: Path) -> None:
    """BadInput where something lies there that is not ours."""
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()) and not (out / MARK).is_file():
        raise BadInput(f"{out} holds files that no report of ours left there; give an empty folder with --out")


def _cleared(out: Path) -> None:
    """An empty folder, but for the lock that we hold and the mark, by which another report always tells that it is ours."""
    try:
        write_text(out / MARK, "")
        for path in out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (LOCK, MARK):
                path.unlink()
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}") from None


def _rows(
    site: _Site, board: Leaderboard, section: Section, part: Part, results: Path, report: Reporter, *, galleries: bool
) -> tuple[dict[str, Examples], dict[str, Falls]]:
    """The pages of a plan's rows; what is known of the first row of each method, for the pages of pairs."""
    asked: dict[str, Examples] = {}
    known: dict[str, Falls] = {}
    compared = {method.key for method in part.methods} if len(part.methods) <= MOST else set()
    for row in part.rows:
        falls = row.entry.falls
        found = examples_of(row) if galleries else None
        html, shown = pages.row_page(board, section, part, row, falls, found, results)
        site.text(f"row/{row.key}.html", html)
        if shown:
            site.bytes(f"row/{row.key}.png", shown.png)
        if row.key in compared and falls:
            known[row.key] = falls
            asked |= {row.key: found} if found else {}
        report.advance(1 / len(board.rows), row.key)
    return asked, known


def _pairs(
    site: _Site, board: Leaderboard, section: Section, part: Part, asked: Mapping[str, Examples], falls: Mapping[str, Falls]
) -> bool:
    """The pages of a plan's pairs; False where there are none."""
    found, failed = duels(part)
    if not found:
        return False
    transfer = transfers(part, asked, falls)
    site.text(f"compare/{part.key}.html", pages.matrix(board, section, part, found, failed, transfer))
    for duel in found:
        html, images = pages.pair_page(board, section, part, duel, asked, falls)
        site.text(f"compare/{duel.file}", html)
        for name, content in images.items():
            site.bytes(f"compare/{name}", content)
    return True


def _downloads(site: _Site, section: Section, part: Part) -> None:
    """The whole table of a plan as files, seed by seed; LaTeX by method."""
    entries = [row.entry for row in part.rows]
    site.text(f"data/{part.key}.csv", render(entries, "csv"))
    shown = [name for name in columns(part) if name != "seeds"]
    lines = [{name: _value(row.cells.get(name)) for name in ("dataset", "threat", "plan", "seed", *shown)} for row in part.rows]
    site.text(f"data/{part.key}.json", json.dumps(lines, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    site.text(
        f"data/{part.key}.tex",
        latex([method.cells for method in part.methods], part.columns, pages.caption(section, part), part.key),
    )


def _value(value: object) -> object:
    if isinstance(value, float):
        return None if isnan(value) else round(value, 2)
    return value if isinstance(value, int | str) or value is None else str(value)
