"""The input gradient of a convolution with one input channel, which oneDNN computes several times slower than torch itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

WORTHWHILE = 256
"""Pixels of an image below which looking at each operation costs what it saves."""


class EachOperation(TorchDispatchMode):
    """Sees every operation of torch while it is entered; networks that are compiled run as they are."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """To keep its compiler away from a mode, torch would import it, which takes a second."""
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A network that is compiled runs as it is."""
        return True


def quick_backward(z: Tensor) -> AbstractContextManager[object]:
    """What to take a gradient at images z [N, C, H, W] in; the same number but for rounding, and the same for any batch.

    Of grey images alone, on a CPU: three to ten times as fast in the first layer of a network (tests/speed/backward.py).
    """
    grey = z.ndim == 4 and z.shape[1] == 1 and z.shape[2] * z.shape[3] >= WORTHWHILE
    return _OneChannel() if grey and z.device.type == "cpu" else nullcontext()


class _OneChannel(EachOperation):
    def __torch_dispatch__(self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and _slow(*args):
            grad, x, weight, _, *steps = args[:6]
            # One number stands for both directions, where a network says padding="valid".
            stride, padding = (each * 2 if len(each) == 1 else each for each in steps)
            return torch.ops.aten._slow_conv2d_backward.output_mask(
                grad.contiguous(), x, weight, weight.shape[2:], stride, padding, [True, False, False]
            )
        return func(*args, **(kwargs or {}))


def _slow(grad: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> bool:
    """Whether a backward pass, by its arguments in torch, is of one channel in float32, and of the input alone."""
    _, _, _, dilation, transposed, _, groups, wanted = settings
    plain = not transposed and groups == 1 and all(step == 1 for step in dilation) and wanted == [True, False, False]
    return plain and x.ndim == 4 and x.shape[1] == 1 and {x.dtype, weight.dtype, grad.dtype} == {torch.float32}
