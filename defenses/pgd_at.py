"""Adversarial training with projected gradient descent (Madry, Makelov, Schmidt, Tsipras, Vladu 2018)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, adversarial_step, defense


@defense("pgd_at")
class PGDTraining(Defense):
    """Trains on the end point of a multi-step attack from a random start."""

    steps: Annotated[int, Field(ge=1)] = 10
    """Of the attack."""
    step: Annotated[float, Field(gt=0)] = 0.25
    """Step size as a fraction of eps."""

    paper = "Madry et al. 2018"
    passes = "steps + 1"
    presets = {
        # Our own.
        "digits": {"steps": 7},
        # The MNIST challenge: 40 steps of 0.01 at eps 0.3, Adam 1e-4, 1e5 batches of 50, and its network.
        "mnist": {
            "model": "lenet?width=16", "steps": 40, "step": 1 / 30, "epochs": 83, "batch_size": 50, "lr": 1e-4,
            "schedule": "constant", "weight_decay": 0.0, "optimizer": "adam",
        },
        # Rice, Wong, Kolter 2020: 10 steps of 2/255 at eps 8/255, 200 epochs; half the step on SVHN.
        "cifar": {"epochs": 200, "lr": 0.1, "schedule": "piecewise:0.5,0.75"},
        "svhn": {"step": 1 / 8, "epochs": 200, "lr": 0.01, "schedule": "piecewise:0.5,0.75"},
    }  # fmt: skip

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(self.perturb(x, y, ctx)), y)

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """The images the network is trained on."""
        z = ctx.threat.random_start(x, ctx.rng.at("start"))
        for _ in range(self.steps):
            z = adversarial_step(z, x, y, self.step, ctx)
        return z
