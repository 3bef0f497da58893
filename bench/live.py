"""The samples an attack still works on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Live:
    """Keeps the best iterate of every sample, and drops the fooled ones from the work.

    `result` is what the attack returns: the first iterate that was misclassified, else the one of highest loss; `fooled`
    says which of the two, for every sample.
    """

    def __init__(self, x: Tensor) -> None:
        self.result = x.clone()
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._index = torch.arange(len(x), device=x.device)
        self._done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._best = torch.full((len(x),), -torch.inf, device=x.device)
        # Asking a GPU whether anything changed stalls it, so there it is asked now and then.
        self._patience = 1 if x.device.type == "cpu" else 8
        self._calls = 0

    def keep(self, z: Tensor, loss: Tensor, fooled: Tensor) -> None:
        """Record iterates z with their losses; a sample's first fooling iterate is never replaced."""
        better = (fooled | (loss > self._best)) & ~self._done
        self._best = torch.where(better, loss, self._best)
        self._done = self._done | fooled
        self.fooled[self._index] = self._done
        previous = self.result[self._index]
        self.result[self._index] = torch.where(better.view(-1, *[1] * (z.dim() - 1)), z, previous)

    def drop(self, *state: Any) -> tuple[Any, ...]:
        """The state (tensors, views, rngs) of the samples that are not fooled yet."""
        self._calls += 1
        if self._calls % self._patience or not bool(self._done.any()):
            return state
        going = ~self._done
        self._index, self._done, self._best = self._index[going], self._done[going], self._best[going]
        return tuple(part[going] for part in state)

    def __len__(self) -> int:
        return len(self._index)
