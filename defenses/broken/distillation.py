"""Defensive distillation's effect without its teacher (Papernot et al. 2016): trained hot, used cold.

Training at a high temperature makes the logits as many times larger; at test time the softmax saturates and its gradient
vanishes (Carlini, Wagner 2017).
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, defense
from bench.defenses.standard import Standard


@defense("broken_distillation")
class Distillation(Standard):
    """Natural training on logits divided by a temperature, which is left out at test time."""

    temperature: Annotated[float, Field(ge=1)] = 100.0
    """What logits are divided by in training."""

    paper = "Papernot et al. 2016"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(x) / self.temperature, y)
