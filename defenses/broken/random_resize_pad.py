"""Random resizing and padding (Xie et al. 2018): every answer sees the image at another size and place.

On digits it does not look robust under plain PGD, whose steps average the draws. It is here because numbers from single draws
differ from evaluation to evaluation, and the network is hardly better than one without it.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.defense import defense

from .around import TrainedAround


@defense("broken_random_resize_pad")
class RandomResizePad(TrainedAround):
    """Natural training on images that are shrunk and padded at random, as they are at test time.

    The source enlarges the canvas instead, which a network of a fixed size does not take.
    """

    smallest: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the image's side that the shrunk one has at least."""

    paper = "Xie et al. 2018"

    def before(self, x: Tensor) -> Tensor:
        """Each image by a map of its own: size and place are drawn from torch's global generator."""
        size = self.smallest + (1 - self.smallest) * torch.rand(len(x), 1, device=x.device)
        shift = (2 * torch.rand(len(x), 2, device=x.device) - 1) * (1 / size - 1)
        scale = (1 / size)[:, :, None] * torch.eye(2, device=x.device)
        place = torch.cat([scale, shift[:, :, None]], 2).to(x.dtype)
        return F.grid_sample(x, F.affine_grid(place, list(x.shape), align_corners=False), align_corners=False)
