"""Thermometer encoding (Buckman et al. 2018): a pixel becomes the thresholds it passes, and comparisons have no gradient."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.defense import defense

from .around import TrainedAround


@defense("broken_thermometer")
class Thermometer(TrainedAround):
    """Natural training on the share of thresholds that each pixel passes.

    The source hands all comparisons to a network made for them; their mean is what one for images can take.
    """

    levels: Annotated[int, Field(ge=2)] = 10
    """Thresholds for each pixel."""

    paper = "Buckman et al. 2018"

    def before(self, x: Tensor) -> Tensor:
        """The share of the thresholds 1 / levels, 2 / levels, ... 1 that lie below, for every pixel."""
        thresholds = torch.arange(1, self.levels + 1).to(x) / self.levels
        return (x[..., None] >= thresholds).to(x.dtype).mean(-1)
