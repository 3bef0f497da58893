"""Adversarial examples as images of 8 bits: what a saved file can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core import Judge, ThreatModel

_EXACT = 1e-4
"""Levels by which float32 may miss a whole one."""


def rounded(z: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Examples z for clean images x, [N, C, H, W], at the nearest of 256 levels.

    Where that leaves the ball, each pixel's change is rounded towards the clean image, which stays in the ball if the clean
    image has 8 bits itself.
    """
    levels = 255 * z.double()
    nearest = _image(levels.round())
    inside = threat.contains(nearest, x)
    if inside.all():
        return nearest
    up = z > x
    towards = _image(torch.where(up, (levels + _EXACT).floor(), (levels - _EXACT).ceil()))
    return torch.where(inside.view(-1, *[1] * (z.dim() - 1)), nearest, towards)


def _image(levels: Tensor) -> Tensor:
    """As a data set gives an image of these levels."""
    return levels.nan_to_num().clamp(0, 255).to(torch.uint8).to(torch.float32).div_(255)


def survive(judge: Judge, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which examples still fool the network once they are images of 8 bits, bool [N]."""
    return judge.verdict(rounded(z, x, judge.threat), x, y).fooled
