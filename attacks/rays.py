"""RayS (Chen & Gu 2020): the sign vector along which the decision boundary is nearest, found from labels alone."""

from math import sqrt
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import Closest, Decision, Rng, ThreatModel, attack


@attack("rays", access="decision", norms={"linf"}, seeded=False)
def rays(
    model: Decision,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 10_000,
    tolerance: Annotated[float, Field(ge=1e-4)] = 0.001,
    beyond: bool = False,
) -> Tensor:
    """Flip the signs of ever smaller blocks; a flip that is misclassified at the best radius is bisected, and kept if nearer.

    tolerance: of the bisection, an l2 length. With `beyond` the closest adversarial example is returned wherever it lies.
    No noise: a restart repeats the run.
    """
    del rng
    closest, pixels = Closest(x, threat, beyond), x.shape[1:].numel()
    place = torch.arange(pixels, device=x.device)
    sign = trial = torch.ones_like(x)
    radius = low = x.new_ones(len(x))
    # Block -1 is empty, so that the first query is on the signs as they are.
    block, blocks = torch.full_like(y, -1), torch.ones_like(y)
    for _ in range(queries):
        # Every sample is at a query of its own search: between `low` and `radius`, or the next flip at `radius`.
        bisecting = radius - low > tolerance / sqrt(pixels)
        start, end = (-(-number * pixels // blocks).unsqueeze(1) for number in (block, block + 1))
        flipped = torch.where(((place >= start) & (place < end)).view_as(x), -sign, sign)
        trial = torch.where(bisecting.view(-1, 1, 1, 1), trial, flipped)
        reach = torch.where(bisecting, (low + radius) / 2, radius)
        z = (x + reach.view(-1, 1, 1, 1) * trial).clamp_(0, 1)
        wrong = model.labels(z) != y
        closest.offer(z, x, wrong)
        sign = torch.where((wrong & bisecting).view(-1, 1, 1, 1), trial, sign)
        radius = torch.where(wrong, reach, radius)
        low = torch.where(bisecting, torch.where(wrong, low, reach), torch.where(wrong, 0.0, low))
        block = block + ~bisecting
        over = block == blocks
        block, blocks = torch.where(over, 0, block), torch.where(over, (2 * blocks).clamp_max(pixels), blocks)
        state = closest.drop(model, x, y, sign, trial, radius, low, block, blocks)
        model, x, y, sign, trial, radius, low, block, blocks = state
        if not len(closest):
            break
    return closest.result
