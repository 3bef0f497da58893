"""Simultaneous perturbation stochastic approximation (Uesato et al. 2018): Adam along a gradient estimated from scores."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import Live, Rng, Score, ThreatModel, attack, margin

from .nes import estimate


@attack("spsa", access="score", norms={"linf", "l2"})
def spsa(
    model: Score,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 205_000,
    pairs: Annotated[int, Field(ge=1)] | None = None,
    size: Annotated[float, Field(gt=0, lt=0.5)] = 0.01,
    step: Annotated[float, Field(gt=0)] = 0.3,
) -> Tensor:
    """Projected Adam on the margin, from a random start; each gradient is estimated from pairs of opposite probes.

    size: of the probes, whose signs are random; step is a fraction of eps (0.3 is about the paper's 0.01 at 8/255). Without
    `pairs` the queries are split over 100 steps, 1024 pairs each by default. In l2 a step has length step * eps and goes
    along Adam's momentum alone, for scaling every pixel by itself would turn it away from the gradient.
    """
    pairs = min(pairs or max((queries // 100 - 1) // 2, 1), max(queries // 2 - 1, 1))
    live, z = Live(x), threat.random_start(x, rng.at("start"))
    first = second = torch.zeros_like(x)
    for number, spent in enumerate(range(1, queries + 1, 2 * pairs + 1), 1):
        logits = model.logits(z)
        live.keep(z, margin(logits, y), logits.argmax(1) != y)
        model, x, y, z, first, second, rng = live.drop(model, x, y, z, first, second, rng)
        if not len(live) or spent + 2 * pairs + 1 > queries:
            break
        probes = (signs(rng.at("probe", spent, pair), x) for pair in range(pairs))
        grad = estimate(model, z, y, probes, size)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad.square()
        adam = first / (1 - 0.9**number) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
        z = threat.project(z + step * threat.radius * (adam if threat.norm == "linf" else threat.steepest(first)), x)
    return live.result


def signs(rng: Rng, x: Tensor) -> Tensor:
    """1 or -1 for every pixel of x, equally likely."""
    return torch.where(rng.uniform(x.shape[1:]) < 0.5, -1.0, 1.0)
