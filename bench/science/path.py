"""The way of an attack: loss and margin at every step of an ascent, which tells a steady climb from one that gets nowhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel, forward, margin, raw_cross_entropy
from bench.science.ascent import Ascent


class Way(NamedTuple):
    """Of every point and sample, [steps + 2, N] each: the clean image first, then the start and what every step led to."""

    loss: Tensor
    margin: Tensor
    """The best wrong logit minus the true one; positive where the network is fooled."""

    @property
    def falls(self) -> Tensor:
        """The share of steps that lost height, [N]; many on a rough surface, or where the step is too long."""
        return (self.loss[2:] < self.loss[1:-1]).double().mean(0)


def path(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, ascent: Ascent) -> Way:
    """Loss and margin on the way of one ascent."""
    rows = []
    with torch.no_grad():
        for z in (x, *ascent.iterates(net, x, y, threat, rng)):
            logits = forward(net, z)
            rows.append((raw_cross_entropy(logits, y), margin(logits, y)))
    return Way(*map(torch.stack, zip(*rows, strict=True)))
