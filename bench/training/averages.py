"""Averages of a network's weights over its training."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Average(Generic[Net]):
    """A copy of a network that is made of what the network was in the course of its training."""

    def __init__(self, net: Net) -> None:
        self.net: Net = copy.deepcopy(net).requires_grad_(False)
        self.updates = 0

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return {"net": self.net.state_dict(), "updates": self.updates}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.net.load_state_dict(state["net"])
        self.updates = state["updates"]


class EMA(Average[Net]):
    """w <- d w + (1 - d) online with d = min(decay, (1 + s) / (10 + s)) at update s.

    Buffers follow the online network, or with `buffers` are averaged alike, as far as they are not counters.
    """

    def __init__(self, net: Net, decay: float, *, buffers: bool = False) -> None:
        super().__init__(net)
        self.decay = decay
        self.buffers = buffers

    @torch.no_grad()
    def update(self, online: nn.Module, decay: float | Tensor | None = None) -> None:
        """Follow the online network by one step, if told with another decay than usual."""
        early = (1 + self.updates) / (10 + self.updates)
        chosen = self.decay if decay is None else decay
        keep = chosen.clamp_max(early) if isinstance(chosen, Tensor) else min(chosen, early)
        mine: list[Tensor] = [*self.net.parameters()]
        theirs: list[Tensor] = [*online.parameters()]
        for own, other in zip(self.net.buffers(), online.buffers(), strict=True):
            if self.buffers and own.is_floating_point():
                mine.append(own)
                theirs.append(other)
            else:
                own.copy_(other)
        ahead = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(ahead, 1 - keep)
        torch._foreach_add_(mine, ahead)
        self.updates += 1


class SWA(Average[Net]):
    """The plain mean of the weights at the ends of epochs (Izmailov et al. 2018); its batch statistics are to be recomputed."""

    @torch.no_grad()
    def update(self, online: nn.Module) -> None:
        """Take in the weights of one more epoch."""
        torch._foreach_lerp_([*self.net.parameters()], [*online.parameters()], 1 / (self.updates + 1))
        self.updates += 1
