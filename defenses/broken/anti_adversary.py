"""Anti-adversary (Alfarra, Perez, Thabet, Bibi, Torr, Ghanem, AAAI 2022): the image is first moved towards its own label.

The label is nearly always the one that the network gives unmoved. Croce et al. 2022 ("Evaluating the adversarial robustness of
adaptive test-time defenses") attack that network and take the examples over: nothing is left of the gain.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense

from .around import TrainedRobustly


@defense("broken_anti_adversary")
class AntiAdversary(TrainedRobustly):
    """PGD training; at test time some signed gradient steps make the network surer of what it thinks, then it answers."""

    moves: Annotated[int, Field(ge=1)] = 2
    """Gradient steps inside a forward pass."""
    size: Annotated[float, Field(gt=0)] = 0.15
    """Of a step, in input units."""

    paper = "Alfarra et al. 2022"

    def wrap(self, net: nn.Module) -> nn.Module:
        return Surer(net, self.moves, self.size)


class Surer(nn.Module):
    """A network on images that were moved towards the label it gives them."""

    def __init__(self, net: nn.Module, moves: int, size: float) -> None:
        super().__init__()
        self.net, self.moves, self.size = net, moves, size

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]; as in the source, no gradient passes through the steps themselves."""
        logits: Tensor = self.net(x + self.move(x.detach()))
        return logits

    @torch.enable_grad()
    def move(self, x: Tensor) -> Tensor:
        """What is added to the images."""
        label = self.net(x).argmax(1)
        delta = torch.zeros_like(x)
        for _ in range(self.moves):
            delta.requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(self.net(x + delta), label, reduction="sum"), delta)
            delta = (delta - self.size * grad.sign()).detach()
        return delta
