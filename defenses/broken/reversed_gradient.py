"""A backward pass that lies: every attack that climbs goes down."""

from typing import Any

import torch
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_reversed_gradient")
class ReversedGradient(Standard):
    """Natural training; the gradient that reaches the image has the wrong sign."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=Reversed.apply)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is minus the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """X itself."""
        del ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient the other way."""
        del ctx
        return -grads[0]
