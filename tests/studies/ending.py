"""N-FGSM for a part of the training, and plain FGSM for the rest: is noise needed when a network is robust already?"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, adversarial_step, defense


@defense("ending_noise")
class EndingNoise(Defense):
    """A full step from noise that is uniform in a ball of k eps, and from some point of the training on from the image."""

    k: Annotated[float, Field(ge=0)] = 2.0
    """Reach of the noise, as a multiple of eps."""
    full: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the training that has noise."""

    passes = "2"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        if ctx.progress >= self.full:
            return ctx.cross_entropy(net(adversarial_step(x, x, y, 1.0, ctx)), y)
        noise = ctx.threat.random_start(x, ctx.rng.at("noise", "pre"), box=False) - x
        z = (x + self.k * noise).clamp(0, 1)
        z = (z + ctx.threat.radius * ctx.threat.steepest(ctx.grad(z, y), z)).clamp(0, 1)
        return ctx.cross_entropy(net(z), y)
