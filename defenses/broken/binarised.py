"""Pixels drawn black or white with their grey value as the probability: noise that no gradient passes."""

import torch
from torch import Tensor

from bench.defense import defense

from .around import TrainedAround


@defense("broken_binarised")
class Binarised(TrainedAround):
    """Natural training on randomly binarised images, which are drawn anew for every answer."""

    def before(self, x: Tensor) -> Tensor:
        """1 with probability x, else 0, from torch's global generator."""
        return torch.bernoulli(x.clamp(0, 1))
