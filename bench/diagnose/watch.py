"""Looking over an attack's shoulder: every iterate that it asks the network about, and what it is told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.core import Ascent, Gradient, Loss, Meter, ThreatModel, margin


class Watch:
    """What a gradient attack saw of the samples x [N, C, H, W], y [N] on its way."""

    def __init__(self, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        self.hit = torch.zeros_like(y, dtype=torch.bool)
        """Samples of which a legal iterate was misclassified, as the attack was told."""
        self.first = x.clone()
        """The first such iterate."""
        self.paths: list[tuple[Tensor, list[Tensor]]] = []
        """For each batch its samples, [M], and the highest margin of each of them after each gradient, [M]."""
        self._x, self._y, self._threat = x, y, threat
        self._peak = torch.full_like(y, -torch.inf, dtype=torch.float32)

    def begin(self, index: Tensor) -> None:
        """An attack on a batch of these samples begins."""
        self.paths.append((index, []))

    def note(self, index: Tensor, z: Tensor, logits: Tensor, *, step: bool) -> None:
        """The attack asked about iterates z of these samples."""
        wrong = (logits.argmax(1) != self._y[index]) & self._threat.contains(z, self._x[index]) & ~self.hit[index]
        self.first[index[wrong]] = z[wrong].float()
        self.hit[index[wrong]] = True
        self._peak[index] = torch.maximum(self._peak[index], margin(logits, self._y[index]).float())
        if step:
            batch, path = self.paths[-1]
            path.append(self._peak[batch])


class Watched(Gradient):
    """A gradient view that tells a watch; start: which of the watch's samples it is about, [N]."""

    def __init__(self, net: nn.Module, meter: Meter, watch: Watch, start: Tensor) -> None:
        super().__init__(net, meter)
        self._watch, self._start = watch, start
        watch.begin(start)

    def grad(self, z: Tensor, loss: Loss, y: Tensor) -> Ascent:
        """One forward and one backward pass at z."""
        ascent = super().grad(z, loss, y)
        self._watch.note(self._start[self._index], z, ascent.logits, step=True)
        return ascent

    def _logits(self, x: Tensor) -> Any:
        logits = super()._logits(x)
        if len(self._index):
            self._watch.note(self._start[self._index], x, logits, step=False)
        return logits
