"""The one way success is judged: float32, eval mode, inside the ball and the box, on the network's own answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core.losses import margin
from bench.core.rng import isolated
from bench.core.threat import ThreatModel
from bench.core.views import forward

VOTES = 11
"""Fresh draws of a randomised network that every candidate is judged by."""


class Verdict(NamedTuple):
    """Per candidate: whether it counts as a success, the margin there (positive: misclassified), whether it was legal.

    distance: to the clean image where the candidate is misclassified, inside the ball or not; infinite elsewhere.
    """

    fooled: Tensor
    margin: Tensor
    legal: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Judge:
    """Judges candidates against a network. An answer that is not finite is not a correct one.

    draws: of a randomised network, whose answer is then that of the majority; they are fresh, no attack has seen them.
    """

    net: nn.Module
    threat: ThreatModel
    draws: int = 1
    seed: int = 0

    @torch.no_grad()
    def correct(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are classified correctly, bool [N], and their margins [N], means over the draws."""
        if self.draws == 1:
            return self._once(x, y)
        votes, total = torch.zeros_like(y), x.new_zeros(len(x))
        for draw in range(self.draws):
            with isolated(self.seed, "judge", draw):
                right, lead = self._once(x, y)
            votes, total = votes + right, total + lead
        return 2 * votes > self.draws, total / self.draws

    def verdict(self, z: Tensor, x: Tensor, y: Tensor) -> Verdict:
        """Judge candidates z for clean images x, both [N, C, H, W]."""
        legal = self.threat.contains(z, x)
        correct, value = self.correct(z, y)
        distance = torch.where(correct | ~self.threat.in_box(z), torch.inf, self.threat.distance(z, x))
        return Verdict(~correct & legal, value, legal, distance)

    def _once(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = forward(self.net, x.contiguous())
        return (logits.argmax(1) == y) & logits.isfinite().all(1), margin(logits, y)
