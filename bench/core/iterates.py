"""The samples an attack still works on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.core.threat import ThreatModel


class Live:
    """Keeps the best iterate of every sample, and drops the finished ones from the work.

    `result` is what the attack returns: the first iterate that was misclassified, else the one of highest loss; `fooled`
    says which of the two, for every sample.
    """

    def __init__(self, x: Tensor) -> None:
        self._result = x.clone()
        self._fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._index = torch.arange(len(x), device=x.device)
        self._hit = torch.zeros_like(self._fooled)
        self._over = torch.zeros_like(self._fooled)
        self._loss = torch.full((len(x),), -torch.inf, device=x.device)
        self.best = self._result
        """The best iterate of each sample that is still worked on, in the order of the state that `drop` returned."""
        # Asking a GPU whether anything changed stalls it, so there it is asked now and then.
        self._patience = 1 if x.device.type == "cpu" else 8
        self._calls = 0

    def keep(self, z: Tensor, loss: Tensor, fooled: Tensor) -> None:
        """Record iterates z with their losses; a sample's first fooling iterate is never replaced."""
        better = (fooled | (loss > self._loss)) & ~(self._hit | self._over)
        self._loss = torch.where(better, loss, self._loss)
        self._hit = self._hit | (fooled & better)
        self.best = torch.where(better.view(-1, *[1] * (z.dim() - 1)), z, self.best)

    def stop(self, over: Tensor) -> None:
        """Give up on these samples: they keep what they have and cost nothing more."""
        self._over = self._over | over

    def drop(self, *state: Any) -> tuple[Any, ...]:
        """The state (tensors, views, rngs, or None) of the samples that are neither fooled nor given up."""
        self._calls += 1
        over = self._hit | self._over
        if self._calls % self._patience or not bool(over.any()):
            return state
        self._write(over)
        going = ~over
        self._index, self._hit, self._over = self._index[going], self._hit[going], self._over[going]
        self._loss, self.best = self._loss[going], self.best[going]
        return tuple(None if part is None else part[going] for part in state)

    @property
    def result(self) -> Tensor:
        """The outcome for every sample, [N, C, H, W]."""
        self._write(torch.ones_like(self._hit))
        return self._result

    @property
    def fooled(self) -> Tensor:
        """Which samples have a misclassified iterate, bool [N]."""
        self._write(torch.ones_like(self._hit))
        return self._fooled

    def _write(self, which: Tensor) -> None:
        rows = self._index[which]
        self._result[rows] = self.best[which]
        self._fooled[rows] = self._hit[which]

    def __len__(self) -> int:
        return len(self._index)


class Closest(Live):
    """Keeps the closest adversarial example of every sample; unless `beyond`, one inside the ball is enough.

    Without `beyond`, `result` is that one, and for a sample without one the projection of the closest outside.
    """

    def __init__(self, x: Tensor, threat: ThreatModel, beyond: bool) -> None:
        super().__init__(x)
        self._threat = threat
        self._beyond = beyond

    def offer(self, z: Tensor, x: Tensor, wrong: Tensor) -> Tensor:
        """Record iterates z of the clean x, of which some are misclassified; returns their distances [N]."""
        distance = self._threat.distance(z, x)
        enough, candidate = torch.zeros_like(wrong), z
        if not self._beyond:
            # To its tolerance even a ball of radius 0 holds more than x.
            enough = wrong & self._threat.contains(z, x) & (self._threat.eps > 0)
            candidate = torch.where(enough.view(-1, 1, 1, 1), z, self._threat.project(z, x))
        self.keep(candidate, torch.where(wrong, -distance, -torch.inf), enough)
        return distance
