"""The order of samples: whether it is that of their classes, and one in which the classes take turns."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core import shuffled


def in_turn(y: Tensor) -> Tensor:
    """Positions [N] in a fixed order in which the classes take turns, so that its beginning has as many of each."""
    order = shuffled(len(y), 0, "in turn").to(y.device)
    by_class = y[order].argsort(stable=True)
    counts = torch.bincount(y[order][by_class])
    first = (counts.cumsum(0) - counts)[y[order][by_class]]
    round_of = torch.empty_like(order)
    round_of[by_class] = torch.arange(len(y), device=y.device) - first
    return order[round_of.argsort(stable=True)]


def in_runs(y: Tensor) -> bool:
    """Whether labels lie in the order of their classes: neighbours differ less than half as often as in a random order."""
    if len(y) < 2:
        return False
    shares = torch.bincount(y).double() / len(y)
    return float((y[1:] != y[:-1]).double().mean()) < (1 - float(shares.square().sum())) / 2
