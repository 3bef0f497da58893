"""Backward pass differentiable approximation (Athalye et al. 2018): gradients past what denies them."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from bench.attack import Gradient, Rng, ThreatModel, attack

from .pgd import pgd


@attack("bpda", access="gradient", norms={"linf", "l2", "l1"})
def bpda(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    past: Literal["images", "rounding", "loops", "noise"] = "images",
    steps: Annotated[int, Field(ge=1)] = 50,
    step: Annotated[float, Field(gt=0)] = 1.0,
    loss: Literal["ce", "margin"] = "margin",
) -> Tensor:
    """PGD with a decaying step, whose gradient leaves out what stands in its way; the network itself is the judge.

    past: images, all that comes before the last network, as if it were the identity; rounding, detach and no_grad, as if they
    were not there; loops, gradients that the network takes itself, differentiated; noise, ripples finer than half of eps,
    averaged away. A network without it is not attacked. step is a fraction of eps.
    """
    view = model.read(past)
    return x if view is None else pgd(view, x, y, threat, rng, steps=steps, step=step, loss=loss, decay="cosine")
