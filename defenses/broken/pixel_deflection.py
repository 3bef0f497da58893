"""Pixel deflection (Prakash, Moran, Garber, DiLillo, Storer, CVPR 2018), with the image itself as the seed.

Pixels are replaced by neighbours and the rest is smoothed; where to look is decided by a hash of the image, so that the answer
is the same twice and yet another one a hair away. Athalye, Carlini 2018 ("On the robustness of the CVPR 2018 white-box
adversarial example defenses") pass both straight through, and average.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense

from .around import Around, TrainedRobustly


@defense("broken_pixel_deflection")
class PixelDeflection(TrainedRobustly):
    """PGD training; at test time many pixels are taken from nearby places that a hash of the image chooses, and smoothed."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Of the pixels that are replaced."""

    paper = "Prakash et al. 2018"

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=self.deflected)

    def deflected(self, x: Tensor) -> Tensor:
        """X with some pixels from elsewhere, rounded to 4 bits and smoothed a little."""
        rows, columns = x.shape[2:]
        place = torch.arange(rows * columns, device=x.device)
        key = (x.detach() * 1e4).round().flatten(1).sum(1, keepdim=True)
        draw = torch.sin(key * 12.9898 + place * 78.233) * 43758.5453
        draw = draw - draw.floor()
        shift = torch.where(draw < self.share / 2, 1, torch.where(draw < self.share, columns, 0))
        moved = x.flatten(2).gather(2, ((place + shift) % len(place))[:, None].expand(-1, x.shape[1], -1)).view_as(x)
        coarse = torch.round(moved * 15) / 15
        return 0.8 * coarse + 0.2 * F.avg_pool2d(coarse, 3, 1, 1)
