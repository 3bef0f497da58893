"""A folder of results as one value, which pages, files and terminals show: a pure function of what lies there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bench.compare import methods, remarks
from bench.errors import GauntletError
from bench.report.entries import Entry, Read, chosen
from bench.report.history import History, read_history
from bench.report.naming import slug
from bench.report.pages import Skip, doubts_of, read_skips, remarks_on, shown_columns
from bench.report.tables import PLACES, placed
from bench.verify import Check

Cells = Mapping[str, object]
"""What the columns of the leaderboard say of a line."""


class Row(NamedTuple):
    """One evaluation."""

    key: str
    """A plain name for its page, of its own."""
    where: str
    """Its folder, from that of the results."""
    entry: Entry
    cells: Cells
    checks: tuple[Check, ...]
    """What a card and its files say of each other; no model and no data are needed for it."""
    history: History | None
    """Of its training, epoch by epoch."""
    told: tuple[str, ...]
    """What could not be read beside it."""

    @property
    def fails(self) -> tuple[str, ...]:
        """What does not hold, a sentence each."""
        return tuple(f"{check.name}: {told}" for check in self.checks if check.ok is False for told in check.told)


class Method(NamedTuple):
    """Trainings that differ in nothing but the seed."""

    key: str
    rows: tuple[Row, ...]
    cells: Cells


class Part(NamedTuple):
    """What one plan measured: methods in the order of the leaderboard, which are ranked among themselves."""

    key: str
    plan: str
    columns: tuple[str, ...]
    """Those that say something here."""
    methods: tuple[Method, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every evaluation, method by method."""
        return tuple(row for method in self.methods for row in method.rows)


class Section(NamedTuple):
    """A data set under a threat model; the numbers of its plans are not to be compared."""

    key: str
    dataset: str
    threat: str
    parts: tuple[Part, ...]
    skips: tuple[str, ...]
    """Why a defense has no row."""


class Leaderboard(NamedTuple):
    """Everything that is known of a folder of results."""

    sections: tuple[Section, ...]
    refused: tuple[str, ...]
    """What was left out and why, and what does not hold of the rows that are shown."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every evaluation."""
        return tuple(row for section in self.sections for part in section.parts for row in part.rows)


def read_leaderboard(results: Path, *, every: bool = False, verified: bool = False, read: Read | None = None) -> Leaderboard:
    """The board of a folder; every and verified as for the leaderboard. Nothing damaged stops it.

    read: what `read_entries` gave, where somebody has read it already; with falls, for pages.
    """
    entries, refused = chosen(results, every=every, verified=verified, read=read)
    return leaderboard_of(entries, results, refused, read_skips(results))


def leaderboard_of(
    entries: Sequence[Entry], results: Path, refused: Sequence[str] = (), skips: Sequence[Skip] = ()
) -> Leaderboard:
    """The same of entries that were read from a folder."""
    rows = _rows(entries, results)
    table = [part for _, part in placed(entries, "method").groupby(["dataset", "threat"], sort=True)] if entries else []
    told = [sentence.replace(f"{results}/", "") for sentence in refused]
    told += [f"{row.where}: {fault}" for row in rows for fault in row.fails]
    remark = remarks([e.card for e in entries], [e.outcomes for e in entries], methods([e.card for e in entries]))
    found = []
    for part in table:
        dataset, threat = str(part["dataset"].iloc[0]), str(part["threat"].iloc[0])
        key = slug(f"{dataset} {threat}", f"{dataset}\0{threat}")
        parts = [
            _part(own, rows, remark.get((dataset, threat, str(plan)), "")) for plan, own in part.groupby("plan", sort=True)
        ]
        parts.sort(key=lambda one: -len(one.rows))
        why = [
            f"{skip['name']} skipped: {skip['reason']}"
            for skip in skips
            if (skip["dataset"], skip["threat"]) == (dataset, threat)
        ]
        found.append(Section(key, dataset, threat, tuple(parts), tuple(why)))
    return Leaderboard(tuple(found), tuple(told))


def _rows(entries: Sequence[Entry], results: Path) -> list[Row]:
    """Every entry with what lies beside it, in their order."""
    rows = []
    by_seed = placed(entries, "seed").to_dict("records") if entries else []
    cells = {line[PLACES][0]: {str(key): value for key, value in line.items()} for line in by_seed}
    for place, entry in enumerate(entries):
        where = _below(entry.path.parent, results)
        seed = entry.card.model.training.get("seed", "")
        key = slug(f"{entry.card.name} {f's{seed}' if seed != '' else ''}", f"{where}\0{entry.path.name}")
        told, history = [], None
        try:
            history = read_history(entry.path.parent.parent / "train.json")
        except GauntletError as error:
            told.append(str(error).replace(f"{results}/", ""))
        rows.append(Row(key, where, entry, cells[place], entry.checks, history, tuple(told)))
    return rows


def _below(folder: Path, results: Path) -> str:
    return str(folder.relative_to(results)) if folder.is_relative_to(results) else str(folder)


def _part(table: pd.DataFrame, rows: Sequence[Row], remark: str) -> Part:
    found = []
    for line in table.to_dict("records"):
        own = sorted((rows[place] for place in line[PLACES]), key=lambda row: _seed(row.cells["seed"]))
        found.append(Method(own[0].key, tuple(own), {str(key): value for key, value in line.items()}))
    here = [row.entry for method in found for row in method.rows]
    shown = shown_columns(table.drop(columns=PLACES), ranked=bool(remark), proof=True)
    notes = [*([remark] if remark else []), *doubts_of(here), *remarks_on(shown, here)]
    return Part(found[0].key, str(table["plan"].iloc[0]), tuple(map(str, shown.columns)), tuple(found), tuple(notes))


def _seed(text: object) -> tuple[int, str]:
    return (int(str(text)) if str(text).lstrip("-").isdigit() else 0, str(text))
