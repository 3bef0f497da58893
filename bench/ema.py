"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """w <- d w + (1 - d) online with d = min(decay, (1 + s) / (10 + s)) at update s; buffers follow the online network."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, online: nn.Module) -> None:
        """Follow the online network by one step."""
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.net.parameters()), list(online.parameters()), weight)
        for mine, theirs in zip(self.net.buffers(), online.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1
