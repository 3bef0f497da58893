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
"""By how much of its length a vector of logits may change between batches before it is another answer."""


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
    answers = []
    for call in range(3):
        with isolated(seed, "randomised", call):
            logits = _centred(forward(net, x))
            answers.append(logits / logits.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return any(bool(((answer - answers[0]).norm(dim=1) > _TOLERANCE).any()) for answer in answers[1:])


def _centred(logits: Tensor) -> Tensor:
    """Less their mean, which says nothing of the answer: beside a large one no change of an answer is large."""
    return logits - logits.mean(1, keepdim=True)


@torch.no_grad()
def batch_dependence(net: nn.Module, x: Tensor, others: Tensor) -> float:
    """The share of images that get another answer in other company, as with batch statistics; rounding does not count.

    Every second image of x [N, C, H, W] is answered in x and once more among others [M, C, H, W].
    """
    together = _centred(forward(net, x)[::2])
    mixed = _centred(forward(net, torch.cat([x[::2], others]))[: len(together)])
    change = (mixed - together).norm(dim=1) / together.norm(dim=1).clamp_min(1e-12)
    return float((change > CLOSE).double().mean())
