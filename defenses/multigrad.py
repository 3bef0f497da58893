"""MultiGrad (Golgooni, Saberi, Eskandar, Rohban 2021): a step along the signs that gradients at random points agree on."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.defense import Context, ThreatModel, defense, projected_step

from .fgsm_at import FGSMTraining


@defense("multigrad")
class MultiGrad(FGSMTraining):
    """Single-step training that moves a pixel only where gradients at several points of the ball have the same sign."""

    step: Annotated[float, Field(gt=0)] = 2.0
    points: Annotated[int, Field(ge=1)] = 3
    """Random points at which a gradient is taken; the step itself starts from the image."""
    agreement: Annotated[int, Field(ge=1)] | None = None
    """How many of the signs must agree; None for all of them."""

    paper = "Golgooni et al. 2021"
    passes = "points + 1"
    presets = {
        "cifar": {"epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"},
        "svhn": {"epochs": 15, "lr": 0.01, "schedule": "triangular:0.4", "augment": "none"},
    }

    def __post_init__(self) -> None:
        if self.agreement is not None and self.agreement > self.points:
            raise ValueError(f"{self.agreement} of {self.points} points cannot agree; give at most {self.points}")

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        starts = (ctx.threat.random_start(x, ctx.rng.at("start", point)) for point in range(self.points))
        signs = torch.stack([ctx.grad(start, y).sign() for start in starts])
        return projected_step(x, x, self.consensus(signs), self.step, ctx.threat)

    def consensus(self, signs: Tensor) -> Tensor:
        """The sum of the signs [points, ...] where enough of them agree, else 0."""
        votes = signs.sum(0)
        return votes * (votes.abs() >= 2 * (self.agreement or self.points) - self.points)

    def skip(self, dataset: str, threat: ThreatModel) -> str | None:
        """Votes are cast by signs."""
        del dataset
        return None if threat.norm == "linf" else f"{self.name} counts signs of gradients, of which {threat.norm} has none"
