"""What an attack sees of a model: labels, logits or gradients, never the model. Every query is counted per sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from bench.core.backward import quick_backward
from bench.core.boundary import ask
from bench.core.losses import Loss
from bench.core.rng import isolated
from bench.errors import AccessError, AttackWarning, out_of_memory

SMALLEST, _MULTIPLE = 16, 8
"""CPU kernels sum in another order in batches of fewer rows, or of a number that does not split evenly over the threads;
such batches are padded, so that a sample's bits never change."""
_FAR = -1e4
"""The logit of the true class in an answer that holds no number; 0 of all others."""
_BLIND = "the network gives no gradient; attacks see one of 0"


def forward(net: nn.Module, x: Tensor) -> Tensor:
    """Logits [N, K] of x, the same bits for a sample whatever batch it stands in."""
    missing = max(SMALLEST, -(-len(x) // _MULTIPLE) * _MULTIPLE) - len(x)
    if len(x) == 0 or missing == 0:
        return ask(net, x)
    return ask(net, torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))[: len(x)]


def answer(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Logits [N, K] that can be differentiated whatever the network does: where it cannot be, the gradient is 0."""
    try:
        logits = net(x)
    except Exception as error:  # whatever the network raises; it says so again below, if it does so without gradients too
        if out_of_memory(error):
            raise
        # Code that leaves torch, such as .numpy(), refuses what requires a gradient.
        with torch.no_grad():
            logits = net(x.detach())
    if logits.requires_grad:
        return logits
    warnings.warn(_BLIND, AttackWarning, stacklevel=2)
    return _tied(logits, x)


def _tied(logits: Tensor, x: Tensor) -> Tensor:
    """The same logits with a gradient at x, which is 0."""
    return logits.detach() + 0 * x.flatten(1).sum(1, keepdim=True)


def slope(value: Tensor, z: Tensor) -> Tensor:
    """The gradient of a scalar at z, as it comes; 0 where there is none."""
    try:
        with quick_backward(z):
            (grad,) = torch.autograd.grad(value, z, allow_unused=True)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        warnings.warn(f"the network's backward pass fails ({error}); attacks see a gradient of 0", AttackWarning, stacklevel=3)
    else:
        if grad is not None:
            return grad
        warnings.warn(_BLIND, AttackWarning, stacklevel=3)
    return torch.zeros_like(z)


def slopes(net: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The gradient of a loss at x as it comes, [N, C, H, W]; no warning where there is none."""
    z = x.detach().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        return slope(loss(answer(partial(forward, net), z), y).sum(), z)


def dead(grad: Tensor) -> Tensor:
    """Which gradients lead nowhere, bool [N]: exactly 0, or not finite."""
    rows = grad.flatten(1)
    return ~rows.isfinite().all(1) | (rows == 0).all(1)


class Meter:
    """Forward and backward passes spent on each sample of a batch, with an upper limit on the forwards.

    passes: how many a single answer takes, more than one where answers are averaged.
    """

    def __init__(self, size: int, device: torch.device, limit: int | None = None, passes: int = 1) -> None:
        self.passes = passes
        self.forwards = torch.zeros(size, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(size, dtype=torch.int64, device=device)
        self.limit = limit

    def count(self, which: Tensor, index: Tensor) -> None:
        """One answer more for each of these samples, in `forwards` or `backwards`."""
        which.index_add_(0, index, torch.full_like(index, self.passes))


class Decision:
    """The labels of a model and nothing else. Index it with a mask to go on with some of the samples.

    known: the closest candidates that earlier attacks found, [N, C, H, W], for attacks that go on from there.
    """

    grants = "labels"

    _truth: Tensor | None = None

    def __init__(self, net: nn.Module, meter: Meter, known: Tensor | None = None) -> None:
        self._net = net
        self._meter = meter
        self._index = torch.arange(len(meter.forwards), device=meter.forwards.device)
        self._known = known

    def judged_by(self, y: Tensor) -> None:
        """y: the labels of all samples, [N]; an answer that holds no number is wrong, as it is for the judge."""
        self._truth = y

    def __getitem__(self, keep: Tensor) -> Any:
        part = copy(self)
        part._index = self._index[keep]
        return part

    def known(self, x: Tensor) -> Tensor:
        """The closest candidate that an earlier attack found for each of these samples; x itself where there was none."""
        return x.clone() if self._known is None else self._known[self._index]

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
        return self._numbers(self._read(forward(self._net, x)))

    def _numbers(self, logits: Tensor) -> Tensor:
        """The same, with numbers that are plainly wrong in the place of answers that hold none."""
        if self._truth is None:
            return logits
        wrong = _FAR * one_hot(self._truth[self._index], logits.shape[1]).to(logits)
        return torch.where(logits.isfinite().all(1, keepdim=True), logits, wrong)

    def _read(self, answers: Tensor) -> Tensor:
        """The logits in what the network answers, for views that show something else than a classifier."""
        return answers

    def _count_forward(self) -> None:
        meter = self._meter
        meter.count(meter.forwards, self._index)
        if meter.limit is not None and (meter.forwards > meter.limit * meter.passes).any():
            raise AccessError(f"this attack spent more than its {meter.limit} queries on a sample")


class Score(Decision):
    """Logits.

    They may come from the same network in a faster precision. What fools that network is then shown to the exact one, so that
    no sample is let go for a rounding error.
    """

    grants = "logits"

    _faster: nn.Module | None = None
    _labels: Tensor | None = None

    def use_low_precision(self, net: nn.Module | None, y: Tensor) -> None:
        """From now on answers come from this network; y: the labels of all samples."""
        self._faster, self._labels = net, y

    def logits(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        if self._faster is None or self._labels is None:
            return self._logits(x)
        self._count_forward()
        with torch.no_grad():
            logits = self._numbers(self._read(forward(self._faster, x)))
        return self._confirmed(logits, x, self._labels[self._index])

    @torch.no_grad()
    def _confirmed(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The logits of another network at x, and of the exact one wherever that other is fooled."""
        claimed = (logits.argmax(1) != y).nonzero().squeeze(1)
        if not len(claimed):
            return logits
        part = self[claimed]
        if self._meter.limit is None:  # else it is no query of the attack's
            part._count_forward()
        return logits.index_put((claimed,), part._numbers(self._read(forward(self._net, x[claimed]))))


class Ascent(NamedTuple):
    """The gradient of the loss at a point, [N, C, H, W], with the loss [N] and the logits [N, K] there."""

    grad: Tensor
    loss: Tensor
    logits: Tensor


class Gradient(Score):
    """Input gradients, which may be the faster precision's, and logits, which are exact."""

    grants = "gradients"

    _other: nn.Module | None = None
    readings: Callable[[], Mapping[str, nn.Module]] = dict
    """What an adaptive attacker would attack in the network's place, by name (bench/core/adaptations.py)."""

    def logits(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self._logits(x)

    def read(self, name: str) -> Self | None:
        """A view whose losses and gradients are those of such a reading, and whose logits are the network's wherever the
        reading is fooled; None where the network has none of this name.
        """
        other = self.readings().get(name)
        if other is None:
            return None
        part = copy(self)
        part._other, part._faster = other, None
        return part

    def grad(self, z: Tensor, loss: Loss, y: Tensor) -> Ascent:
        """One forward and one backward pass at z; NaN gradients come back as 0."""
        self._count_forward()
        self._meter.count(self._meter.backwards, self._index)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            logits = self._numbers(self._read(answer(partial(forward, self._other or self._faster or self._net), z)))
            value = loss(logits, y)
            grad = slope(value.sum(), z)
        grad, value, logits = grad.nan_to_num(0.0), value.detach(), logits.detach()
        if self._faster is not None or self._other is not None:
            claims, logits = logits, self._confirmed(logits, z.detach(), y)
            # Of a reading the climb goes on, which may be on another scale.
            if logits is not claims and self._other is None:
                value = loss(logits, y)
        return Ascent(grad, value, logits)


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
        self.training = net.training
        self.rows = {"forwards": 0, "backwards": 0}
        self._meter = meter
        self._blind: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        seen = partial(ask, self.net)
        logits = self._differentiable(seen, x) if torch.is_grad_enabled() and x.requires_grad else seen(x)
        self._spend("forwards", len(x) * self._meter.passes)
        if logits.requires_grad:
            logits.register_hook(lambda _: self._spend("backwards", len(x) * self._meter.passes))
        return logits

    def _differentiable(self, seen: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Logits whose backward pass does not fail; other people's loops take a gradient as granted."""
        if self._blind is None:
            # A backward pass of its own, because one that fails would take the caller's graph with it.
            with warnings.catch_warnings(record=True) as caught, isolated(0):
                warnings.simplefilter("always", AttackWarning)
                z = x[:2].detach().requires_grad_()
                slope(answer(seen, z).sum(), z)
            self._blind = bool(caught)
        if not self._blind:
            return seen(x)
        warnings.warn(_BLIND, AttackWarning, stacklevel=2)
        with torch.no_grad():
            logits = seen(x)
        return _tied(logits, x)

    def _spend(self, what: str, rows: int) -> None:
        # Whole passes over all samples are exact; the remainder goes to the first rows, so the total always is.
        self.rows[what] += rows
        spent = getattr(self._meter, what)
        whole, rest = divmod(self.rows[what], len(spent))
        spent.fill_(whole)
        spent[:rest] += 1


VIEWS: dict[str, type[Decision]] = {"decision": Decision, "score": Score, "gradient": Gradient, "module": Module}
