"""How much the gradient of the adversarial loss changes between nearby weights, and how much of it the perturbations make.

Between weights a and b the gradient of the loss at fixed perturbations changes by at most a constant times |a - b|. That of the
adversarial loss also changes because the perturbations do, by up to a constant times eps however close a and b are (Liu et al.,
NeurIPS 2020): gradients scatter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import Rng, ThreatModel
from bench.science.ascent import Ascent
from bench.science.weights import gradient, moved, weights_of


class Scattering(NamedTuple):
    """Between the weights a of a network and a + v; scalars, but for the perturbations, [N]."""

    length: Tensor
    """|v|."""
    gradient: Tensor
    """The norm of the gradient of the adversarial loss at a."""
    change: Tensor
    """Of that gradient from a to a + v, attacked anew there."""
    by_weights: Tensor
    """What it would be, were the perturbations those of a: the part that vanishes with |v|."""
    by_perturbations: Tensor
    """What the perturbations alone change at a + v: the part that need not."""
    cosine: Tensor
    """Between the two gradients of the adversarial loss."""
    deltas: Tensor
    """The cosine between the perturbations of a and of a + v, [N]; NaN where one of them is 0."""
    signs: Tensor
    """The same of their signs, [N]."""


def scattering(
    net: nn.Module, parts: list[tuple[Tensor, Tensor, Rng]], v: Tensor, threat: ThreatModel, ascent: Ascent
) -> Scattering:
    """Both networks are attacked from the same starts, so that the perturbations differ by the weights alone."""
    here, weights = _attacked(net, parts, threat, ascent), weights_of(net)
    before = gradient(net, here)
    with moved(net, weights + v):
        there = _attacked(net, parts, threat, ascent)
        fixed, after = gradient(net, here), gradient(net, there)
    clean = torch.cat([x for x, _, _ in parts])
    one, other = ((torch.cat([z for z, _ in found]) - clean).flatten(1) for found in (here, there))
    change, by_weights, by_perturbations = ((a - b).norm() for a, b in ((after, before), (fixed, before), (after, fixed)))
    return Scattering(
        v.norm(), before.norm(), change, by_weights, by_perturbations, F.cosine_similarity(before, after, dim=0),
        _cosine(one, other), _cosine(one.sign(), other.sign()),
    )  # fmt: skip


def _attacked(
    net: nn.Module, parts: list[tuple[Tensor, Tensor, Rng]], threat: ThreatModel, ascent: Ascent
) -> list[tuple[Tensor, Tensor]]:
    return [(ascent.end(net, x, y, threat, rng), y) for x, y, rng in parts]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of every row; NaN where one of the two is 0."""
    found: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return found


def plateau(losses: list[float], classes: int, share: float = 0.95) -> int:
    """How many of these training losses, from the first on, are those of a constant answer: none below share * log K."""
    bound = share * math.log(classes)
    return next((number for number, loss in enumerate(losses) if loss < bound), len(losses))
