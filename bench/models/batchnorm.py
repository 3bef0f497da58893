"""Which statistics a batch norm normalises with, and which it keeps: the choices that adversarial training leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def layers(net: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of a network that keep statistics, by name."""
    return {name: part for name, part in net.named_modules() if isinstance(part, _BatchNorm) and part.running_mean is not None}


@contextmanager
def frozen(net: nn.Module, keep: bool = True) -> Iterator[None]:
    """Kept statistics stay as they are, also in train mode; with keep=False they follow again, inside another `frozen`."""
    found = list(layers(net).values())
    before = [layer.track_running_stats for layer in found]
    for layer in found:
        layer.track_running_stats = not keep
    try:
        yield
    finally:
        for layer, tracked in zip(found, before, strict=True):
            layer.track_running_stats = tracked


@contextmanager
def recomputed(net: nn.Module) -> Iterator[None]:
    """Kept statistics become the mean over the batches, each alike, that pass in train mode while this lasts."""
    found = list(layers(net).values())
    momenta = [layer.momentum for layer in found]
    for layer in found:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a cumulative average
    yield
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum


def keep_biased(net: nn.Module) -> None:
    """From now on the kept variance is the one that training normalises with, 1/m, instead of 1/(m - 1)."""
    for layer in layers(net).values():
        layer.__class__ = _Biased


def use_batches(net: nn.Module) -> nn.Module:
    """From now on the network normalises with the statistics of the batch at hand, so that samples depend on each other."""
    for layer in layers(net).values():
        layer.__class__ = _OfTheBatch
    return net


class _OfTheBatch(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        # Past torch.nn's check, because the last sample of an attack is a batch of one: it answers with the bias.
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(input, self.weight, self.bias, None, None, True, 0.0, self.eps, cudnn)


class _Biased(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.track_running_stats):
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # With a momentum of 1 torch leaves the batch's own statistics here, its variance over m - 1.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        output = F.batch_norm(input, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (1 - input.size(1) / input.numel()), weight)
        return output
