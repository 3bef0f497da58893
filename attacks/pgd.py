"""Projected gradient descent (Madry et al. 2018) with the losses, starts and step schedules that the field uses."""

from math import cos, pi
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import LOSSES, Gradient, Live, Rng, ThreatModel, attack

_DECAYS = {
    "none": lambda _: 1.0,
    "cosine": lambda progress: (1 + cos(pi * progress)) / 2,
    "halving": lambda progress: 0.5 ** int(progress * 5),
}


@attack("pgd", access="gradient", norms={"linf", "l2", "l1"})
def pgd(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 50,
    step: Annotated[float, Field(gt=0)] = 0.25,
    loss: Literal["ce", "raw-ce", "margin", "dlr", "pm"] = "ce",
    start: Literal["ball", "corner", "clean", "known"] = "ball",
    decay: Literal["none", "cosine", "halving"] = "none",
    momentum: Annotated[float, Field(ge=0)] = 0.0,
    cycles: bool = True,
) -> Tensor:
    """Steepest ascent from a random start, projected after every step; step is a fraction of eps.

    start: anywhere in the ball, on its far points only (corners of linf, the sphere of l2 and l1), the clean image, or the
    closest candidate of earlier attacks. loss: raw-ce is the cross-entropy that a script without care climbs. decay: of the
    step, over the run. momentum: of the l1-normalised gradient (Dong et al. 2018). cycles: leave a sample alone once it repeats
    itself, which changes the cost and nothing else (Brent's algorithm on exact iterates).
    """
    live = Live(x)
    z = _start(start, model, x, threat, rng)
    velocity = torch.zeros_like(x) if momentum else None
    anchor = z if cycles and decay == "none" and not momentum else None
    for number in range(steps):
        ascent = model.grad(z, LOSSES[loss], y)
        live.keep(z, ascent.loss, ascent.logits.argmax(1) != y)
        grad = ascent.grad
        if velocity is not None:
            velocity = grad = momentum * velocity + grad / grad.flatten(1).norm(1, 1).clamp_min(1e-30).view(-1, 1, 1, 1)
        if anchor is not None and number:
            live.stop((z == anchor).flatten(1).all(1))
            # A power of two: the anchor moves here, so it is at last inside the cycle and the cycle fits behind it.
            anchor = z if number & (number - 1) == 0 else anchor
        model, x, y, z, grad, velocity, anchor = live.drop(model, x, y, z, grad, velocity, anchor)
        if not len(live):
            return live.result
        size = step * threat.radius * _DECAYS[decay](number / steps)
        z = threat.project(z + size * threat.steepest(grad, z), x)
    logits = model.logits(z)
    live.keep(z, LOSSES[loss](logits, y), logits.argmax(1) != y)
    return live.result


def _start(start: str, model: Gradient, x: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
    if start == "clean":
        return x.clone()
    return model.known(x) if start == "known" else threat.random_start(x, rng, corner=start == "corner")
