"""JPEG-like compression (Guo et al. 2018): cosine coefficients of 8x8 blocks are rounded, which no gradient passes."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around

SIDE = 8


@defense("broken_jpeg")
class JPEG(Standard):
    """Natural training; at test time the cosine coefficients of 8x8 blocks are rounded, coarser for higher frequencies."""

    step: Annotated[float, Field(gt=0)] = 0.1
    """Of the rounding of the lowest frequency, where an image of ones has 8; that of the highest is 8 times it."""

    paper = "Guo et al. 2018"

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=self.compressed)

    def compressed(self, x: Tensor) -> Tensor:
        """X [N, C, H, W] after compression, channel by channel."""
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % SIDE, 0, -height % SIDE))
        blocks = padded.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE)
        cosines = basis().to(x)
        rank = torch.arange(SIDE).to(x)
        steps = self.step * (1 + (rank[:, None] + rank) / 2)
        blocks = cosines.T @ (torch.round(cosines @ blocks @ cosines.T / steps) * steps) @ cosines
        return blocks.transpose(3, 4).reshape(padded.shape)[..., :height, :width].clamp(0, 1)


def basis() -> Tensor:
    """The orthonormal cosine transform of 8 numbers, [8, 8]."""
    rank = torch.arange(SIDE, dtype=torch.float64)
    cosines = torch.cos(math.pi / SIDE * (rank + 0.5) * rank[:, None]) * math.sqrt(2 / SIDE)
    cosines[0] /= math.sqrt(2)
    return cosines
