"""Rank bands: the places that a row of a leaderboard may take, as far as the samples can tell."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from bench.core import ThreatModel
from bench.data import CLASSES
from bench.errors import GauntletError
from bench.plans import PLANS, reads_like
from bench.plugins import BROKEN
from bench.results import Card, Flags, Outcomes, outcomes_of
from bench.statistics import Floats, holm, mcnemar_each, spread, two_proportions, welch_degrees

ALPHA = 0.05
"""Level of all pairs of a section together."""


class Row(NamedTuple):
    """What a band is made from: a model, or a method with several seeds."""

    shares: tuple[float, ...]
    """Of the samples, those that it stands on: one for each seed."""
    n: int
    samples: Hashable
    """Rows with the same value are over the same samples."""
    flags: Flags | None = None
    """The samples it stands on with each seed, bool [seeds, n], in the same order as in every row over the same samples; None
    without records."""


def rank_bands(rows: Sequence[Row], alpha: float = ALPHA) -> list[tuple[int, int]]:
    """Best and worst place of every row: 1 + how many are significantly better, and as many fewer than all as are worse.

    Every pair is tested on its samples: by exact McNemar where the outcomes of both are there for the same samples and each has
    one seed, by the paired differences of the means over seeds where one has several, else as proportions of independent
    samples, which needs larger differences. Where a row has several seeds, the pair must differ between seeds too. Holm keeps
    the level over all pairs together.
    """
    size = len(rows)
    one, other = np.triu_indices(size, 1)
    share = np.array([np.mean(row.shares) for row in rows])
    p = np.maximum(_between_samples(rows, share), _between_seeds(rows, share))[one, other]
    apart = np.zeros((size, size), dtype=bool)
    apart[one, other] = apart[other, one] = holm(p) < alpha
    better = (apart & (share[None, :] > share[:, None])).sum(1)
    worse = (apart & (share[None, :] < share[:, None])).sum(1)
    return [(int(1 + up), int(size - down)) for up, down in zip(better, worse, strict=True)]


def _between_samples(rows: Sequence[Row], share: Floats) -> Floats:
    """p of every pair, [R, R]: could the samples alone make this difference?"""
    n = np.array([row.n for row in rows], dtype=float)
    standing = share * n
    p = two_proportions(standing[:, None], n[:, None], standing[None, :], n[None, :])
    for places in _groups(rows):
        # Sums of ones in float32 are exact up to 2^24, and no integer type is multiplied as fast.
        means = np.array([np.mean(np.asarray(rows[place].flags), axis=0) for place in places], dtype=np.float32)
        both, block = (means @ means.T).astype(float), np.ix_(places, places)
        alone = both.diagonal()[:, None] - both
        single = np.array([len(rows[place].shares) == 1 for place in places])
        exact = single[:, None] & single[None, :]
        counts = np.where(exact, alone, 0).round().astype(np.int64)
        size, gap = means.shape[1], share[places][:, None] - share[places][None, :]
        # McNemar's with continuity, of means over seeds: a whole sample less, over the root of the sum of squared differences.
        apart, root = np.maximum(np.abs(gap) * size - 1, 0), np.sqrt(alone + alone.T)
        score = np.divide(apart, root, out=np.zeros_like(gap), where=root > 0)
        p[block] = np.where(exact, mcnemar_each(counts, counts.T), 2 * norm.sf(score))
    return p


def _between_seeds(rows: Sequence[Row], share: Floats) -> Floats:
    """p of every pair, [R, R]: could seeds alone make this difference? 0 where neither has more than one.

    Welch's t test; a row with a single seed is taken to vary as much as the one it is compared with.
    """
    k = np.array([len(row.shares) for row in rows], dtype=float)
    between = np.array([spread(row.shares, row.n) if len(row.shares) > 1 else np.nan for row in rows])
    several = k > 1
    mine = np.where(several[:, None], (between / k)[:, None], between[None, :])
    total = mine + mine.T
    gap = np.abs(share[:, None] - share[None, :])
    p = 2 * student.sf(gap / np.sqrt(total), welch_degrees(mine, mine.T, k[:, None], k[None, :]))
    return np.where(several[:, None] | several[None, :], p, 0.0)


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """The places of rows whose outcomes are there for the same samples."""
    groups: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        if row.flags is not None:
            groups.setdefault((row.samples, row.n), []).append(place)
    return list(groups.values())


Section = tuple[str, str, str]
"""Data set, threat model and plan; rows are ranked within one."""
ON_PURPOSE = ", broken on purpose"
"""What the plan of a section ends with whose defenses show what a diagnosis tells; nothing there has a rank."""


def sections(cards: Sequence[Card]) -> list[Section]:
    """The section of every card. A user's own data are one data set by content, whatever the file is called."""
    threats = [f"{card.threat.norm} {card.threat.eps}" for card in cards]
    plans = [f"{name}{ON_PURPOSE if _on_purpose(card) else ''}" for card, name in zip(cards, _plan_names(cards), strict=True)]
    return list(zip(data_names(cards), threats, plans, strict=True))


def _on_purpose(card: Card) -> bool:
    return str(card.model.defense or "").startswith(BROKEN)


def _plan_names(cards: Sequence[Card]) -> list[str]:
    """What the plan of every card is called among the others: equal exactly where the same attacks are run.

    A defense may add attacks to a built-in plan, which can only lower its row; what borrows the name of one is told apart.
    """
    digests = [_digest(card) for card in cards]
    several = Counter(name for name, _ in {(card.plan.name, digest) for card, digest in zip(cards, digests, strict=True)})
    return [
        card.plan.name
        if _built_in(card, card.plan.digest) or (not reads_like(card.plan.name) and several[card.plan.name] == 1)
        else f"{card.plan.name} {digest[:8]}"
        for card, digest in zip(cards, digests, strict=True)
    ]


def _digest(card: Card) -> str:
    """Of a plan, and of what its attacks came with: equal where the same attacks were run."""
    content = json.dumps([card.plan.digest, card.tools], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest() if card.tools else card.plan.digest


def _built_in(card: Card, digest: str) -> bool:
    """Whether a plan of this digest is the built-in one of its name in this norm, perhaps followed by further attacks."""
    if card.plan.name not in PLANS:
        return False
    attacks, wanted = _resolved(card.plan.name, card.threat.norm, card.threat.eps)
    if len(card.plan.attacks) > attacks:
        digest = card.plan.model_copy(update={"attacks": card.plan.attacks[:attacks]}).digest
    return digest == wanted


@cache
def _resolved(name: str, norm: str, eps: str) -> tuple[int, str]:
    """How many attacks a built-in plan has in a ball, and their digest."""
    plan = PLANS[name].resolved(ThreatModel.parse(norm, eps))
    return len(plan.attacks), plan.digest


def data_names(cards: Sequence[Card]) -> list[str]:
    """What the data of every card are called among the others: equal exactly where they are the same."""
    contents = [card.dataset if card.dataset in CLASSES else card.data.whole or Path(card.dataset).stem for card in cards]
    named: dict[str, str] = {}
    for content, card in sorted(zip(contents, cards, strict=True), key=lambda pair: (pair[0], pair[1].dataset)):
        named.setdefault(content, card.dataset if card.dataset in CLASSES else Path(card.dataset).stem)
    several = {name for name, count in Counter(named.values()).items() if count > 1}
    return [
        f"{named[content]} {content[:8]}" if named[content] in several and content not in CLASSES else named[content]
        for content in contents
    ]


def known_outcomes(card: Card, path: Path) -> Outcomes | None:
    """The outcomes of a card; None where its records are missing or not its own."""
    try:
        return outcomes_of(card, path)
    except GauntletError:
        return None


def ranks(cards: Sequence[Card], outcomes: Sequence[Outcomes | None], groups: Sequence[Sequence[int]] = ()) -> list[str]:
    """The rank of every method in its section: "2-4", "1", or "-" for one that is not comparable, constant, doubted by a
    diagnosis, or without one where others have it.

    groups: the places of the cards of each method; without them every card is one.
    """
    groups = groups or [[place] for place in range(len(cards))]
    ranked = ["-"] * len(groups)
    for places in _sections(cards, groups).values():
        sound = _ranked(cards, groups, places)
        bands = rank_bands([_row(cards, outcomes, groups[place]) for place in sound])
        for place, (best, worst) in zip(sound, bands, strict=True):
            ranked[place] = str(best) if best == worst else f"{best}-{worst}"
    return ranked


def remarks(
    cards: Sequence[Card], outcomes: Sequence[Outcomes | None], groups: Sequence[Sequence[int]] = ()
) -> dict[Section, str]:
    """What is to be said about the ranks of each section that has several."""
    groups, told = groups or [[place] for place in range(len(cards))], {}
    for key, places in _sections(cards, groups).items():
        rows = [_row(cards, outcomes, groups[place]) for place in _ranked(cards, groups, places)]
        if len(rows) > 1:
            together = any(len(group) == len(rows) for group in _groups(rows))
            told[key] = _REMARK + (_SEEDS if any(len(row.shares) > 1 for row in rows) else "")
            told[key] += "" if together else _INDEPENDENT.format(rows=len(rows))
        if left := _undiagnosed(cards, groups, places):
            told[key] = "; ".join(filter(None, [told.get(key), _NO_VERDICT.format(left=len(left))]))
    return told


_REMARK = "rank: the places that the samples leave open; exact McNemar for every pair, 5 % for all pairs together (Holm)"
_SEEDS = (
    "; methods with several seeds must differ on the samples and, by Welch's t test, between seeds; a single seed is taken to "
    "vary as much as the others"
)
_INDEPENDENT = "; {rows} of {rows} rows lack records on the samples of the others, so they count as independent samples there"

_NO_VERDICT = "rank: {left} without a verdict have none beside rows that have one; gauntlet diagnose MODEL gives it"


def _sections(cards: Sequence[Card], groups: Sequence[Sequence[int]]) -> dict[Section, list[int]]:
    found: dict[Section, list[int]] = {}
    every = sections(cards)
    for place, group in enumerate(groups):
        found.setdefault(every[group[0]], []).append(place)
    return found


def _ranked(cards: Sequence[Card], groups: Sequence[Sequence[int]], places: Sequence[int]) -> list[int]:
    """The methods of a section that have a rank."""
    left = _undiagnosed(cards, groups, places)
    return [place for place in places if place not in left and all(_sound(cards[card]) for card in groups[place])]


def _undiagnosed(cards: Sequence[Card], groups: Sequence[Sequence[int]], places: Sequence[int]) -> set[int]:
    """The methods of a section, sound otherwise, that no diagnosis has looked at while it has at others."""
    methods = {place: [cards[card] for card in groups[place]] for place in places}
    if not any(card.diagnosis for method in methods.values() for card in method):
        return set()
    return {
        place for place, method in methods.items() if all(map(_sound, method)) and not all(card.diagnosis for card in method)
    }


def _sound(card: Card) -> bool:
    return not _on_purpose(card) and not card.batch_dependent and not card.constant and card.verdict in (None, "ok")


def _row(cards: Sequence[Card], outcomes: Sequence[Outcomes | None], group: Sequence[int]) -> Row:
    shares = tuple(round(cards[place].robust_accuracy * cards[place].n) / cards[place].n for place in group)
    first, known = cards[group[0]], [outcomes[place] for place in group]
    there = [one for one in known if one is not None]
    ids = {one.ids.tobytes() for one in there}
    if len(there) < len(known) or len(ids) > 1:
        return Row(shares, first.n, None)
    return Row(shares, first.n, (first.data.digest, *ids), np.stack([one.robust for one in there]))
