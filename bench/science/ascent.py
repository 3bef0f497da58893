"""The inner maximisation as trainings have it: projected steepest ascent of so many steps, none of them left out.

Attacks let a sample go once it is fooled, because one misclassification is all they are after. A loss surface is another
matter: it is the loss at the end of the ascent that is measured, for every sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel, cross_entropy, forward, raw_cross_entropy, slopes

Slope = Callable[[Tensor], Tensor]
"""The gradient at z [N, C, H, W] of what is climbed."""


@dataclass(frozen=True)
class Ascent:
    """Steps of `step` times eps each, from a point of the ball or from the clean image."""

    steps: int = 10
    step: float = 0.25
    start: Literal["ball", "clean"] = "ball"

    def iterates(
        self, net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, slope: Slope | None = None
    ) -> Iterator[Tensor]:
        """Every point from the start on, steps + 1 of them, each [N, C, H, W]; of the cross-entropy unless told otherwise."""
        z = threat.random_start(x, rng.at("start")) if self.start == "ball" else x.clone()
        yield z
        for _ in range(self.steps):
            grad = slopes(net, z, y, cross_entropy) if slope is None else slope(z)
            z = threat.project(z + self.step * threat.radius * threat.steepest(grad.nan_to_num(0.0), z), x)
            yield z

    def end(self, net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, slope: Slope | None = None) -> Tensor:
        """The last of them; x itself for a ball of radius 0, where nothing can be climbed."""
        if not threat.eps:
            return x
        *_, last = self.iterates(net, x, y, threat, rng, slope)
        return last


@torch.no_grad()
def losses(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of every sample, [N], as it stands."""
    return raw_cross_entropy(forward(net, x), y)
