"""The nearest point of a hyperplane inside the box [0, 1], in linf, l2 and l1."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.threat import Norm


def smallest_move(point: Tensor, normal: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """The move of least norm that keeps each point in the box and whose product with the normal is `gain` [N].

    Where the box does not allow the gain, the move that comes nearest to it.
    """
    uphill = (normal * gain.sign().view(-1, 1, 1, 1)).flatten(1)
    slope = uphill.abs()
    steepest = slope.amax(1, keepdim=True).clamp_min(1e-30)
    slope, need = slope / steepest, gain.abs().unsqueeze(1) / steepest
    room = torch.where(uphill > 0, 1 - point.flatten(1), point.flatten(1)) * (slope > 1e-12)
    slope = slope.clamp_min(1e-12)
    if norm == "l1":
        size = _steepest_first(slope, room, need)
    elif norm == "l2":
        size = slope * _fill(slope.square(), room / slope, need)
    else:
        size = _fill(slope, room, need)
    return (uphill.sign() * size).view_as(point)


def _steepest_first(slope: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Use up the room of the steepest coordinates, one after the other, until the need is met."""
    slope, order = slope.sort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    met = (slope * room).cumsum(1) - slope * room
    size = torch.minimum(((need - met) / slope).clamp_min(0), room)
    return torch.zeros_like(size).scatter_(1, order, size)


def _fill(width: Tensor, height: Tensor, need: Tensor) -> Tensor:
    """Fill vessels of these widths and heights to the one level at which they hold the need: min(level, height)."""
    top, order = height.sort(dim=1, stable=True)
    base = width.gather(1, order)
    held = (base * top).cumsum(1) - base * top
    still_open = base.flip(1).cumsum(1).flip(1)
    full = (held + top * still_open < need).sum(1, keepdim=True)
    last = full.clamp_max(top.shape[1] - 1)
    level = ((need - held.gather(1, last)) / still_open.gather(1, last)).clamp_min(0)
    return torch.minimum(torch.where(full > last, torch.inf, level), height)
