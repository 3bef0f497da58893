"""The robust loss of a linear classifier of two classes, which is known in closed form, and what follows from it.

For labels s in {-1, 1} and the linf ball, the worst cross-entropy at w, b is softplus(-(s (w.x + b) - eps |w|_1)): convex, so
that its minimum is found for certain. After Liu et al. (NeurIPS 2020); that the threshold is half the largest difference of the
class means is our derivation from their condition, and holds for every training set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

LOG2 = float(torch.tensor(2.0, dtype=torch.float64).log())


class Linear(NamedTuple):
    """w [d] and b."""

    w: Tensor
    b: Tensor


def margins(model: Linear, x: Tensor, s: Tensor, eps: float = 0.0) -> Tensor:
    """The smallest margin in the ball around each x [n, d], [n]; positive where no perturbation fools."""
    return s * (x @ model.w + model.b) - eps * model.w.abs().sum()


def robust_loss(model: Linear, x: Tensor, s: Tensor, eps: float) -> Tensor:
    """The mean over samples of the largest cross-entropy in the ball."""
    return F.softplus(-margins(model, x, s, eps)).mean()


def threshold(x: Tensor, s: Tensor) -> float:
    """The eps from which on the constant classifier has the least robust loss of all linear ones.

    There 0 is a subgradient at w = 0, and b the log-odds: |mean of (s p x)|_inf = eps mean of p, with p the chance that the
    constant gives to the other class. Both sides are one factor times the difference of the class means and 2.
    """
    return float((x[s > 0].mean(0) - x[s < 0].mean(0)).abs().max()) / 2


def fit(x: Tensor, s: Tensor, eps: float, most: int = 500) -> tuple[Linear, float]:
    """The minimiser of the robust loss and that minimum: convex and, in the positive and negative parts of w, smooth."""
    size = x.shape[1]

    def both(parts: np.ndarray) -> tuple[float, np.ndarray]:
        up, down, b = torch.from_numpy(parts[:size]), torch.from_numpy(parts[size:-1]), float(parts[-1])
        margin = s * (x @ (up - down) + b) - eps * (up + down).sum()
        push = torch.sigmoid(-margin) / len(x)
        slope = -(push * s) @ x
        grown = eps * push.sum()
        gradient = torch.cat([slope + grown, -slope + grown, -(push * s).sum().view(1)])
        return float(F.softplus(-margin).mean()), gradient.numpy()

    bounds = [(0, None)] * (2 * size) + [(None, None)]
    found = minimize(
        both, np.zeros(2 * size + 1), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": most, "ftol": 1e-13, "gtol": 1e-9},
    )  # fmt: skip
    parts = torch.from_numpy(found.x)
    return Linear(parts[:size] - parts[size:-1], parts[-1]), float(found.fun)


def reach(directions: Tensor, x: Tensor, s: Tensor, eps: float, most: float = 100.0) -> Tensor:
    """How far the version space {w: robust loss <= log 2} of linear classifiers without b reaches, [m], at most `most`.

    Along a ray from 0, where the loss is log 2, a convex loss falls first and then rises, or rises from the start: what is
    below log 2 is one piece that begins at 0, whose end bisection finds.
    """
    unit = directions / directions.norm(dim=1, keepdim=True)
    lead, cost = s[:, None] * (x @ unit.T), eps * unit.abs().sum(1)

    def above(t: Tensor) -> Tensor:
        found: Tensor = F.softplus(-t * (lead - cost)).mean(0) > LOG2
        return found

    low, high = torch.zeros(len(unit), dtype=x.dtype), torch.full((len(unit),), most, dtype=x.dtype)
    falls = (lead.mean(0) - cost) > 0
    free = ~above(high)
    for _ in range(40):
        middle = (low + high) / 2
        over = above(middle)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return torch.where(falls, torch.where(free, torch.full_like(low, most), low), torch.zeros_like(low))


def synthetic(n: int, size: int, gap: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two Gaussian clouds of unit variance around +-mu, |mu|_inf = gap, whose coordinates fall off geometrically."""
    s = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()
    mu = gap * 0.8 ** torch.arange(size, dtype=torch.float64)
    return s[:, None] * mu + torch.randn(n, size, generator=generator, dtype=torch.float64), s
