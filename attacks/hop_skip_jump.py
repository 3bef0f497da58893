"""HopSkipJump (Chen, Jordan & Wainwright 2020): a walk along the decision boundary, guided by labels alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.attack import Closest, Decision, Rng, ThreatModel, attack

_SEEK, _BISECT, _PROBE, _LEAP = range(4)
_FIRST_PROBE = 0.1
_FINEST = 2.0**-21
"""Distances that differ by a smaller share than this are the same to float32 images."""


@attack("hop_skip_jump", access="decision", norms={"linf", "l2"})
def hop_skip_jump(
    model: Decision,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 10_000,
    probes: Annotated[int, Field(ge=1)] = 100,
    gamma: Annotated[float, Field(gt=0)] = 1.0,
    beyond: bool = False,
) -> Tensor:
    """From a misclassified random image bisect to the boundary, estimate its normal there, leap along it, and again.

    The t-th estimate takes probes * sqrt(t) queries; gamma scales how far the probes go and how wide a bisection ends. With
    `beyond` the closest adversarial example is returned wherever it lies. A sample for which no random image is
    misclassified is given back as it is.
    """
    closest, walk = Closest(x, threat, beyond), Walk.start(x, threat, probes, gamma)
    for query in range(queries):
        noise = rng.at("query", query)
        drawn = 2 * noise.uniform(x.shape[1:]) - 1 if threat.norm == "linf" else noise.normal(x.shape[1:])
        # Networks tend to give all fine noise one label, so the starts take turns at being coarse.
        z = walk.candidate(x, drawn, cell=2 ** (query % 4))
        wrong = model.labels(z) != y
        walk.advance(z, wrong, closest.offer(z, x, wrong))
        model, x, y, rng, walk = closest.drop(model, x, y, rng, walk)
        if not len(closest):
            break
    return closest.result


@dataclass
class Walk:
    """Where each sample is. All ask one query at a time, each for the stage that it is in."""

    threat: ThreatModel
    probes: int
    gamma: float
    stage: Tensor
    round: Tensor
    """The number of the estimate, from 1."""
    edge: Tensor
    """The last adversarial example that was no probe; probes and leaps start from it."""
    span: Tensor
    """The distance of the example that the last bisection began with."""
    low: Tensor
    high: Tensor
    """The distances between which the boundary lies; `high` is that of `edge`."""
    length: Tensor
    """How far the next probe or leap goes."""
    sums: Tensor
    """The sum of the probes that were adversarial, and of those that were not, [N, 2, C, H, W]."""
    counts: Tensor
    """How many there were of each, [N, 2]."""

    @classmethod
    def start(cls, x: Tensor, threat: ThreatModel, probes: int, gamma: float) -> Walk:
        """Before the first query."""
        zero = x.new_zeros(len(x))
        sums, counts = torch.stack([x * 0, x * 0], 1), torch.stack([zero, zero], 1)
        return cls(threat, probes, gamma, zero + _SEEK, zero + 1, x, zero, zero, zero, zero + 1, sums, counts)

    def __getitem__(self, keep: Tensor) -> Walk:
        parts: dict[str, Any] = {name: part[keep] for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **parts)

    def candidate(self, x: Tensor, noise: Tensor, cell: int) -> Tensor:
        """The image that each sample asks about next; a random start is noise in cells of this many pixels a side."""
        seed = (1 + F.interpolate(noise[:, :, ::cell, ::cell], x.shape[2:])) / 2
        middle = (self.low + self.high) / 2
        if self.threat.norm == "linf":
            between = torch.minimum(torch.maximum(self.edge, x - _image(middle)), x + _image(middle))
        else:
            between = x + _image(middle / self.high.clamp_min(1e-12)) * (self.edge - x)
        # In proportion to Σ (φ - mean φ) u, where φ = ±1 says on which side the probe u came out.
        inside, outside = (self.sums / _image(self.counts.clamp_min(1))).unbind(1)
        unit = F.normalize(noise.flatten(1), dim=1).view_as(x)
        along = torch.where(_image(self.stage == _PROBE), unit, self.threat.steepest(inside - outside))
        z = torch.where(_image(self.stage == _BISECT), between, self.edge + _image(self.length) * along)
        return torch.where(_image(self.stage == _SEEK), seed, z).clamp_(0, 1)

    def advance(self, z: Tensor, wrong: Tensor, distance: Tensor) -> None:
        """Take in the answers to the candidates z."""
        bisecting, probing, leaping = (self.stage == which for which in (_BISECT, _PROBE, _LEAP))
        landed = wrong & ~bisecting & ~probing
        self._tally(z, torch.stack([probing & wrong, probing & ~wrong], 1), landed)
        self.round = self.round + (landed & leaping)
        middle = (self.low + self.high) / 2
        self.low = torch.where(landed, 0.0, torch.where(bisecting & ~wrong, middle, self.low))
        self.high = torch.where(landed, distance, torch.where(bisecting & wrong, middle, self.high))
        self.span = torch.where(landed, distance, self.span)
        self.edge = torch.where(_image(wrong & ~probing), z, self.edge)
        pixels = z.shape[1:].numel()
        theta = max(self.gamma / pixels ** (2 if self.threat.norm == "linf" else 1.5), _FINEST)
        arrived = bisecting & (self.high - self.low <= theta * self.span)
        estimated = probing & (self.counts.sum(1) >= (self.probes * self.round.sqrt()).floor())
        probe = torch.where(self.round == 1, _FIRST_PROBE, (self.gamma * self.span / pixels).clamp_min(1e-12))
        self.length = torch.where(leaping, self.length / 2, self.length)
        self.length = torch.where(arrived, probe, torch.where(estimated, self.high / self.round.sqrt(), self.length))
        self.stage = torch.where(arrived, _PROBE, torch.where(estimated, _LEAP, self.stage))
        self.stage = torch.where(landed, _BISECT, self.stage)

    def _tally(self, z: Tensor, which: Tensor, landed: Tensor) -> None:
        """Add the probes to the side they came out on; a landing ends their round."""
        # What the box cut off did not go the whole way.
        gone = (z - self.edge) / _image(self.length)
        keep = ~landed.unsqueeze(1)
        self.sums = (self.sums + _image(which) * gone.unsqueeze(1)) * _image(keep)
        self.counts = (self.counts + which) * keep


def _image(values: Tensor) -> Tensor:
    """Numbers that stand for whole images, made to broadcast over them."""
    return values[..., None, None, None]
