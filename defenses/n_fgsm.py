"""N-FGSM (de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania, NeurIPS 2022): strong noise, a step, and no projection.

`noise_fgsm` holds the same method as one of its cells, and the noise here has the same name: the images of the two differ by
rounding alone (there the noise is made from its standard deviation, 2 eps / sqrt(3)). Other norms than linf are our extension:
noise uniform in the ball of k eps.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from bench.defense import Context, defense

from .fgsm_at import FGSMTraining


@defense("n_fgsm")
class NFGSM(FGSMTraining):
    """Single-step training around noisy images; the example may lie (k + step) eps away from the image."""

    k: Annotated[float, Field(ge=0)] = 2.0
    """Reach of the uniform noise, as a multiple of eps. The source takes 3 for SVHN at 12/255."""
    clip: bool = False
    """Project the finished example back into the ball; that makes another, weaker method of it."""

    paper = "de Jorge et al. 2022"
    passes = "2"
    presets = {
        "cifar": {"epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"},
        # eps is ramped over the first five epochs.
        "svhn": {"epochs": 30, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,6"},
    }

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        noise = ctx.threat.random_start(x, ctx.rng.at("noise", "pre"), box=False) - x
        z = (x + self.k * noise).clamp(0, 1)
        z = (z + self.step * ctx.threat.radius * ctx.threat.steepest(ctx.grad(z, y), z)).clamp(0, 1)
        return ctx.threat.project(z, x) if self.clip else z
