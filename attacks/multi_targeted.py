"""Multi-targeted PGD (Gowal et al. 2019): an ascent towards one wrong class after the other."""

from functools import partial
from math import cos, pi
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from bench.attack import Gradient, Live, Order, Rng, ThreatModel, attack, margin, margin_targeted, wrong_classes


@attack("multi_targeted", access="gradient", norms={"linf", "l2", "l1"})
def multi_targeted(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 50,
    step: Annotated[float, Field(gt=0)] = 0.25,
    decay: Literal["none", "cosine"] = "none",
    targets: Annotated[int, Field(ge=1)] | None = None,
    order: Order = "logits",
) -> Tensor:
    """PGD from a random start on the lead of one wrong class over the true one, for so many classes in this order, or all.

    step is a fraction of eps; decay: of the step, on the way to each class.
    """
    live = Live(x)
    queue = wrong_classes(model, x, y, threat, order, targets)
    for turn in range(queue.shape[1]):
        z = threat.random_start(x, rng.at("start", turn))
        for number in range(steps):
            ascent = model.grad(z, partial(margin_targeted, target=queue[:, turn]), y)
            live.keep(z, margin(ascent.logits, y), ascent.logits.argmax(1) != y)
            model, x, y, z, rng, queue, grad = live.drop(model, x, y, z, rng, queue, ascent.grad)
            if not len(live):
                return live.result
            size = step * threat.radius * ((1 + cos(pi * number / steps)) / 2 if decay == "cosine" else 1)
            z = threat.project(threat.steepest(grad, z).mul_(size).add_(z), x)
        logits = model.logits(z)
        live.keep(z, margin(logits, y), logits.argmax(1) != y)
        model, x, y, rng, queue = live.drop(model, x, y, rng, queue)
        if not len(live):
            break
    return live.result
