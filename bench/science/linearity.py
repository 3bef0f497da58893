"""How linear a loss is between an image and its perturbation, and how long the perturbation is.

Theories of adversarial training with kernels expand the loss L to first order, L(x + d) = L(x) + g.d, and take d for small.
Both can be measured. All of it in float64, because at small radii what is measured is the difference of nearly equal numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel, forward, raw_cross_entropy, slopes
from bench.science.ascent import Ascent, losses


class Linearity(NamedTuple):
    """Of every sample, [N] each."""

    length: Tensor
    """The l2 norm of the perturbation d."""
    change: Tensor
    """L(x + d) - L(x)."""
    predicted: Tensor
    """g.d, which it would be if the loss were linear."""
    cosine: Tensor
    """Between the loss gradients at x and at x + d; 1 for a linear loss, 0 where either is 0."""

    @property
    def error(self) -> Tensor:
        """|L(x + d) - L(x) - g.d| / |L(x + d) - L(x)|, 0 for a linear loss; infinite where the loss has not changed."""
        return (self.change - self.predicted).abs() / self.change.abs()


def linearity(net: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Linearity:
    """Between x and z, both float64 [N, C, H, W], of a network in float64."""
    here, there = (slopes(net, point, y, raw_cross_entropy).flatten(1) for point in (x, z))
    delta = (z - x).flatten(1)
    cosine = torch.nn.functional.cosine_similarity(here, there, dim=1, eps=1e-300)
    return Linearity(delta.norm(dim=1), losses(net, z, y) - losses(net, x, y), (here * delta).sum(1), cosine)


def worst_error(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, ascent: Ascent) -> Tensor:
    """The largest |L(x + d) - L(x) - g.d| that an ascent finds in the ball, [N]: the gamma of Qin et al. (2019), from below."""
    here, start = slopes(net, x, y, raw_cross_entropy), losses(net, x, y)
    found = torch.zeros_like(start)

    def slope(z: Tensor) -> Tensor:
        """Of the error at z, whose size is kept on the way."""
        nonlocal found
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            error = raw_cross_entropy(forward(net, z), y) - start - (here * (z - x)).flatten(1).sum(1)
            (rising,) = torch.autograd.grad(error.sum(), z)
        found = torch.maximum(found, error.detach().abs())
        return rising * error.detach().sign().view(-1, 1, 1, 1)

    slope(ascent.end(net, x, y, threat, rng, slope))
    return found
