"""Images normalised by the batch they come in (as with batch norms in train mode): an answer depends on the company.

Under plain PGD, which attacks and counts one batch, it looks robust: what the perturbations have in common is subtracted. In
another batch size or order the same images get other answers; alone, every image gets the same.
"""

import torch
from torch import Tensor, nn

from bench.defense import Context, defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_batch_statistics")
class BatchStatistics(Standard):
    """Natural training; at test time too, each pixel is normalised by its mean and deviation over the batch."""

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(normalised(x)), y)

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=normalised)


def normalised(x: Tensor) -> Tensor:
    """Zero mean and unit deviation over the batch, pixel by pixel; pixels that hardly vary are not blown up."""
    deviation = torch.sqrt(x.var(0, unbiased=False) + 0.1)
    return (x - x.mean(0)) / deviation
