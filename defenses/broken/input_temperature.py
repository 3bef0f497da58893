"""A temperature for each image: the way to less confidence is along a pattern, and leads to no other label.

Distillation's temperature (Papernot et al. 2016) depends on the image here. Like that one it changes no label (Carlini, Wagner
2017): differences of logits over their own size, or the network inside, give the direction that counts.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense

from .around import TrainedRobustly


@defense("broken_input_temperature")
class InputTemperature(TrainedRobustly):
    """PGD training; logits are multiplied by the exponential of how much of a checkerboard the image has."""

    strength: Annotated[float, Field(gt=0)] = 0.5
    """Of the exponent, per unit of a pixel along the checkerboard."""

    paper = "Papernot et al. 2016"

    def wrap(self, net: nn.Module) -> nn.Module:
        return Tempered(net, self.strength)


class Tempered(nn.Module):
    """A network whose logits are scaled by a pattern in its images."""

    def __init__(self, net: nn.Module, strength: float) -> None:
        super().__init__()
        self.net, self.strength = net, strength

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K], all times one positive number for each image."""
        rows, columns = (torch.arange(side, device=x.device) for side in x.shape[2:])
        board = 1.0 - 2.0 * ((rows[:, None] + columns) % 2)
        share = (board * (x - 0.5)).flatten(1).sum(1, keepdim=True)
        logits: Tensor = self.net(x) * torch.exp((self.strength * share).clamp(-10, 10))
        return logits
