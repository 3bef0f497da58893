"""Projected gradient descent (Madry et al. 2018) for linf and l2, with the usual losses."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from bench.live import Live
from bench.losses import LOSSES
from bench.registry import attack
from bench.rng import Rng
from bench.threat import ThreatModel
from bench.views import Gradient


@attack("pgd", access="gradient", norms={"linf", "l2"})
def pgd(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 50,
    step: Annotated[float, Field(gt=0)] = 0.25,
    loss: Literal["ce", "margin", "dlr"] = "ce",
) -> Tensor:
    """Steepest ascent from a random start, projected after every step; step is a fraction of eps."""
    live = Live(x)
    z = threat.random_start(x, rng)
    for _ in range(steps):
        ascent = model.grad(z, LOSSES[loss], y)
        live.keep(z, ascent.loss, ascent.logits.argmax(1) != y)
        model, x, y, z, grad = live.drop(model, x, y, z, ascent.grad)
        if not len(live):
            return live.result
        z = threat.project(z + step * threat.radius * threat.steepest(grad), x)
    logits = model.logits(z)
    live.keep(z, LOSSES[loss](logits, y), logits.argmax(1) != y)
    return live.result
