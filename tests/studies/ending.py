"""Noise for a part of the training, and plain FGSM for the rest: is noise needed when a network is robust already?"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, adversarial_step, defense
from bench.defenses.fast_at import FastAT
from bench.defenses.n_fgsm import NFGSM


@defense("ending_noise")
class EndingNoise(NFGSM):
    """N-FGSM, and from some point of the training on a full step from the image."""

    full: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the training that has noise."""

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return super().perturb(x, y, ctx) if ctx.progress < self.full else adversarial_step(x, x, y, self.step, ctx)


@defense("ending_start")
class EndingStart(FastAT):
    """FGSM-RS, and from some point of the training on a step of eps from the image instead of a random start."""

    full: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the training that has random starts."""

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        if ctx.progress < self.full:
            return super().loss(net, x, y, ctx)
        return ctx.cross_entropy(net(adversarial_step(x, x, y, 1.0, ctx)), y)
