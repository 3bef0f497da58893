"""Images rounded to few grey levels (Xu et al. 2018, "feature squeezing"): rounding is flat almost everywhere."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_quantiser")
class Quantiser(Standard):
    """Natural training; images are rounded to so many bits, and the gradient of rounding is 0."""

    bits: Annotated[int, Field(ge=1, le=16)] = 8
    """Of the values that pixels may have."""

    paper = "Xu et al. 2018"

    def wrap(self, net: nn.Module) -> nn.Module:
        levels = 2**self.bits - 1
        return Around(net, before=lambda x: torch.round(x * levels) / levels)
