"""The fast adaptive boundary attack (Croce & Hein 2020): exact steps to the linearised boundary, pulled towards the image."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import BadInput, Closest, Gradient, Rng, ThreatModel, attack, margin_targeted, smallest_move


@attack("fab", access="gradient", norms={"linf", "l2", "l1"})
def fab(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 100,
    targets: Annotated[int, Field(ge=0)] = 0,
    classes: Annotated[int, Field(ge=1)] = 10,
    start: Literal["clean", "random"] = "clean",
    alpha_max: Annotated[float, Field(ge=0, le=1)] = 0.1,
    eta: Annotated[float, Field(ge=1)] = 1.05,
    beta: Annotated[float, Field(gt=0, le=1)] = 0.9,
    beyond: bool = False,
) -> Tensor:
    """Step to the nearest boundary of the likeliest wrong `classes`, or in one run for each of `targets` classes to its own.

    A start that is random, for restarts, lies in the ball of half the radius; the clean one repeats itself. With `beyond`
    the closest adversarial example is returned wherever it lies.
    """
    closest = Closest(x, threat, beyond)
    logits = model.logits(x)
    if targets >= logits.shape[1]:
        raise BadInput(f"targets = {targets}: a model of {logits.shape[1]} classes has {logits.shape[1] - 1}; take no more")
    closest.offer(x, x, logits.argmax(1) != y)
    model, x, y, rng, likely = closest.drop(model, x, y, rng, _likeliest(logits, y, targets or classes))
    for target in range(max(targets, 1)):
        z = x if start == "clean" else threat.scaled(0.5).random_start(x, rng.at("start", target))
        others = likely[:, target : target + 1] if targets else likely
        for _ in range(steps):
            if not len(closest):
                return closest.result
            lead, normal = _nearest_boundary(model, z, y, others, threat)
            z = _step(z, x, lead, normal, threat, alpha_max, eta)
            logits = model.logits(z)
            wrong = logits.argmax(1) != y
            closest.offer(z, x, wrong)
            z = torch.where(wrong.view(-1, 1, 1, 1), x + beta * (z - x), z)
            others = others if targets else _likeliest(logits, y, classes)
            model, x, y, rng, likely, others, z = closest.drop(model, x, y, rng, likely, others, z)
    return closest.result


def _likeliest(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The wrong classes of the largest logits, in order, [N, count] or fewer."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]


def _nearest_boundary(model: Gradient, z: Tensor, y: Tensor, others: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The lead [N] over the true class and its gradient, for the one of the classes whose boundary seems nearest."""
    lead, normal = torch.zeros_like(z[:, 0, 0, 0]), torch.zeros_like(z)
    nearest = torch.full_like(lead, torch.inf)
    for other in others.unbind(1):
        ascent = model.grad(z, partial(margin_targeted, target=other), y)
        distance = ascent.loss.abs() / threat.dual(ascent.grad).clamp_min(torch.finfo(z.dtype).tiny)
        nearer = distance < nearest
        nearest, lead = torch.where(nearer, distance, nearest), torch.where(nearer, ascent.loss, lead)
        normal = torch.where(nearer.view(-1, 1, 1, 1), ascent.grad, normal)
    return lead, normal


def _step(z: Tensor, x: Tensor, lead: Tensor, normal: Tensor, threat: ThreatModel, alpha_max: float, eta: float) -> Tensor:
    """Overshoot both projections onto the linearised boundary, that of z and that of x, and mix them by their distances."""
    near = smallest_move(z, normal, -lead, threat.norm)
    far = smallest_move(x, normal, (normal * (z - x)).flatten(1).sum(1) - lead, threat.norm)
    lengths = [threat.distance(move, torch.zeros_like(move)).clamp_min(1e-8) for move in (near, far)]
    alpha = (lengths[0] / (lengths[0] + lengths[1])).clamp_max(alpha_max).view(-1, 1, 1, 1)
    return ((1 - alpha) * (z + eta * near) + alpha * (x + eta * far)).clamp_(0, 1)
