"""TRADES (Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, ICML 2019): accuracy and smoothness as two terms of the loss.

The presets are those of the authors' MNIST script, whose epochs count from 1, with our network (their first version dropped the
rate once, at epoch 55), and for CIFAR the 110 epochs of Pang et al. (ICLR 2021);
the authors' own CIFAR recipe is `epochs=76 weight_decay=2e-4 schedule=piecewise:0.97368` on WRN-34-10 at eps 0.031.
"""

from collections.abc import Callable
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, defense, projected_step

NOISE = 1e-3
"""Deviation of the start, in input units: at the image itself the divergence has no gradient."""


@defense("trades")
class TRADES(Defense):
    """Cross-entropy on clean images plus the divergence of the answers to their worst neighbours."""

    steps: Annotated[int, Field(ge=1)] = 10
    """Of the search for the worst neighbour."""
    step: Annotated[float, Field(gt=0)] = 0.25
    """Step size as a fraction of eps."""
    beta: Annotated[float, Field(ge=0)] = 6.0
    """Weight of the divergence."""

    paper = "Zhang et al. 2019"
    passes = "steps + 2 (+ 1 forward)"
    presets = {
        "default": {"craft": "eval"},
        "mnist": {
            "steps": 40, "step": 1 / 30, "beta": 1.0, "epochs": 100, "batch_size": 128, "optimizer": "sgd", "lr": 0.01,
            "schedule": "piecewise:0.54,0.74,0.89", "weight_decay": 0.0, "craft": "eval",
        },
        "cifar": {
            "epochs": 110, "lr": 0.1, "schedule": f"piecewise:{100 / 110},{105 / 110}",
            "craft": "eval",
        },
    }  # fmt: skip

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        settled = ctx.once("settled", lambda: ctx.gradient.answers(x))
        z = self.ascend(near(x, ctx), x, lambda logits: divergence(settled, logits).sum(), ctx)
        clean = net(x)
        return ctx.cross_entropy(clean, y) + self.beta * divergence(clean, net(z)).mean()

    def ascend(self, z: Tensor, x: Tensor, objective: Callable[[Tensor], Tensor], ctx: Context) -> Tensor:
        """The end point of projected steps from z along the gradient of a scalar of the logits."""
        for _ in range(self.steps):
            z = projected_step(z, x, ctx.ascent(z, objective), self.step, ctx.threat)
        return z


def near(x: Tensor, ctx: Context) -> Tensor:
    """A start hardly away from the image; it may leave the box, as in the source."""
    return x + NOISE * ctx.rng.at("start").normal(x.shape[1:])


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """KL(p_clean || p_moved) of two sets of logits, [N]; differentiable in both."""
    return F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
