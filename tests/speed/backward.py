"""The backward pass of a first convolution to its images, as torch does it by itself and in `quick_backward`.

OMP_NUM_THREADS=1 python tests/speed/backward.py
"""

import time
from contextlib import nullcontext

import torch
from tabulate import tabulate
from torch import nn

from bench.core.backward import quick_backward

CONVOLUTIONS = (
    ("mnist_fast", 28, nn.Conv2d(1, 16, 4, stride=2, padding=1)),
    ("lenet", 28, nn.Conv2d(1, 32, 5, padding=2)),
    ("digits_cnn, were its images as large", 28, nn.Conv2d(1, 32, 3, padding=1)),
    ("a stem of 7x7", 64, nn.Conv2d(1, 64, 7, stride=2, padding=3)),
)
"""Name, pixels a side, layer."""


def milliseconds(layer: nn.Module, x: torch.Tensor, *, quick: bool) -> float:
    """The best of ten, once it has been tried."""
    best = float("inf")
    for _ in range(11):
        z = x.detach().requires_grad_()
        answer = layer(z)
        grad = torch.ones_like(answer)
        began = time.perf_counter()
        with quick_backward(z) if quick else nullcontext():
            torch.autograd.grad(answer, z, grad)
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def main() -> None:
    """A row for each layer and size of a batch."""
    rows = []
    for name, side, layer in CONVOLUTIONS:
        layer.requires_grad_(False)
        for size in (16, 64, 256):
            x = torch.rand(size, 1, side, side, generator=torch.Generator().manual_seed(0))
            slow, quick = (milliseconds(layer, x, quick=quick) for quick in (False, True))
            rows.append((name, size, slow, quick, slow / quick))
    print(tabulate(rows, ("first layer", "batch", "torch ms", "quick ms", "ratio"), floatfmt=".2f"))  # noqa: T201


if __name__ == "__main__":
    main()
