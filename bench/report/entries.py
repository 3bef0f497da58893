"""The rows below a folder: cards that do not contradict themselves, with what stands beside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from bench.compare import best_of_each_model, known_outcomes
from bench.errors import BadInput, GauntletError
from bench.files import below, sha256
from bench.report.falls import Falls, falls_of
from bench.results import Card, Outcomes, read_card
from bench.statistics import wilson
from bench.verify import Check, Proven, lowest_of, proved, read_evidence, read_lowest

Backing = Literal["audited", "proved", "stated"]
BACKINGS: tuple[Backing, ...] = ("audited", "proved", "stated")
"""What stands behind a number, the strongest first: attacks that were run again, examples that lie there, or words."""


class Entry(NamedTuple):
    """One evaluation of a leaderboard."""

    card: Card
    path: Path
    outcomes: Outcomes | None
    """None where its records are not here, or not its own: then the number is the card's word alone."""
    backing: Backing = "stated"
    checks: tuple[Check, ...] = ()
    """What the card and its files say of each other; nothing where nobody looked."""
    lowered: str = ""
    """A sentence where a lower number was proved for its model, which stands in its card's place."""
    falls: Falls | None = None
    """Which samples fell to what, where that was asked for and the records are here."""


Read = tuple[Sequence[Entry], Sequence[str]]
"""Entries, and why others are none."""


def read_entries(places: Sequence[Path], *, falls: bool = False) -> tuple[list[Entry], list[str]]:
    """Every card in these files and folders that can be read and does not contradict itself, in the order of their paths, and a
    sentence for each other; none above the lowest number that a folder remembers for its model.

    falls: with which samples fell to what, so that no records are read twice.
    """
    entries, refused = [], []
    for place in places:
        if not place.exists():
            raise BadInput(f"no results folder at {place}; `gauntlet run` makes one")
        known = read_lowest(place) if place.is_dir() else []
        for path in below(place, "card.json") if place.is_dir() else [place]:
            try:
                card = read_card(path)
            except GauntletError as error:
                refused.append(str(error))
                continue
            evidence = read_evidence(card, path.parent)
            if told := evidence.contradictions:
                refused.append(f"{path} contradicts itself: {told[0]}; `gauntlet verify {path}` has the rest")
                continue
            backing = _backing(card, path, known, proved=evidence.outcomes is not None and evidence.proved)
            outcomes = replace(evidence.outcomes, path=path) if evidence.outcomes else None
            fell = falls_of(card, evidence.records) if falls else None
            entries.append(_lowered(Entry(card, path, outcomes, backing, tuple(evidence.checks), falls=fell), known))
    return entries, refused


def chosen(
    results: Path, *, every: bool = False, verified: bool = False, read: Read | None = None
) -> tuple[list[Entry], list[str]]:
    """The rows of a board, and what was left out and why.

    every: all evaluations of a model in a section, not only the one with most samples. verified: none whose number is stated.
    read: what `read_entries` gave, where somebody has read it already.
    """
    found = read or read_entries([results])
    entries, refused = list(found[0]), list(found[1])
    if not entries and not refused:
        raise BadInput(f"no cards below {results}; `gauntlet run` or `gauntlet evaluate` writes them")
    if verified:
        refused += [
            f"{entry.path}: its number is stated, nothing here proves it" for entry in entries if entry.backing == "stated"
        ]
        entries = [entry for entry in entries if entry.backing != "stated"]
    if not every:
        kept = best_of_each_model([entry.card for entry in entries])
        if len(kept) < len(entries):
            fewer = len(entries) - len(kept)
            told = "1 evaluation of a model that has" if fewer == 1 else f"{fewer} evaluations of models that have"
            which = "it" if fewer == 1 else "them"
            refused.append(f"{told} one of as many or more samples; `gauntlet leaderboard --all` shows {which} too")
        entries = [entries[place] for place in kept]
    return entries, refused


def entry_of(card: Card, path: Path, known: Sequence[Proven] = ()) -> Entry:
    """A card with what stands beside it; known: what its board remembers, audits too."""
    outcomes = known_outcomes(card, path)
    return Entry(card, path, outcomes, _backing(card, path, known, proved=outcomes is not None and proved(outcomes)))


def _backing(card: Card, path: Path, known: Sequence[Proven], *, proved: bool) -> Backing:
    """What stands behind a row whose files are its own, or are not."""
    if not proved:
        return "stated"
    lowest = lowest_of(card, known)
    audited = lowest is not None and lowest.audited > 0 and lowest.card == sha256(path)
    return "audited" if audited else "proved"


def _lowered(entry: Entry, known: Sequence[Proven]) -> Entry:
    """The same, with the lowest number that was proved for its model where its own is higher."""
    card, lowest = entry.card, lowest_of(entry.card, known)
    if lowest is None or lowest.standing >= round(card.robust_accuracy * card.n):
        return entry
    share = lowest.standing / card.n
    down = card.model_copy(update={"robust_accuracy": share, "interval": wilson(lowest.standing, card.n)})
    told = f"{card.name}: its card says {card.robust_accuracy:.2%}; lowered to {lowest.told}"
    return Entry(down, entry.path, None, checks=entry.checks, lowered=told, falls=entry.falls)
