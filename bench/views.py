"""What an attack sees of a model: labels, logits or gradients, never the model. Every query is counted per sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.errors import AccessError
from bench.losses import Loss

SMALLEST_BATCH = 16
"""Below this many rows CPU kernels sum in another order; smaller batches are padded so that a sample's bits never change."""


def forward(net: nn.Module, x: Tensor) -> Tensor:
    """Logits [N, K] of x, the same bits for a sample whatever batch it stands in."""
    missing = SMALLEST_BATCH - len(x)
    if len(x) == 0 or missing <= 0:
        return net(x)  # type: ignore[no-any-return]
    return net(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))[: len(x)]  # type: ignore[no-any-return]


class Meter:
    """Forward and backward passes spent on each sample of a batch, with an upper limit on the forwards."""

    def __init__(self, size: int, device: torch.device, limit: int | None = None) -> None:
        self.forwards = torch.zeros(size, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(size, dtype=torch.int64, device=device)
        self.limit = limit


class Decision:
    """The labels of a model and nothing else. Index it with a mask to go on with some of the samples."""

    grants = "labels"

    def __init__(self, net: nn.Module, meter: Meter, index: Tensor | None = None) -> None:
        self._net = net
        self._meter = meter
        self._index = torch.arange(len(meter.forwards), device=meter.forwards.device) if index is None else index

    def __getitem__(self, keep: Tensor) -> Any:
        return type(self)(self._net, self._meter, self._index[keep])

    def __getattr__(self, name: str) -> Any:
        if name in ("logits", "grad", "module"):
            raise AccessError(f"this attack declared access to {self.grants} only, and asked for {name}")
        raise AttributeError(name)

    def labels(self, x: Tensor) -> Tensor:
        """Predicted labels [N]."""
        return self._logits(x).argmax(1)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        self._count_forward()
        return forward(self._net, x)

    def _count_forward(self) -> None:
        meter = self._meter
        meter.forwards[self._index] += 1
        if meter.limit is not None and (meter.forwards > meter.limit).any():
            raise AccessError(f"this attack spent more than its {meter.limit} queries on a sample")


class Score(Decision):
    """Logits."""

    grants = "logits"

    def logits(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self._logits(x)


class Ascent(NamedTuple):
    """The gradient of the loss at a point, [N, C, H, W], with the loss [N] and the logits [N, K] there."""

    grad: Tensor
    loss: Tensor
    logits: Tensor


class Gradient(Score):
    """Logits and input gradients."""

    grants = "gradients"

    def grad(self, z: Tensor, loss: Loss, y: Tensor) -> Ascent:
        """One forward and one backward pass at z; NaN gradients come back as 0."""
        self._count_forward()
        self._meter.backwards[self._index] += 1
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            logits = forward(self._net, z)
            value = loss(logits, y)
            (grad,) = torch.autograd.grad(value.sum(), z)
        return Ascent(grad.nan_to_num_(0.0), value.detach(), logits.detach())


class Module(Gradient):
    """The network itself, for reference implementations that bring their own loop; its passes are counted in total."""

    grants = "the network"

    @property
    def module(self) -> nn.Module:
        """An nn.Module that counts; row i of a batch need not be sample i, so each pass is spread over the samples."""
        return _Metered(self._net, self._meter)


class _Metered(nn.Module):
    def __init__(self, net: nn.Module, meter: Meter) -> None:
        super().__init__()
        self.net = net
        self.rows = {"forwards": 0, "backwards": 0}
        self._meter = meter

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        self._spend("forwards", len(x))
        if logits.requires_grad:
            logits.register_hook(lambda _: self._spend("backwards", len(x)))
        return logits

    def _spend(self, what: str, rows: int) -> None:
        # Whole passes over all samples are exact; the remainder goes to the first rows, so the total always is.
        self.rows[what] += rows
        spent = getattr(self._meter, what)
        whole, rest = divmod(self.rows[what], len(spent))
        spent.fill_(whole)
        spent[:rest] += 1


VIEWS: dict[str, type[Decision]] = {"decision": Decision, "score": Score, "gradient": Gradient, "module": Module}
