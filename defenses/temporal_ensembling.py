"""Adversarial training with temporal ensembling (Dong, Xu, Yang, Pang, Deng, Su, Zhu, ICLR 2022, arXiv 2106.01606).

The source's epochs 90 and 150 of 200, which count from 1, are shares of the training here, and the weight moves every batch,
not every epoch. The penalty is a mean over samples and classes, as in the source: with more classes it weighs less. The random
start of PGD is clamped to [0, 1] before its first gradient, which the source does after it.
"""

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, defense

from .trades import TRADES, divergence, near

_CIFAR = {"model": "resnet18", "epochs": 200, "lr": 0.1, "schedule": "piecewise:0.5,0.75", "craft": "eval"}


@defense("temporal_ensembling")
class TemporalEnsembling(TRADES):
    """PGD training or TRADES that, from the middle on, stays close to the network's own past answers to clean images."""

    base: Literal["pgd", "trades"] = "pgd"
    """What is trained besides."""
    weight: Annotated[float, Field(ge=0)] = 300.0
    """Of the squared distance to the past answers, once it is full."""
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of a sample's past answers stays at each visit."""
    begin: Annotated[float, Field(ge=0, le=1)] = 89 / 200
    """Share of the training after which answers are gathered and weighed."""
    full: Annotated[float, Field(ge=0, le=1)] = 149 / 200
    """Share of the training after which the weight is full."""

    paper = "Dong et al. 2022"
    passes = "steps + 1 (trades: + 2) (+ 1 forward)"
    presets = {
        "default": {"craft": "eval"},
        # Our own; at all of eps from the start it never begins to learn on MNIST.
        "digits": {"steps": 7, "craft": "eval"},
        "mnist": {"eps_schedule": "linear:0,2", "craft": "eval"},
        "cifar": _CIFAR,
        "svhn": {**_CIFAR, "augment": "none"},
    }

    def __post_init__(self) -> None:
        if self.full < self.begin:
            raise ValueError("full must not come before begin")

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        settled, past = ctx.once("past", lambda: self._past(x, ctx))
        weight = self.ramp(ctx.progress)

        def drift(logits: Tensor) -> Tensor | float:
            return weight * F.mse_loss(logits.softmax(1), past) if past is not None else 0.0

        # Sums over the batch, so that no sample's step depends on how many there are.
        if self.base == "pgd":
            start = ctx.threat.random_start(x, ctx.rng.at("start"))
            z = self.ascend(start, x, lambda f: F.cross_entropy(f, y, reduction="sum") + len(x) * drift(f), ctx)
            moved = net(z)
            return ctx.cross_entropy(moved, y) + drift(moved)
        z = self.ascend(near(x, ctx), x, lambda f: self.beta * divergence(settled, f).sum() + len(x) * drift(f), ctx)
        clean = net(x)
        return ctx.cross_entropy(clean, y) + self.beta * divergence(clean, net(z)).mean() + drift(clean)

    def ramp(self, progress: float) -> float:
        """The weight at this progress of the training: 0, then from exp(-5) of it to all of it."""
        if progress < self.begin:
            return 0.0
        left = (self.full - progress) / (self.full - self.begin) if progress < self.full else 0.0
        return self.weight * math.exp(-5 * left**2)

    def _past(self, x: Tensor, ctx: Context) -> tuple[Tensor | None, Tensor | None]:
        """The clean logits, and the sample's answers up to now with these, each [N, K]; None where nobody asks."""
        gathers = ctx.progress >= self.begin
        settled = ctx.gradient.answers(x) if gathers or self.base == "trades" else None
        if settled is None or not gathers:
            return settled, None
        past = self.keep * ctx.rows("answers", settled.shape[1:]) + (1 - self.keep) * settled.softmax(1)
        ctx.remember_rows("answers", past)
        return settled, past / past.sum(1, keepdim=True)
