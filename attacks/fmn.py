"""The fast minimum-norm attack (Pintor et al. 2021): every sample has its own ball, resized until it touches the boundary."""

from math import cos, pi
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import Closest, Gradient, Norm, Rng, ThreatModel, attack, margin, unit


@attack("fmn", access="gradient", norms={"linf", "l2", "l1"}, seeded=False)
def fmn(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 100,
    step: Annotated[float, Field(gt=0)] | None = None,
    gamma: Annotated[float, Field(gt=0.001, lt=1)] = 0.05,
    beyond: bool = False,
) -> Tensor:
    """Ascent of the margin in a ball that shrinks around successes and grows after failures.

    `step` is the l2 length of the first step: 1 unless told, and 10 in linf. With `beyond` the closest adversarial example
    is returned wherever it lies. No noise: a restart repeats the run. Our own: before its first success, too, a ball never
    shrinks and grows by a factor; the distance to the linearised boundary alone can stop short of it for good, by rounding
    or at an edge of the box.
    """
    del rng
    closest = Closest(x, threat, beyond)
    step = step or (10.0 if threat.norm == "linf" else 1.0)
    z, best = x, torch.full_like(y, torch.inf, dtype=x.dtype)
    limit = farthest(x, threat)
    radius = torch.zeros_like(limit)
    for k in range(steps):
        anneal = (1 + cos(pi * k / steps)) / 2
        length, factor = step * (0.01 + 0.99 * anneal), 0.001 + (gamma - 0.001) * anneal
        ascent = model.grad(z, margin, y)
        wrong = ascent.logits.argmax(1) != y
        distance = closest.offer(z, x, wrong)
        best = torch.where(wrong, torch.minimum(distance, best), best)
        to_boundary = ascent.loss.abs() / threat.dual(ascent.grad).clamp_min(torch.finfo(x.dtype).tiny)
        grown = torch.where(best.isfinite(), radius, torch.maximum(radius, distance + to_boundary)) * (1 + factor)
        radius = torch.minimum(torch.where(wrong, torch.minimum(radius * (1 - factor), best), grown), limit)
        model, x, y, z, best, radius, limit, grad = closest.drop(model, x, y, z, best, radius, limit, ascent.grad)
        if not len(closest):
            return closest.result
        ahead = z + length * unit(grad)
        z = (x + _onto_ball(ahead - x, radius, threat.norm)).clamp_(0, 1)
    closest.offer(z, x, model.labels(z) != y)
    return closest.result


def farthest(x: Tensor, threat: ThreatModel) -> Tensor:
    """The distance from x to the farthest corner of the box, [N]."""
    return threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))


def _onto_ball(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """The Euclidean projection of each perturbation onto the ball of its own radius."""
    flat, radius = delta.flatten(1), radius.unsqueeze(1)
    if norm == "linf":
        flat = torch.minimum(torch.maximum(flat, -radius), radius)
    elif norm == "l2":
        flat = flat * (radius / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    else:
        size = flat.abs()
        count = torch.arange(1, size.shape[1] + 1, device=size.device)
        # (sum of the k largest - radius) / k is largest where k is the size of the support (Duchi et al. 2008).
        threshold = (size.sort(dim=1, descending=True).values.cumsum(1) - radius).div(count).amax(1, keepdim=True)
        flat = flat.sign() * (size - threshold.clamp_min(0)).clamp_min(0)
    return flat.view_as(delta)
