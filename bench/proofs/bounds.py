"""Interval bound propagation (Gowal et al. 2018): where logits lie when an image is anywhere in a box, and what it verifies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.core import TOLERANCE
from bench.errors import BadInput
from bench.proofs.intervals import FLOAT32, Interval, Unknown

HALVINGS = 12
"""Of the range of radii in which a network stops being verified."""


def bounds(net: nn.Module, lower: Tensor, upper: Tensor, *, unit: float = 0.0) -> Interval:
    """Where the logits of images between two others can lie, [N, K]; the network has to be in eval mode.

    unit: FLOAT32 widens the bounds by what rounding can do to a network that computes in float32, whatever the order of
    its sums; give the box in float64 then. Underflow is left out, and so are fast convolutions (Winograd, Fourier).
    """
    box = Interval(lower, upper, unit)
    try:
        answer = net(box)
    except (Unknown, TypeError) as error:
        raise BadInput(
            f"no interval bounds for {_culprit(net, box)}: {error}; build the network of linear layers, convolutions, ReLU or "
            "other rising activations, pooling, batch norms, sums and constant factors, in eval mode"
        ) from None
    if not isinstance(answer, Interval):
        raise BadInput(f"no interval bounds for {type(net).__name__}: its answer does not depend on the images as a tensor")
    return answer


@torch.no_grad()
def verified(net: nn.Module, x: Tensor, y: Tensor, radius: float | Tensor) -> Tensor:
    """Which images x [N, C, H, W] the network, computing in float32, gives the label y [N] all over a ball; bool [N].

    radius: in linf, for all or for each [N]. What is checked holds all that `ThreatModel.contains` lets count, its tolerance
    included; a ball of that radius in another norm is smaller.
    """
    x = x.double()
    reach = torch.as_tensor(radius, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1) + TOLERANCE
    lower, upper = (x - reach).clamp_min(-TOLERANCE), (x + reach).clamp_max(1 + TOLERANCE)
    margins = bounds(net, lower, upper, unit=FLOAT32).margins(y)
    return (margins.scatter(1, y[:, None], -math.inf) < 0).all(1)


def verified_radii(net: nn.Module, x: Tensor, y: Tensor, first: float) -> Tensor:
    """Radii at which x is verified for the label y, float64 [N], found by halving from `first` on; 0 where there is none."""
    low, high = (torch.full((len(x),), end, dtype=torch.float64, device=x.device) for end in (0.0, 1.0))
    middle = torch.full_like(low, first)
    for _ in range(HALVINGS + 1):
        held = verified(net, x, y, middle)
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
        middle = (low + high) / 2
    return low


def _culprit(net: nn.Module, box: Interval) -> str:
    """The module inside which the forward stops."""
    inside: list[str] = []
    hooks = []
    for name, part in net.named_modules():
        told = f"module {name!r} ({type(part).__name__})" if name else type(part).__name__
        hooks.append(part.register_forward_pre_hook(lambda *_, told=told: inside.append(told)))
        hooks.append(part.register_forward_hook(lambda *_: (inside.pop(), None)[1]))
    try:
        net(box)
    except (Unknown, TypeError):
        return inside[-1]
    finally:
        for hook in hooks:
            hook.remove()
    return type(net).__name__
