"""Periodic adversarial scheduling (Liu, Salzmann, Lin, Tomioka, Süsstrunk, NeurIPS 2020, section 5).

The budget rises from (near) 0 and is clipped at the target, which it reaches before the end of each period; every period
ends in a snapshot, and the ensemble of the snapshots answers. The source moves eps once an epoch; here it moves every batch.
That its learning rate drops to a tenth at half and at three quarters of a period (CIFAR) is a guess: the source has the form of
the schedule and not its numbers.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from bench.defense import Context, ThreatModel, adversarial_step, defense, rising_budget

from .pgd_at import PGDTraining

_SKIP = 1e-6
"""A budget below this, in input units, is trained on clean images."""


@defense("periodic_budget")
class PeriodicBudget(PGDTraining):
    """PGD training whose eps is warmed up, once or once in every period, with an ensemble of the periods' snapshots."""

    schedule_eps: Literal["const", "linear", "cosine"] = "cosine"
    """Shape of each ramp of the budget; const for none."""
    periods: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.5, 0.75, 1.0)
    """Where the periods end, as fractions of the training; (1.0,) is a single warm-up."""
    eps_min: Annotated[float, Field(ge=0)] = 0.0
    """Start of each ramp, as a fraction of the target eps."""
    eps_max: Annotated[float, Field(ge=1)] = 2.0
    """End of each ramp, as a fraction of the target; the budget is clipped at the target itself."""
    ensemble: bool = True
    """Answer with the mean probability of the snapshots; False keeps the single model."""

    paper = "Liu et al. 2020"
    passes = "steps + 1"
    presets = {
        # Our own.
        "digits": {"steps": 7, "craft": "eval"},
        # LeNet at eps 0.4: 50 steps of 0.01, Adam 1e-4 for 100 epochs, cosine to 1.5 eps in one period.
        "mnist": {
            "steps": 50, "step": 0.025, "eps_max": 1.5, "periods": (1.0,), "model": "lenet", "epochs": 100, "batch_size": 128,
            "lr": 1e-4, "schedule": "constant", "optimizer": "adam", "weight_decay": 0.0, "craft": "eval",
        },
        "cifar": {
            "model": "resnet18?width=32", "epochs": 200, "lr": 0.1, "schedule": "periodic:0.5,0.75,1",
            "weight_decay": 1e-3, "craft": "eval",
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        if list(self.periods) != sorted(set(self.periods)) or self.periods[-1] != 1:
            raise ValueError("periods must rise and end at 1, as in (0.5, 0.75, 1.0)")

    def budget(self, threat: ThreatModel, progress: float) -> ThreatModel:
        """eps at this progress: the ramp from eps_min to eps_max, clipped at the target."""
        return threat.scaled(rising_budget(self.schedule_eps, self.eps_min, self.eps_max, self.periods)(progress))

    def perturb(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """PGD whose start is drawn within one step of the image, as the source has it; clean images at a budget of 0."""
        if ctx.threat.radius < _SKIP:
            return x
        z = ctx.threat.project(ctx.threat.scaled(self.step).random_start(x, ctx.rng.at("start")), x)
        for _ in range(self.steps):
            z = adversarial_step(z, x, y, self.step, ctx)
        return z

    def snapshots(self) -> tuple[float, ...]:
        """The ends of the periods, where there is an ensemble to build."""
        return self.periods if self.ensemble and len(self.periods) > 1 else ()
