"""Networks whose answer is not one to the image alone: telling that one is, and attacking what it answers on average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core.boundary import ask
from bench.core.rng import isolated
from bench.core.views import forward

DRAWS = 20
"""Answers that are averaged when nobody says how many (Croce & Hein 2020, version rand)."""
_TOLERANCE = 1e-4
CLOSE = 1e-3
"""By how much of its length what tells classes apart may change between batches before it is another answer."""


class Expectation(nn.Module):
    """A network's mean logits over so many draws: its gradient is the expectation over transformation (Athalye et al. 2018)."""

    def __init__(self, net: nn.Module, draws: int) -> None:
        super().__init__()
        self.net = net
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of x."""
        total = ask(self.net, x)
        for _ in range(self.draws - 1):
            total = total + ask(self.net, x)
        return total / self.draws


@torch.no_grad()
def randomised(net: nn.Module, x: Tensor, seed: int) -> bool:
    """Whether the network answers the same images differently; rounding does not count."""
    answers: list[tuple[Tensor, Tensor]] = []
    for call in range(3):
        with isolated(seed, "randomised", call):
            logits = forward(net, x)
            apart, length = _apart(logits)
            answers.append((logits / logits.norm(dim=1, keepdim=True).clamp_min(1e-12), apart / length[:, None]))
    return any(
        bool(((one - first).norm(dim=1) > _TOLERANCE).any())
        for answer in answers[1:] for one, first in zip(answer, answers[0], strict=True)
    )  # fmt: skip


def _apart(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What tells the classes apart, and its length: an offset that all of them share, however large, is no answer.

    The length is no less than a thousandth of the whole, below which rounding begins.
    """
    apart = logits - logits.mean(1, keepdim=True)
    return apart, apart.norm(dim=1).maximum(CLOSE * logits.norm(dim=1)).clamp_min(1e-12)


@torch.no_grad()
def batch_dependence(net: nn.Module, x: Tensor, others: Tensor) -> float:
    """The share of images that get another answer in other company, as with batch statistics; rounding does not count.

    Every second image of x [N, C, H, W] is answered in x and once more among others [M, C, H, W].
    """
    together, length = _apart(forward(net, x)[::2])
    mixed, _ = _apart(forward(net, torch.cat([x[::2], others]))[: len(together)])
    return float(((mixed - together).norm(dim=1) / length > CLOSE).double().mean())
