"""Noise at test time (Liu et al. 2018): the gradient of one answer is that of one draw.

On digits it does not look robust under plain PGD, whose steps average the draws. It is here because one answer is no answer: an
attack that keeps its luckiest draw, or is judged by one, gives a number that nobody gets twice.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.defense import defense

from .around import TrainedAround


@defense("broken_noise_layer")
class NoiseLayer(TrainedAround):
    """Training on noisy images, and fresh noise on the images at test time."""

    sigma: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the noise, in input units."""

    paper = "Liu et al. 2018"

    def before(self, x: Tensor) -> Tensor:
        """Noise from torch's global generator."""
        return x + self.sigma * torch.randn_like(x)
