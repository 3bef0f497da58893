"""Rank bands: the places that a row of a leaderboard may take, as far as the samples can tell."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.errors import GauntletError
from bench.results import Card, Flags, Outcomes, outcomes_of
from bench.statistics import holm, mcnemar_each, two_proportions

ALPHA = 0.05
"""Level of all pairs of a section together."""


class Row(NamedTuple):
    """What a band is made from."""

    standing: int
    """Samples that the model stands on, of n."""
    n: int
    samples: Hashable
    """Rows with the same value are over the same samples."""
    flags: Flags | None = None
    """The samples it stands on, in the same order as in every row over the same samples; None without records."""


def rank_bands(rows: Sequence[Row], alpha: float = ALPHA) -> list[tuple[int, int]]:
    """Best and worst place of every row: 1 + how many are significantly better, and as many fewer than all as are worse.

    Every pair is tested, by exact McNemar where the outcomes of both are there for the same samples, else as proportions of
    independent samples, which needs larger differences; Holm keeps the level over all pairs together.
    """
    size = len(rows)
    one, other = np.triu_indices(size, 1)
    standing, n = (np.array([getattr(row, name) for row in rows], dtype=float) for name in ("standing", "n"))
    p = two_proportions(standing[one], n[one], standing[other], n[other])
    paired, only = _discordant(rows)
    exact = paired[one, other]
    p[exact] = mcnemar_each(only[one, other][exact], only[other, one][exact])
    share = standing / n
    apart = np.zeros((size, size), dtype=bool)
    apart[one, other] = apart[other, one] = holm(p) < alpha
    better = (apart & (share[None, :] > share[:, None])).sum(1)
    worse = (apart & (share[None, :] < share[:, None])).sum(1)
    return [(int(1 + up), int(size - down)) for up, down in zip(better, worse, strict=True)]


def _discordant(rows: Sequence[Row]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which pairs of rows have their outcomes on the same samples, and on how many samples only the first of a pair stands."""
    paired = np.zeros((len(rows), len(rows)), dtype=bool)
    only = np.zeros((len(rows), len(rows)), dtype=np.int64)
    groups: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        if row.flags is not None:
            groups.setdefault((row.samples, len(row.flags)), []).append(place)
    for places in groups.values():
        # Sums of ones in float32 are exact up to 2^24, and no integer type is multiplied as fast.
        stands = np.array([rows[place].flags for place in places], dtype=np.float32)
        block = np.ix_(places, places)
        only[block] = (stands.sum(1)[:, None] - stands @ stands.T).round()
        paired[block] = True
    return paired, only


def section(card: Card) -> tuple[str, str, str]:
    """Rows are ranked within one of these: data set, threat model and plan."""
    return card.dataset, f"{card.threat.norm} {card.threat.eps}", card.plan.name


def known_outcomes(card: Card, path: Path) -> Outcomes | None:
    """The outcomes of a card; None where its records are missing or not its own."""
    try:
        return outcomes_of(card, path)
    except GauntletError:
        return None


def ranks(cards: Sequence[Card], outcomes: Sequence[Outcomes | None]) -> list[str]:
    """The rank of every card in its section: "2-4", "1", or "-" for one that is not comparable or that a diagnosis doubts."""
    ranked = ["-"] * len(cards)
    for places in _sections(cards).values():
        sound = [place for place in places if _sound(cards[place])]
        bands = rank_bands([_row(cards[place], outcomes[place]) for place in sound])
        for place, (best, worst) in zip(sound, bands, strict=True):
            ranked[place] = str(best) if best == worst else f"{best}-{worst}"
    return ranked


def remarks(cards: Sequence[Card], outcomes: Sequence[Outcomes | None]) -> dict[tuple[str, str, str], str]:
    """What is to be said about the ranks of each section that has several."""
    told = {}
    for key, places in _sections(cards).items():
        rows = [_row(cards[place], outcomes[place]) for place in places if _sound(cards[place])]
        if len(rows) > 1:
            alone = int((_discordant(rows)[0].sum(1) < len(rows)).sum())
            told[key] = _REMARK + (_INDEPENDENT.format(alone=alone, rows=len(rows)) if alone else "")
    return told


_REMARK = "rank: the places that the samples leave open; exact McNemar for every pair, 5 % for all pairs together (Holm)"
_INDEPENDENT = "; {alone} of {rows} rows lack records on the samples of the others, so they count as independent samples there"


def _sections(cards: Sequence[Card]) -> dict[tuple[str, str, str], list[int]]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for place, card in enumerate(cards):
        found.setdefault(section(card), []).append(place)
    return found


def _sound(card: Card) -> bool:
    return not card.batch_dependent and card.verdict in (None, "ok")


def _row(card: Card, outcomes: Outcomes | None) -> Row:
    standing = round(card.robust_accuracy * card.n)
    if outcomes is None:
        return Row(standing, card.n, None)
    return Row(standing, card.n, (card.data.digest, outcomes.ids.tobytes()), outcomes.robust)
