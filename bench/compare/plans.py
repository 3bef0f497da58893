"""One network under several plans, whose numbers are comparable on the samples that both plans were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from bench.data import CLASSES
from bench.results import Outcomes


class TwoPlans(NamedTuple):
    """What two plans left of the same samples of one network. Examples that were handed in later do not count."""

    a: Outcomes
    b: Outcomes
    n: int
    """Samples that both were asked for."""
    standing: tuple[int, int]
    """Of these, under each."""
    alone: tuple[int, int]
    """Those that stand under one and fall under the other."""

    def turned(self) -> TwoPlans:
        """The same, the other one first."""
        return TwoPlans(self.b, self.a, self.n, self.standing[::-1], self.alone[::-1])


def two_plans(outcomes: Sequence[Outcomes]) -> list[TwoPlans]:
    """Every pair of plans that one network was attacked with in one ball, in the order of their names.

    Of several evaluations under one plan it is the one with most samples.
    """
    networks: dict[object, dict[tuple[str, str], Outcomes]] = {}
    for found in outcomes:
        card = found.card
        samples = card.dataset if card.dataset in CLASSES else card.data.digest
        plans = networks.setdefault((samples, card.data.split, card.threat, card.identity), {})
        key = (card.plan.name, f"{card.plan.digest} {sorted(card.tools.items())}")
        if key not in plans or plans[key].card.n < card.n:
            plans[key] = found
    pairs = ((plans[a], plans[b]) for plans in networks.values() for a, b in combinations(sorted(plans), 2))
    return [pair for a, b in pairs if (pair := _pair(a, b))]


def _pair(a: Outcomes, b: Outcomes) -> TwoPlans | None:
    """The two, or None where they have no sample in common."""
    _, mine, others = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    if not len(mine) or (a.labels[mine] != b.labels[others]).any():
        return None
    left, right = a.planned[mine], b.planned[others]
    standing = int(left.sum()), int(right.sum())
    return TwoPlans(a, b, len(mine), standing, (int((left & ~right).sum()), int((right & ~left).sum())))
