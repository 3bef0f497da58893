"""Auto-PGD (Croce & Hein 2020): PGD with momentum whose step size halves, per sample, when progress stalls."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.errors import BadInput
from bench.live import Live
from bench.losses import LOSSES, Loss, dlr_targeted
from bench.registry import attack
from bench.rng import Rng
from bench.threat import ThreatModel
from bench.views import Gradient


@attack("apgd", access="gradient", norms={"linf", "l2"})
def apgd(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 100,
    loss: Literal["ce", "margin", "dlr"] = "ce",
    targets: Annotated[int, Field(ge=0)] = 0,
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75,
) -> Tensor:
    """PGD that chooses its own step sizes; with targets, one targeted-DLR run for each of the likeliest wrong classes."""
    live = Live(x)
    if not targets:
        return _climb(model, x, y, threat, rng, live, LOSSES[loss], None, steps, rho)
    logits = model.logits(x)
    if targets >= logits.shape[1] or logits.shape[1] < 4:
        raise BadInput(f"targets = {targets}: targeted DLR needs 4 classes and fewer targets than classes ({logits.shape[1]})")
    order = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :targets]
    standing = torch.arange(len(x), device=x.device)
    result = x.clone()
    for number, target in enumerate(order.unbind(1)):
        run = Live(x[standing])
        t, here = target[standing], rng[standing].at("target", number)
        z = _climb(model[standing], x[standing], y[standing], threat, here, run, None, t, steps, rho)
        result[standing] = z
        standing = standing[~run.fooled]
        if not len(standing):
            break
    return result


def windows(steps: int) -> list[int]:
    """After which steps progress is checked: windows of 22 % of the steps, each 3 % shorter, none below 6 %."""
    size, shortest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    checks = [size]
    while checks[-1] + max(size - shrink, shortest) <= steps:
        size = max(size - shrink, shortest)
        checks.append(checks[-1] + size)
    return checks


def _climb(
    model: Gradient, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, live: Live, loss: Loss | None, target: Tensor | None,
    steps: int, rho: float,
) -> Tensor:  # fmt: skip
    """One run; without a loss it is the targeted DLR towards `target`."""
    target = torch.zeros_like(y) if target is None else target
    z = previous = best = _start(x, threat, rng)
    eta = torch.full_like(y, 2 * threat.radius, dtype=x.dtype).view(-1, 1, 1, 1)
    best_loss = checked = last = x.new_full((len(x),), -torch.inf)
    best_grad = torch.zeros_like(x)
    gains, halved = torch.zeros_like(y), torch.ones_like(y, dtype=torch.bool)
    checks, opened = windows(steps), 0
    for step in range(steps + 1):
        ascent = model.grad(z, loss or partial(dlr_targeted, target=target), y)
        live.keep(z, ascent.loss, ascent.logits.argmax(1) != y)
        gains = gains + (ascent.loss > last) if step else gains
        last, grad = ascent.loss, ascent.grad
        better = last > best_loss
        best, best_grad = _where(better, z, best), _where(better, grad, best_grad)
        best_loss = torch.where(better, last, best_loss)
        if step in checks:
            stalled = (gains <= rho * (step - opened)) | (~halved & (best_loss <= checked))
            eta = _where(stalled, eta / 2, eta)
            z, grad = _where(stalled, best, z), _where(stalled, best_grad, grad)
            gains, halved, checked, opened = torch.zeros_like(gains), stalled, best_loss, step
        state = live.drop(model, x, y, target, z, previous, grad, eta, best, best_grad, best_loss, checked, last, gains, halved)
        model, x, y, target, z, previous, grad, eta, best, best_grad, best_loss, checked, last, gains, halved = state
        if not len(live) or step == steps:
            break
        # Momentum of 1/4 from the second step on.
        share = 0.75 if step else 1.0
        ahead = threat.project(z + eta * threat.steepest(grad), x)
        z, previous = threat.project(z + share * (ahead - z) + (1 - share) * (z - previous), x), z
    return live.result


def _start(x: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
    """A random direction scaled until it touches the sphere."""
    shape = x.shape[1:]
    noise = rng.at("start")
    direction = 2 * noise.uniform(shape) - 1 if threat.norm == "linf" else noise.normal(shape)
    length = threat.distance(direction, torch.zeros_like(direction)).clamp_min(1e-12)
    return threat.project(x + threat.radius * direction / length.view(-1, 1, 1, 1), x)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, 1, 1, 1), new, old)
