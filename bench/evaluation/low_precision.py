"""The network in a faster precision, for the search alone: what counts is always confirmed by the network itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

from bench.core import ask, margin
from bench.core.backward import EachOperation
from bench.core.device import native_bf16
from bench.errors import AttackWarning, out_of_memory

WORTHWHILE = 10_000_000
"""Floating-point operations per image below which converting costs more than it saves."""
ALIKE = 0.9
"""The least share of the network's answers, and the least cosine to its gradients, of a copy that is good enough."""


class Operations(EachOperation):
    """Counts floating-point operations by torch's own formulas, as its FlopCounterMode does, which takes a second to import."""

    total = 0

    def __torch_dispatch__(self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Runs the operation, and adds what it costs where it is a product or a convolution."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class LowPrecision(nn.Module):
    """A copy of a network in bfloat16, images with channels last; float32 in and out. Where it raises, the network answers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = deepcopy(net).to(torch.bfloat16).to(memory_format=torch.channels_last)
        self.exact = (net,)
        """In a tuple, so that it is no part of the copy."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of x [N, C, H, W]."""
        try:
            return self.rough(x)
        except Exception as error:  # whatever the network raises, on a batch that it was not tried on
            if out_of_memory(error):
                raise
            warnings.warn(f"bfloat16 fails ({_told(error)}); those gradients come in float32", AttackWarning, stacklevel=2)
        return ask(self.exact[0], x)

    def rough(self, x: Tensor) -> Tensor:
        """What the copy answers, or raises."""
        return ask(self.net, x.to(torch.bfloat16, memory_format=torch.channels_last))


def to_low_precision(net: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module | None, str]:
    """A faster copy of the network, or None, and why; x, y: a batch that shows whether the copy is one.

    The choice depends on the device, the network and the images, never on a measured time: the same run makes it again.
    """
    if not native_bf16(x.device):
        return None, "float32: the device has no bfloat16"
    # What is only about speed must not decide whether there is a result: counting alone breaks some networks.
    try:
        with Operations() as counted, torch.no_grad():
            ask(net, x)
        if counted.total < WORTHWHILE * len(x):
            return None, "float32: the network is too small to gain from bfloat16"
    except Exception as error:  # whatever the network raises
        return None, f"float32: the network's operations cannot be counted: {_told(error)}"
    try:
        faster = LowPrecision(net).eval().requires_grad_(False)
        (answers, slopes), (theirs, coarser) = _answers(net, x, y), _answers(faster.rough, x, y)
    except Exception as error:  # whatever the network raises
        return None, f"float32: the network does not run in bfloat16: {_told(error)}"
    agreement = float((answers == theirs).double().mean())
    cosine = float(torch.cosine_similarity(slopes, coarser).median())
    if agreement < ALIKE or not cosine >= ALIKE:
        return (
            None,
            f"float32: bfloat16 agrees on {agreement:.0%} of the images, with gradients at cosine {cosine:.2f}",
        )
    return faster, "bfloat16"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _answers(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [N] and the gradients of the margin, [N, C * H * W]."""
    x = x.detach().requires_grad_()
    logits = ask(net, x)
    (grad,) = torch.autograd.grad(margin(logits, y).sum(), x)
    return logits.argmax(1), grad.flatten(1)
