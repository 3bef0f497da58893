"""The one way success is judged: float32, eval mode, inside the ball and the box, on the network's own answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.losses import margin
from bench.threat import ThreatModel
from bench.views import forward


class Verdict(NamedTuple):
    """Per candidate: whether it counts as a success, the margin there (positive: misclassified), whether it was legal."""

    fooled: Tensor
    margin: Tensor
    legal: Tensor


@dataclass(frozen=True)
class Judge:
    """Judges candidates against a network. An answer that is not finite is not a correct one."""

    net: nn.Module
    threat: ThreatModel

    @torch.no_grad()
    def correct(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are classified correctly, bool [N], and their margins [N]."""
        logits = forward(self.net, x.contiguous())
        finite = logits.isfinite().all(1)
        return (logits.argmax(1) == y) & finite, margin(logits, y)

    def verdict(self, z: Tensor, x: Tensor, y: Tensor) -> Verdict:
        """Judge candidates z for clean images x, both [N, C, H, W]."""
        legal = self.threat.contains(z, x)
        correct, value = self.correct(z, y)
        return Verdict(~correct & legal, value, legal)
