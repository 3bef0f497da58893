"""Which wrong classes a targeted attack tries, and in what order."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bench.core.losses import margin_targeted
from bench.core.threat import ThreatModel
from bench.core.views import Gradient

Order = Literal["logits", "malt"]
_POOL = 100
"""How many of the likeliest classes malt measures, at a gradient each; the others follow them."""


def wrong_classes(view: Gradient, x: Tensor, y: Tensor, threat: ThreatModel, by: Order, count: int | None = None) -> Tensor:
    """The wrong classes to try, most promising first, int64 [N, count]; all K - 1 without a count.

    By "logits" the likeliest come first. By "malt" (Melamed, Yehudai & Shamir 2024) those do whose boundary would be nearest
    if the network were linear.
    """
    logits = view.logits(x)
    every = torch.arange(logits.shape[1] - 1, device=x.device)
    wrong = every + (every >= y.unsqueeze(1)).long()
    wrong = wrong.gather(1, logits.gather(1, wrong).argsort(dim=1, descending=True, stable=True))
    if by == "malt":
        pool, rest = wrong[:, :_POOL], wrong[:, _POOL:]
        distance = torch.stack([_distance(view, x, y, threat, target) for target in pool.unbind(1)], 1)
        wrong = torch.cat([pool.gather(1, distance.argsort(dim=1, stable=True)), rest], 1)
    return wrong[:, :count]


def _distance(view: Gradient, x: Tensor, y: Tensor, threat: ThreatModel, target: Tensor) -> Tensor:
    """How far the boundary to these classes is, were the network linear, [N]; infinite where there is no gradient."""
    ascent = view.grad(x, partial(margin_targeted, target=target), y)
    slope = threat.dual(ascent.grad)
    return torch.where(slope > 0, -ascent.loss / slope, torch.inf)
