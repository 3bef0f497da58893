"""FGSM training (Goodfellow, Shlens, Szegedy, ICLR 2015): the cheapest adversarial training, and the one that collapses.

Beyond a moderate eps the network learns to withstand the single step and nothing else (catastrophic overfitting). Schedules
are those of Andriushchenko & Flammarion 2020, who ramp the step on SVHN to 1.25 eps in five epochs and clip it at eps.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, adversarial_step, defense


@defense("fgsm_at")
class FGSMTraining(Defense):
    """Trains on a single full step from the image itself."""

    step: Annotated[float, Field(gt=0)] = 1.0
    """Step size as a fraction of eps."""

    paper = "Goodfellow et al. 2015"
    passes = "2"
    presets = {
        "cifar": {"epochs": 30, "lr": 0.2, "schedule": "triangular:0.4"},
        "svhn": {
            "epochs": 15, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,3.75",
        },
    }  # fmt: skip

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(self.perturb(x, y, ctx)), y)

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """The images the network is trained on."""
        return adversarial_step(x, x, y, self.step, ctx)
