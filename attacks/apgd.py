"""Auto-PGD, which sets its own step sizes (Croce & Hein 2020), and its sparse form for l1 (Croce & Hein 2021)."""

from collections.abc import Callable
from copy import copy
from math import ceil
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import (
    LOSSES,
    TARGETED,
    BadInput,
    Gradient,
    Live,
    Order,
    Rng,
    ThreatModel,
    attack,
    dlr_targeted,
    margin_targeted,
    wrong_classes,
)


@attack("apgd", access="gradient", norms={"linf", "l2", "l1"})
def apgd(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 100,
    loss: Literal["ce", "margin", "dlr"] | None = None,
    targets: Annotated[int, Field(ge=0)] = 0,
    order: Order = "logits",
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.75,
    multi_eps: bool | None = None,
) -> Tensor:
    """PGD that chooses its own step sizes; with targets, one run towards each of so many wrong classes, in this order.

    loss: unless told, ce, and with targets dlr (margin below 4 classes, where that does not exist). rho: the share of steps
    that have to gain, in linf and l2. multi_eps: in l1, and there unless told
    otherwise, spend 60 % of the steps in balls 3 and 2 times as large.
    """
    if multi_eps and threat.norm != "l1":
        raise BadInput(f"multi_eps = True is for l1, and this threat model is {threat}; leave it out")
    climb = _Sparse if threat.norm == "l1" else _Halving
    wide = 3 * steps // 10 if threat.norm == "l1" and multi_eps is not False else 0
    balls = [*((threat.scaled(factor), wide) for factor in (3, 2) if wide), (threat, steps - 2 * wide)]
    if not targets:
        return _run(model, climb(x, y, None, LOSSES[loss or "ce"], rho), balls, rng)[0].result
    towards = TARGETED[loss] if loss else _dlr_or_margin
    result, closest = x.clone(), x.new_full((len(x),), -torch.inf)
    standing = torch.arange(len(x), device=x.device)
    for number, target in enumerate(wrong_classes(model, x, y, threat, order, targets).unbind(1)):
        state = climb(x[standing], y[standing], target[standing], towards, rho)
        live, reached = _run(model[standing], state, balls, rng[standing].at("target", number))
        better = live.fooled | (reached > closest[standing])
        result[standing[better]], closest[standing[better]] = live.result[better], reached[better]
        standing = standing[~live.fooled]
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


def _dlr_or_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (dlr_targeted if logits.shape[1] >= 4 else margin_targeted)(logits, y, target)


def _run(model: Gradient, climb: "_Climb", balls: list[tuple[ThreatModel, int]], rng: Rng) -> tuple[Live, Tensor]:
    """One climb from a random start through these balls, each with its number of steps.

    Also the highest loss of every sample that stands at the end, [N].
    """
    x, z = climb.x, _start(climb.x, balls[0][0], rng)
    for ball, steps in balls:
        climb.begin(ball.project(z, x), ball, steps, alone=len(balls) == 1)
        live, highest = _ascend(model, climb, judged=ball is balls[-1][0])
        z = live.result
    return live, highest


def _start(x: Tensor, ball: ThreatModel, rng: Rng) -> Tensor:
    """A random direction scaled until it touches the sphere; in l1 plain noise, whose projection is sparse."""
    noise, shape = rng.at("start"), x.shape[1:]
    if ball.norm == "l1":
        return x + noise.normal(shape)
    direction = 2 * noise.uniform(shape) - 1 if ball.norm == "linf" else noise.normal(shape)
    length = ball.distance(direction, torch.zeros_like(direction)).clamp_min(1e-12)
    return x + ball.radius * direction / _wide(length)


def _ascend(model: Gradient, climb: "_Climb", *, judged: bool) -> tuple[Live, Tensor]:
    """All steps in one ball; unless judged, a misclassified iterate is one like any other."""
    live, highest = Live(climb.x), torch.full_like(climb.best_loss, -torch.inf)
    for step in range(climb.steps):
        ascent = model.grad(climb.z, climb.loss, climb.y)
        live.keep(climb.z, ascent.loss, (ascent.logits.argmax(1) != climb.y) & judged)
        model, climb, loss, grad = live.drop(model, climb, ascent.loss, ascent.grad)
        if not len(live):
            return live, highest
        climb.advance(step, loss, grad, live.best)
    logits = model.logits(climb.z)
    loss = climb.loss(logits, climb.y)
    live.keep(climb.z, loss, (logits.argmax(1) != climb.y) & judged)
    highest[climb.index] = torch.fmax(climb.best_loss, loss)
    return live, highest


class _Climb:
    """Samples on their way up, a row for each that still stands. Index it with a mask to go on with some of them."""

    def __init__(self, x: Tensor, y: Tensor, target: Tensor | None, loss: Callable[..., Tensor], rho: float) -> None:
        self.x, self.y, self.target, self._loss, self.rho = x, y, target, loss, rho
        self.index = torch.arange(len(x), device=x.device)

    def __getitem__(self, keep: Tensor) -> Self:
        part = copy(self)
        vars(part).update({name: value[keep] for name, value in vars(self).items() if isinstance(value, Tensor)})
        return part

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """What it climbs, [N]."""
        return self._loss(logits, y) if self.target is None else self._loss(logits, y, self.target)

    def begin(self, z: Tensor, threat: ThreatModel, steps: int, *, alone: bool = True) -> None:
        """Stand at z, with so many steps to go in this ball; alone: there is no other."""
        del alone
        self.z, self.threat, self.steps = z, threat, steps
        self.best_loss, self.best_grad = z.new_full((len(z),), -torch.inf), torch.zeros_like(z)

    def advance(self, step: int, loss: Tensor, grad: Tensor, best: Tensor) -> None:
        """Take in the loss and its gradient at z, and go on to the next z; best are the best iterates so far."""
        raise NotImplementedError

    def remember(self, loss: Tensor, grad: Tensor) -> None:
        """Keep the gradient that goes with the highest loss."""
        better = loss > self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        torch.where(_wide(better), grad, self.best_grad, out=self.best_grad)

    def go_back(self, which: Tensor, grad: Tensor, best: Tensor) -> Tensor:
        """Put these samples on their best iterates; the gradient there."""
        self.z = torch.where(_wide(which), best, self.z)
        return torch.where(_wide(which), self.best_grad, grad)


class _Halving(_Climb):
    """linf and l2: steps of twice eps with momentum. Where progress stalls they halve, and go on from the best iterate."""

    def begin(self, z: Tensor, threat: ThreatModel, steps: int, *, alone: bool = True) -> None:
        super().begin(z, threat, steps, alone=alone)
        self.previous, self.size = z, torch.full_like(self.best_loss, 2 * threat.radius)
        self.last, self.checked = -self.best_loss, self.best_loss
        self.gains, self.halved = torch.zeros_like(self.y), torch.ones_like(self.y, dtype=torch.bool)
        self.checks, self.opened = windows(steps), 0

    def advance(self, step: int, loss: Tensor, grad: Tensor, best: Tensor) -> None:
        self.remember(loss, grad)
        self.gains, self.last = self.gains + (loss > self.last), loss
        if step in self.checks:
            stalled = (self.gains <= self.rho * (step - self.opened)) | (~self.halved & (self.best_loss <= self.checked))
            self.size = torch.where(stalled, self.size / 2, self.size)
            self.gains, self.halved, self.checked, self.opened = torch.zeros_like(self.gains), stalled, self.best_loss, step
            grad = self.go_back(stalled, grad, best)
        share = 0.75 if step else 1.0
        ahead = self.threat.project(self.threat.steepest(grad).mul_(_wide(self.size)).add_(self.z), self.x)
        # z + share * (ahead - z) + (1 - share) * (z - previous)
        ahead.sub_(self.z).mul_(share).add_(self.z).add_(self.z - self.previous, alpha=1 - share)
        self.previous, self.z = self.z, self.threat.project(ahead, self.x)


class _Sparse(_Climb):
    """l1: steps along the signs of the largest derivatives, the fewer the sparser the best iterate gets.

    Where it has got sparser they go on from it, with eps again; else they shrink, down to a tenth.
    """

    def begin(self, z: Tensor, threat: ThreatModel, steps: int, *, alone: bool = True) -> None:
        super().begin(z, threat, steps, alone=alone)
        self.size, self.period = torch.full_like(self.best_loss, threat.radius), max(int(0.04 * steps), 1)
        self.sparsity((z != self.x).flatten(1).sum(1))
        if alone:  # as the source begins where it is handed no start
            self.changed, self.most = torch.full_like(self.y, z.shape[1:].numel()), ceil(0.2 * z.shape[1:].numel())
            self.count = torch.full_like(self.y, self.most)

    def advance(self, step: int, loss: Tensor, grad: Tensor, best: Tensor) -> None:
        self.remember(loss, grad)
        if step and step % self.period == 0:
            changed = (best != self.x).flatten(1).sum(1)
            sparser = changed < 0.95 * self.changed
            eps = self.threat.radius
            self.size = torch.where(sparser, eps, (self.size / 1.5).clamp_min(eps / 10))
            self.sparsity(changed)
            grad = self.go_back(sparser, grad, best)
        slope = grad.flatten(1)
        least = slope.abs().topk(self.most).values.gather(1, self.count.unsqueeze(1) - 1)
        chosen = slope.sign() * (slope.abs() >= least)
        move = chosen * (self.size / chosen.abs().sum(1).clamp_min(1)).unsqueeze(1)
        self.z = self.threat.project(move.view_as(grad).add_(self.z), self.x)

    def sparsity(self, changed: Tensor) -> None:
        """Steps move two thirds of the pixels that an iterate has changed."""
        self.changed, self.count = changed, (changed / 1.5).ceil().long().clamp_min(1)
        self.most = int(self.count.max()) if len(changed) else 1


def _wide(per_sample: Tensor) -> Tensor:
    return per_sample.view(-1, 1, 1, 1)
