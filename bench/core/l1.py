"""The geometry of the l1 ball inside the box, which, unlike that of the other norms, takes a search."""

from __future__ import annotations

import torch
from torch import Tensor

_HALVINGS = 30
"""From the largest pixel down to a billionth of it: below the resolution of float32."""


def project(z: Tensor, x: Tensor, radius: float) -> Tensor:
    """The point nearest to z in the l1 ball around x and the box [0, 1] at once; z and x [N, ...], x in the box.

    Clipping to the box after projecting onto the ball would land well inside the ball (Croce & Hein 2021). The nearest point
    takes the same threshold off the change of every pixel and cuts what is left at the box. The threshold is bisected: sorting
    for it takes three times as long on a CPU.
    """
    change = (z - x).flatten(1)
    size, none = change.abs(), change.new_zeros(())
    room = ((change > 0).to(x.dtype) - x.flatten(1)).abs_()

    def cut(threshold: Tensor) -> Tensor:
        return (size - threshold).clamp_(none, room)

    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    high = torch.where(cut(low).sum(1, keepdim=True) > radius, high, low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        outside = cut(middle).sum(1, keepdim=True) > radius
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return torch.copysign(cut(high), change).view_as(x).add_(x).clamp_(0, 1)
