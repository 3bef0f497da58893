"""Answers squashed until they saturate: the slope of the sigmoid is exactly 0 in float32, and that of every loss with it."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_saturation")
class Saturation(Standard):
    """Natural training; a steep sigmoid of the logits, about the middle of the two largest, is the answer."""

    steepness: Annotated[float, Field(gt=0)] = 20.0
    """Of the sigmoid."""
    height: Annotated[float, Field(gt=0)] = 5.0
    """The answers lie between -height and height."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, after=self.squash)

    def squash(self, logits: Tensor) -> Tensor:
        """Tanh, which is the sigmoid with another scale; one class ends up above 0."""
        middle = logits.topk(2).values.mean(1, keepdim=True)
        return self.height * (self.steepness * (logits - middle)).tanh()
