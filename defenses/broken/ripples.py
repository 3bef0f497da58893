"""Ripples on the images: too small to change an answer, too steep for a gradient to mean anything (it is "shattered")."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_ripples")
class Ripples(Standard):
    """Natural training; each pixel gets a fast sine of itself added: a smooth and useless gradient."""

    height: Annotated[float, Field(gt=0)] = 0.01
    """Of the sine, in input units."""
    frequency: Annotated[float, Field(gt=0)] = 1e4
    """Of the ripples in pixel values."""
    moving: bool = False
    """Whether its phase is drawn anew for every answer."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=self.rippled)

    def rippled(self, x: Tensor) -> Tensor:
        """X, no further from it than the ripples are high."""
        phase = 2 * torch.pi * torch.rand_like(x) if self.moving else 0.0
        return x + self.height * torch.sin(self.frequency * x + phase)
