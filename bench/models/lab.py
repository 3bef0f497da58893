"""The classifiers of the lab (bench.science.lab), to be trained and attacked as any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.science.lab.structured import IMAGES, activation


def linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A linear classifier, whose robust loss between two classes is known in closed form."""
    channels, rows, columns = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * rows * columns, classes))


def patches(
    shape: tuple[int, int, int], classes: int, *, filters: int = 8, q: int = 3, rho: float = 8.0, init: float = 0.1
) -> nn.Module:
    """Sums over patches, the rows of an image, of smoothed ReLUs of filters for each class (after Li & Li 2025)."""
    return _Patches(shape[2], classes, filters, (q, rho, init))


class _Patches(nn.Module):
    def __init__(self, size: int, classes: int, filters: int, how: tuple[int, float, float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(how[2] * torch.randn(classes, filters, size))
        self.act = activation("smoothed", *how[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of images [N, C, P, d], which are 1/2 + x / 4."""
        rows = ((x - 0.5) * IMAGES).flatten(1, 2)
        # Of the two that it returns, the slope is for those who need it in closed form.
        return self.act(rows @ self.weight.flatten(0, 1).T)[0].sum(1).view(len(x), *self.weight.shape[:2]).sum(2)
