"""The l2 attack of Carlini & Wagner (2017): Adam on distance plus c times the margin, with c searched for every sample."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import Closest, Gradient, Rng, ThreatModel, attack, margin


@attack("cw", access="gradient", norms={"l2"}, seeded=False)
def cw(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    searches: Annotated[int, Field(ge=1)] = 9,
    steps: Annotated[int, Field(ge=1)] = 1000,
    rate: Annotated[float, Field(gt=0)] = 0.01,
    c: Annotated[float, Field(gt=0)] = 1e-3,
    beyond: bool = False,
) -> Tensor:
    """Minimise |z - x|^2 + c max(true logit - best wrong one, 0) over w, z = (tanh w + 1) / 2; `steps` for each c tried.

    After every search the c of a sample is bisected, and before its first success multiplied by 10. With `beyond` the
    closest adversarial example is returned wherever it lies. No noise: a restart repeats the run. Our own: whether a c was
    enough is read from the second half of its steps; the first ones of Adam, as long as `rate` whatever c is, cross a near
    boundary by themselves.
    """
    del rng
    closest = Closest(x, threat, beyond)
    low, high, price = (torch.full_like(y, value, dtype=x.dtype) for value in (0.0, torch.inf, c))
    w = mean = square = torch.zeros_like(x)
    hit = torch.zeros_like(y, dtype=torch.bool)
    for k in range(searches * steps):
        t = k % steps + 1
        if t == 1:
            if k:
                low, high, price = _search(low, high, price, hit)
            # Not quite the edges of the box, which lie at infinity.
            w = ((2 * x - 1) * (1 - 1e-6)).atanh()
            mean, square, hit = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(hit)
        z = (w.tanh() + 1) / 2
        ascent = model.grad(z, _shortfall, y)
        wrong = ascent.logits.argmax(1) != y
        closest.offer(z, x, wrong)
        state = closest.drop(model, x, y, z, w, mean, square, hit | (wrong & (t > steps // 2)), low, high, price, ascent.grad)
        model, x, y, z, w, mean, square, hit, low, high, price, grad = state
        if not len(closest):
            break
        slope = (2 * (z - x) - price.view(-1, 1, 1, 1) * grad) / (2 * w.cosh().square())
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope.square()
        w = w - rate * mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    return closest.result


def _shortfall(logits: Tensor, y: Tensor) -> Tensor:
    return margin(logits, y).clamp_max(0)


def _search(low: Tensor, high: Tensor, price: Tensor, hit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bisect between the largest price that failed and the smallest that succeeded, once there is one."""
    low, high = torch.where(hit, low, price), torch.where(hit, price, high)
    return low, high, torch.where(high.isfinite(), (low + high) / 2, 10 * price)
