"""Fast adversarial training, FGSM-RS (Wong, Rice, Kolter 2020): one oversized step from a random start."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, adversarial_step, defense


@defense("fast_at")
class FastAT(Defense):
    """Trains on a single projected step from a uniform start; the step is a little longer than eps."""

    step: Annotated[float, Field(gt=0)] = 1.25
    """Step size as a fraction of eps; at 2 the training collapses."""

    box_start: bool = True
    """Clamp the random start to [0, 1] before its gradient is taken. The source does so for CIFAR-10 and not for MNIST,
    where it decides whether the training collapses."""

    paper = "Wong et al. 2020"
    passes = "2"
    presets = {
        "mnist": {"box_start": False},
        "cifar": {"epochs": 15, "lr": 0.2, "schedule": "triangular:0.5"},
        # Andriushchenko & Flammarion 2020 ramp the step over the first five epochs; here the budget, and the step with it.
        "svhn": {"epochs": 15, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,3"},
    }

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        z = ctx.threat.random_start(x, ctx.rng.at("start"), box=self.box_start)
        return ctx.cross_entropy(net(adversarial_step(z, x, y, self.step, ctx)), y)
