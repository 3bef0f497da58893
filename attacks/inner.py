"""Attacks on the networks inside a network, such as the members of a vote or what stands behind a gate (Tramer et al. 2020)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from bench.attack import Gradient, Rng, ThreatModel, attack

from .apgd import apgd
from .pgd import pgd


@attack("inner", access="gradient", norms={"linf", "l2", "l1"})
def inner(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    reading: Literal["inner all", "inner 1", "inner 2", "inner 3", "inner 4"] = "inner all",
    steps: Annotated[int, Field(ge=1)] = 50,
    step: Annotated[float, Field(gt=0)] = 1.0,
    loss: Literal["ce", "margin"] = "margin",
    targets: Annotated[int, Field(ge=0)] = 0,
) -> Tensor:
    """PGD with a decaying step on what one of the networks inside answers, or all on average; the whole is the judge.

    reading: which; a network without it is not attacked. step is a fraction of eps. targets: APGD towards so many wrong
    classes instead.
    """
    view = model.read(reading)
    if view is None:
        return x
    if targets:
        return apgd(view, x, y, threat, rng, steps=steps, targets=targets, loss="margin")
    return pgd(view, x, y, threat, rng, steps=steps, step=step, loss=loss, decay="cosine")
