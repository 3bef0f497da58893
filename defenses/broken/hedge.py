"""Hedge Defense (Wu et al. 2021): the image is moved away from every class at once before it is answered.

Croce et al. 2022 ("Evaluating the adversarial robustness of adaptive test-time defenses") attack through the inner steps, and
by examples of the network itself, which mostly hold.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense

from .around import Around, TrainedRobustly


@defense("broken_hedge")
class Hedge(TrainedRobustly):
    """PGD training; at test time some steps raise the sum of the cross-entropies to all classes, then the network answers."""

    moves: Annotated[int, Field(ge=1)] = 4
    """Gradient steps inside a forward pass."""
    reach: Annotated[float, Field(gt=0)] = 0.1
    """How far they may go, in input units."""

    paper = "Wu et al. 2021"

    def wrap(self, net: nn.Module) -> nn.Module:
        def hedged(x: Tensor) -> Tensor:
            return x + self.move(net, x.detach())

        return Around(net, before=hedged)

    @torch.enable_grad()
    def move(self, net: nn.Module, x: Tensor) -> Tensor:
        """What is added to the images, a constant."""
        delta = torch.zeros_like(x)
        for _ in range(self.moves):
            delta.requires_grad_()
            total = -net(x + delta).log_softmax(1).sum()
            delta = delta + self.reach / 2 * torch.autograd.grad(total, delta)[0].sign()
            delta = delta.clamp(-self.reach, self.reach).detach()
        return delta
