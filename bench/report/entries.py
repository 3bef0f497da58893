"""The rows below a folder: cards that do not contradict themselves, with what stands beside each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.compare import known_outcomes
from bench.errors import BadInput, GauntletError
from bench.files import below
from bench.results import Card, Outcomes, read_card
from bench.verify import contradictions


class Entry(NamedTuple):
    """One evaluation of a leaderboard."""

    card: Card
    path: Path
    outcomes: Outcomes | None
    """None where its records are not here, or not its own: then the number is the card's word alone."""


def read_entries(places: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Every card in these files and folders that can be read and does not contradict itself, in the order of their paths, and a
    sentence for each other."""
    entries, refused = [], []
    for place in places:
        if not place.exists():
            raise BadInput(f"no results folder at {place}; `gauntlet run` makes one")
        for path in below(place, "card.json") if place.is_dir() else [place]:
            try:
                card = read_card(path)
            except GauntletError as error:
                refused.append(str(error))
                continue
            if told := contradictions(card, path.parent):
                refused.append(f"{path} contradicts itself: {told[0]}; `gauntlet verify {path}` has the rest")
                continue
            entries.append(Entry(card, path, known_outcomes(card, path)))
    return entries, refused
