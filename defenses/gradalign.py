"""GradAlign (Andriushchenko & Flammarion, NeurIPS 2020): FGSM training of a network that is kept linear inside the ball.

As in the source, the gradient at the image is a constant, the random point is not clipped to the box, and where a schedule
holds the step's budget down (SVHN) the ball of the regulariser is the full one. The source steps by 1.25 eps and clips to eps.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, ThreatModel, defense, projected_step

from .fgsm_at import FGSMTraining

_FLAT = 1e-18
"""A gradient of this norm or less counts as none: its square is beyond float32."""


@defense("gradalign")
class GradAlign(FGSMTraining):
    """Single-step training with a penalty on the angle between the input gradients at an image and at a point near it."""

    weight: Annotated[float, Field(ge=0)] = 0.2
    """Of the penalty, at eps 8/255 in linf."""
    growth: Annotated[float, Field(gt=0)] = 10.0
    """By which the weight grows with every 8/255 more of eps; 1 for one weight. Norms other than linf have one weight."""

    paper = "Andriushchenko & Flammarion 2020"
    passes = "3 (the third differentiated twice)"
    presets = {
        # Our own: the law was fitted to eps of at most 16/255 and says nothing of larger ones.
        "digits": {"growth": 1.0},
        "mnist": {"growth": 1.0},
        "cifar": {"epochs": 30, "lr": 0.3, "schedule": "triangular:0.4"},
        "svhn": {
            "weight": 2.5, "growth": 1.6,
            "epochs": 15, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,3.75",
        },
    }  # fmt: skip

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        here = ctx.grad(x, y)
        loss = ctx.cross_entropy(net(projected_step(x, x, here, self.step, ctx.threat)), y)
        near = ctx.target.random_start(x, ctx.rng.at("near"), box=False)
        there = ctx.gradient(near, lambda logits: F.cross_entropy(logits, y, reduction="sum"), create_graph=True)
        return loss + self.strength(ctx.target) * misalignment(here, there)

    def strength(self, threat: ThreatModel) -> float:
        """The weight of the penalty at this budget: log-linear in eps."""
        return self.weight * self.growth ** (threat.radius * 255 / 8 - 1 if threat.norm == "linf" else 0)


def misalignment(here: Tensor, there: Tensor) -> Tensor:
    """The mean of 1 - cos of the angle between gradients [N, ...] and [N, ...], over the samples that have both."""
    first, second = _direction(here), _direction(there)
    both = first.any(1) & second.any(1)
    apart = 1 - (first * second).sum(1)
    return (apart * both).sum() / both.sum().clamp_min(1)


def _direction(grad: Tensor) -> Tensor:
    """The gradients at unit length, [N, D]; 0 for none."""
    flat = grad.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    unit: Tensor = flat / length.where(length > _FLAT, torch.inf)
    return unit
