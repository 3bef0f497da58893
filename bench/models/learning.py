"""Networks whose forward learns from gradients of their own weights, as test-time adaptation does: they keep them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.core import forward, isolated

TRIED = 16
"""Images that it is tried on."""


def let_learn(net: nn.Module, learns: Sequence[bool], x: Tensor, seed: int) -> None:
    """Give the parameters that required gradients theirs back, unless the frozen network answers images x all the same.

    It is tried on a copy where there can be one: a network that goes on learning from call to call would be another one then.
    """
    try:
        tried = deepcopy(net)
    except Exception:  # a copy may run code of the network's, and fail as it likes
        tried = net
    frozen = _answer(tried, x, seed)
    _let(tried, learns)
    free = _answer(tried, x, seed)
    same = free is None or (frozen is not None and torch.equal(frozen, free))
    _let(net, [False] * len(learns) if same else learns)


def _let(net: nn.Module, learns: Sequence[bool]) -> None:
    for parameter, learn in zip(net.parameters(), learns, strict=True):
        parameter.requires_grad_(learn)


@torch.no_grad()
def _answer(net: nn.Module, x: Tensor, seed: int) -> Tensor | None:
    """None where it fails, which is told where it is asked in earnest."""
    try:
        with isolated(seed, "learning"):
            return forward(net, x[:TRIED])
    except Exception:
        return None
