"""ZeroGrad (Golgooni, Saberi, Eskandar, Rohban 2021): FGSM-RS in which the smallest entries of the gradient do not count.

On CIFAR-100 the source rotates images by up to 15 degrees besides cropping and mirroring them; here they are not rotated.
"""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from bench.defense import Context, ThreatModel, defense, projected_step

from .fgsm_at import FGSMTraining


@defense("zerograd")
class ZeroGrad(FGSMTraining):
    """Single-step training from a random start that leaves pixels alone where the gradient is nearly zero."""

    step: Annotated[float, Field(gt=0)] = 2.0
    q: Annotated[float, Field(ge=0, lt=1)] = 0.35
    """Share of each image's gradient, its smallest entries, that is set to zero."""

    paper = "Golgooni et al. 2021"
    passes = "2"
    presets = {
        "cifar": {"epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"},
        "cifar100": {"q": 0.45, "epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"},
        "svhn": {"q": 0.7, "epochs": 15, "lr": 0.01, "schedule": "triangular:0.4", "augment": "none"},
    }

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        z = ctx.threat.random_start(x, ctx.rng.at("start"))
        return projected_step(z, x, self.filtered(ctx.grad(z, y)), self.step, ctx.threat)

    def filtered(self, grad: Tensor) -> Tensor:
        """The gradient [N, ...] without what lies below the quantile q of each sample's own absolute values."""
        size = grad.abs().flatten(1)
        # What lies below the interpolated quantile lies below the next order statistic, ties included.
        rank = 1 + math.ceil(self.q * (size.shape[1] - 1))
        threshold = size.kthvalue(rank, dim=1, keepdim=True).values
        return grad * (size >= threshold).view(grad.shape)

    def skip(self, dataset: str, threat: ThreatModel) -> str | None:
        """Only a sign makes small entries large."""
        del dataset
        return (
            None if threat.norm == "linf" else f"{self.name} repairs the sign of the gradient, of which {threat.norm} has none"
        )
