"""Pixels drawn black or white with their grey value as the probability: noise that no gradient passes."""

import torch
from torch import Tensor, nn

from bench.defense import Context
from bench.defenses.standard import Standard
from bench.registry import defense

from .around import Around


@defense("broken_binarised")
class Binarised(Standard):
    """Natural training on randomly binarised images, which are drawn anew for every answer."""

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(binarised(x)), y)

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=binarised)


def binarised(x: Tensor) -> Tensor:
    """1 with probability x, else 0, from torch's global generator."""
    return torch.bernoulli(x.clamp(0, 1))
