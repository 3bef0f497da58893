"""Natural evolution strategies (Ilyas et al. 2018): projected ascent along a gradient estimated from scores."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import Live, Rng, Score, ThreatModel, attack, margin


@attack("nes", access="score", norms={"linf", "l2"})
def nes(
    model: Score,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 10_000,
    pairs: Annotated[int, Field(ge=1)] = 25,
    size: Annotated[float, Field(gt=0, lt=0.5)] = 0.01,
    step: Annotated[float, Field(gt=0)] = 0.2,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
) -> Tensor:
    """PGD with momentum on the margin, from a random start; each gradient is estimated from pairs of opposite probes.

    size: the standard deviation of the probes, which are Gaussian (0.001 in the paper, which sees less of a network that
    rounds its input); step is a fraction of eps. There are as many steps as the queries pay for.
    """
    pairs = min(pairs, max(queries // 2 - 1, 1))
    live, z, velocity = Live(x), threat.random_start(x, rng.at("start")), torch.zeros_like(x)
    for spent in range(1, queries + 1, 2 * pairs + 1):
        logits = model.logits(z)
        live.keep(z, margin(logits, y), logits.argmax(1) != y)
        model, x, y, z, velocity, rng = live.drop(model, x, y, z, velocity, rng)
        if not len(live) or spent + 2 * pairs + 1 > queries:
            break
        probes = (rng.at("probe", spent, pair).normal(x.shape[1:]) for pair in range(pairs))
        velocity = momentum * velocity + (1 - momentum) * estimate(model, z, y, probes, size)
        z = threat.project(z + step * threat.radius * threat.steepest(velocity), x)
    return live.result


def estimate(model: Score, z: Tensor, y: Tensor, directions: Iterable[Tensor], size: float) -> Tensor:
    """The gradient of the margin at images z, [N, C, H, W], from central differences along random directions.

    Unbiased up to O(size^2) where the directions have mean 0 and covariance 1. Probes are images, too: the centre is moved
    in from the faces of the box by `size`, and what still sticks out is clamped.
    """
    centre = z.clamp(size, 1 - size)
    total, count = torch.zeros_like(z), 0
    for direction in directions:
        ahead, behind = (margin(model.logits((centre + way * size * direction).clamp_(0, 1)), y) for way in (1, -1))
        # A probe whose logits are not numbers says nothing.
        slope = ((ahead - behind) / (2 * size)).nan_to_num(0.0, 0.0, 0.0)
        total += slope.view(-1, 1, 1, 1) * direction
        count += 1
    return total / count
