"""Decoupled direction and norm (Rony et al. 2019): the gradient turns the perturbation, the outcome sets its l2 norm."""

from math import cos, pi
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import Closest, Gradient, Rng, ThreatModel, attack, cross_entropy

from .fmn import farthest


@attack("ddn", access="gradient", norms={"l2"})
def ddn(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 100,
    radius: Annotated[float, Field(gt=0)] = 1.0,
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    levels: Annotated[int, Field(ge=2)] | None = None,
    beyond: bool = False,
) -> Tensor:
    """Turn the perturbation along the gradient, then shrink its norm after a success and grow it after a failure.

    The first norm is `radius`. With `levels` (256 in the paper) every iterate is rounded to that many grey levels; with
    `beyond` the closest adversarial example is returned wherever it lies. Noise enters only where the gradient is 0.
    """
    closest = Closest(x, threat, beyond)
    z, limit = x, farthest(x, threat)
    norm = torch.full_like(limit, radius)
    noise = rng.at("direction").normal(x.shape[1:])
    for k in range(steps):
        length = 0.01 + 0.99 * (1 + cos(pi * k / steps)) / 2
        ascent = model.grad(z, cross_entropy, y)
        wrong = ascent.logits.argmax(1) != y
        closest.offer(z, x, wrong)
        norm = torch.minimum(norm * torch.where(wrong, 1 - gamma, 1 + gamma), limit)
        model, x, y, z, limit, norm, noise, grad = closest.drop(model, x, y, z, limit, norm, noise, ascent.grad)
        if not len(closest):
            return closest.result
        # Normal noise rolled along is as good as drawn afresh, and costs less.
        lost = (grad == 0).flatten(1).all(1).view(-1, 1, 1, 1)
        grad = torch.where(lost, noise.flatten(1).roll(k, 1).view_as(x), grad)
        ahead = z + length * threat.steepest(grad)
        z = (x + norm.view(-1, 1, 1, 1) * threat.steepest(ahead - x)).clamp_(0, 1)
        if levels:
            z = (z * (levels - 1)).round_() / (levels - 1)
    closest.offer(z, x, model.labels(z) != y)
    return closest.result
