"""MART (Wang, Zou, Yi, Bailey, Ma, Gu, ICLR 2020): misclassified clean images ask for more smoothness.

It raises cross-entropy PGD accuracy more than robustness: read its row by the attacks on margins. The preset for CIFAR is the
authors' ResNet-18 script, whose epochs count from 1. The one for MNIST is our own, with 10 steps of eps / 4 and a budget that
rises in the first half: at all of eps from the start it never begins to learn there.
"""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, defense

from .trades import TRADES, divergence, near


@defense("mart")
class MART(TRADES):
    """Boosted cross-entropy on adversarial images plus a divergence that weighs most where the clean answer is unsure."""

    beta: Annotated[float, Field(ge=0)] = 5.0

    paper = "Wang et al. 2020"
    passes = "steps + 2"
    presets = {
        "default": {"craft": "eval"},
        "mnist": {"eps_schedule": "linear:0,2", "craft": "eval"},
        "cifar": {
            "model": "resnet18", "step": 7 / 31, "epochs": 120, "lr": 0.01, "weight_decay": 3.5e-3,
            "schedule": f"piecewise:{74 / 120},{89 / 120},{99 / 120}", "craft": "eval",
        },
    }  # fmt: skip

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        z = self.ascend(near(x, ctx), x, lambda logits: F.cross_entropy(logits, y, reduction="sum"), ctx)
        clean, moved = net(x), net(z)
        smoothness = (divergence(clean, moved) * doubt(clean, y)).mean()
        return ctx.cross_entropy(moved, y) + runner_up(moved, y).mean() + self.beta * smoothness


def runner_up(logits: Tensor, y: Tensor) -> Tensor:
    """What boosts the cross-entropy: -log(1.0001 - q) of the likeliest wrong class, [N]."""
    wrong = logits.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
    return -(1.0001 - wrong).log()


def doubt(logits: Tensor, y: Tensor) -> Tensor:
    """1.0000001 - p of the true class, [N], in [1e-7, 1.0000001]."""
    return 1.0000001 - logits.softmax(1).gather(1, y[:, None]).squeeze(1)
