"""Large logits (Carlini, Wagner 2017, on distillation): the softmax is 1 and 0 in float32, and its gradient exactly 0."""

from typing import Annotated

from pydantic import Field
from torch import nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_logit_scale")
class LogitScale(Standard):
    """Natural training; the logits are multiplied by a large number."""

    scale: Annotated[float, Field(gt=0)] = 1e4
    """What logits are multiplied by."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, after=lambda logits: self.scale * logits)
