"""Bounds of a network's gradient over a whole ball: reverse-mode differentiation in interval arithmetic.

The network's own forward runs on a `Traced` interval, which remembers what was done to it; going back, each function multiplies
an interval of slopes by what its own slope can be in the ball. The dual norm of the result bounds how fast a margin changes
there: a local Lipschitz constant that holds everywhere in the ball, where a sampled one holds at the samples. In float64,
without an account of its own roundings. On a deep network it is vacuous, as intervals are: it holds, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.proofs.intervals import Interval, Unknown

Slope = tuple[Tensor, Tensor]
"""Bounds of a derivative, elementwise."""
Back = Callable[[Slope], list[Slope]]
"""From bounds of the derivative for an output to those for each of the intervals that went in."""


class Traced(Interval):
    """An interval that knows what it was made of."""

    parents: tuple[Traced, ...] = ()
    back: Back | None = None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Traced:
        options = dict(kwargs or {})
        if options.pop("inplace", False):
            raise Unknown("it changes a tensor in place")
        found = super().__torch_function__(func, types, args, options)
        made = Traced(found.lower, found.upper, found.unit)
        made.parents = tuple(part for part in args if isinstance(part, Traced))
        made.back = _backward(func, args, options)
        return made

    def replace(self, found: Interval) -> Interval:
        """Refuse: what was remembered of it would be of something else."""
        del found
        raise Unknown("it changes a tensor in place")


def slope_bounds(net: Callable[[Any], Any], lower: Tensor, upper: Tensor, weights: Tensor) -> Slope:
    """Bounds of the gradient of (weights [N, K] . logits) at every image between lower and upper, [N, C, H, W] each.

    Unknown for a network with a function that has no rule.
    """
    return traced(net, lower, upper)(weights)


@torch.no_grad()
def traced(net: Callable[[Any], Any], lower: Tensor, upper: Tensor) -> Callable[[Tensor], Slope]:
    """The same for any number of weights, the network asked once."""
    start = Traced(lower, upper)
    end = net(start)
    if not isinstance(end, Traced):
        raise Unknown("its answer does not depend on the images")
    order = _ordered(end)

    @torch.no_grad()
    def bounds(weights: Tensor) -> Slope:
        seen = {id(end): (weights, weights)}
        for node in order:
            if node.back is None:
                continue
            for parent, part in zip(node.parents, node.back(seen[id(node)]), strict=True):
                before = seen.get(id(parent))
                seen[id(parent)] = part if before is None else (before[0] + part[0], before[1] + part[1])
        return seen[id(start)]

    return bounds


def _ordered(end: Traced) -> list[Traced]:
    """Every node before what it was made of."""
    done: list[Traced] = []
    known: set[int] = set()
    stack: list[tuple[Traced, bool]] = [(end, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            done.append(node)
        elif id(node) not in known:
            known.add(id(node))
            stack += [(node, True), *((parent, False) for parent in node.parents)]
    return done[::-1]


def _backward(func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> Back:
    """The rule of a function; one that is missing is told when it is needed, which is always."""
    name = func.__name__
    for names, rule in _RULES.items():
        if name in names:
            return lambda out: rule(func, args, dict(options), out)
    raise Unknown(f"it calls {name}, whose slope has no bounds here")


def _pulled(linear: Callable[[Tensor], Tensor], x: Tensor, out: Tensor) -> Tensor:
    """out pulled back through a linear function of x."""
    with torch.enable_grad():
        leaf = torch.zeros_like(x).requires_grad_()
        (found,) = torch.autograd.grad(linear(leaf), leaf, out)
    return found


def _affine(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    """W^T of an interval: its centre by W, its radius by |W|."""
    x, weight, *rest = args
    options = {**options, "bias": None}
    rest = rest[1:]
    centre, radius = (out[0] + out[1]) / 2, (out[1] - out[0]) / 2

    def through(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda z: func(z, matrix.to(z.dtype), None, *rest, **{k: v for k, v in options.items() if k != "bias"})

    middle = _pulled(through(weight), x.lower, centre)
    spread = _pulled(through(weight.abs()), x.lower, radius)
    return [(middle - spread, middle + spread)]


def _batch_norm(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    del func
    x, _, variance = args[0], *args[1:3]
    weight = args[3] if len(args) > 3 else options.get("weight")
    eps = args[7] if len(args) > 7 else options.get("eps", 1e-5)
    scale = (variance.to(x.dtype) + eps).rsqrt() * (1 if weight is None else weight.to(x.dtype))
    return [_times(out, (scale.view(1, -1, *[1] * (x.ndim - 2)),) * 2)]


def _elementwise(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    """An activation: the least and the largest slope that it has in the interval."""
    x = args[0]
    return [_times(out, _SLOPES[func.__name__](x.lower, x.upper, *args[1:], **options))]


def _monotone(slope: Callable[..., Tensor]) -> Callable[..., Slope]:
    """Of an activation whose slope only rises, or only falls: between that at the two ends."""

    def found(low: Tensor, high: Tensor, *args: Any, **options: Any) -> Slope:
        ends = slope(low, *args, **options), slope(high, *args, **options)
        return torch.minimum(*ends), torch.maximum(*ends)

    return found


def _clipped(low: Tensor, high: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Slope:
    """Of the identity between two ends: 1 where the interval lies inside, 0 where it lies outside."""
    return ((low > min_val) & (high < max_val)).to(low), ((high > min_val) & (low < max_val)).to(high)


def _kinked(low: Tensor, high: Tensor, alpha: float = 1.0, scale: float = 1.0) -> Slope:
    """Of scale * alpha * (exp(z) - 1) below 0 and scale * z above: it rises to scale * alpha, then it is scale."""
    ends = [torch.where(z > 0, scale, scale * alpha * z.clamp_max(0).exp()).to(z) for z in (low, high)]
    most, inside = torch.maximum(*ends), (low <= 0) & (high >= 0)
    return torch.minimum(*ends), torch.where(inside, most.clamp_min(scale * alpha), most)


def _bell(slope: Callable[[Tensor], Tensor]) -> Callable[..., Slope]:
    """Of one whose slope is largest at 0 and falls to both sides."""

    def found(low: Tensor, high: Tensor) -> Slope:
        ends = slope(low), slope(high)
        inside = (low <= 0) & (high >= 0)
        return torch.minimum(*ends), torch.where(inside, slope(torch.zeros_like(low)), torch.maximum(*ends))

    return found


_SLOPES: Mapping[str, Callable[..., Slope]] = {
    "relu": lambda low, high: ((low > 0).to(low), (high > 0).to(high)),
    "relu6": lambda low, high: _clipped(low, high, 0.0, 6.0),
    "hardtanh": _clipped,
    "leaky_relu": _monotone(lambda z, negative_slope=0.01: torch.where(z > 0, 1.0, negative_slope).to(z)),
    "elu": _kinked,
    "celu": _monotone(lambda z, alpha=1.0: (z.clamp_max(0) / alpha).exp()),
    "selu": lambda low, high: _kinked(low, high, 1.6732632423543772, 1.0507009873554805),
    "softplus": _monotone(lambda z, beta=1.0, *_, **__: torch.sigmoid(beta * z)),
    "sigmoid": _bell(lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z))),
    "tanh": _bell(lambda z: 1 - torch.tanh(z) ** 2),
}


def _times(out: Slope, by: Slope) -> Slope:
    """The product of two intervals."""
    products = torch.stack([one * other for one in out for other in by])
    return products.amin(0), products.amax(0)


def _view(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    """A function that is linear with weights of 0 or more, such as a mean or a reshape."""
    x, *rest = args
    return [tuple(_pulled(lambda z: func(z, *rest, **options), x.lower, part) for part in out)]  # type: ignore[list-item]


def _same(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    """The identity: a change of type, or a dropout at test time; one that drops has no interval."""
    del func, args, options
    return [out]


def _max_pool(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    """Each of a window may be the largest, or not: what comes back is between 0 and all that its windows get."""
    del func
    x, kernel = args[0], args[1]
    stride = (args[2] if len(args) > 2 else options.get("stride")) or kernel
    padding = args[3] if len(args) > 3 else options.get("padding", 0)
    ceil = options.get("ceil_mode", False)
    if (args[4] if len(args) > 4 else options.get("dilation", 1)) not in (1, (1, 1)):
        raise Unknown("it pools with gaps")

    def summed(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, kernel, stride, padding, ceil_mode=ceil, divisor_override=1)

    return [(_pulled(summed, x.lower, out[0].clamp_max(0)), _pulled(summed, x.lower, out[1].clamp_min(0)))]


def _binary(func: Callable[..., Any], args: Sequence[Any], options: dict[str, Any], out: Slope) -> list[Slope]:
    """A sum or a difference, or a product or a quotient with a constant."""
    left, right = args[:2]
    name, both = func.__name__, isinstance(left, Traced) and isinstance(right, Traced)
    if options or (both and name not in ("add", "sub")):
        raise Unknown(f"it calls {name} of two things that depend on the images")
    parts = []
    for side, other, sign in ((left, right, 1), (right, left, -1 if name == "sub" else 1)):
        if not isinstance(side, Traced):
            continue
        factor = torch.as_tensor(sign if name in ("add", "sub") else other).to(side.dtype)
        low, high = _times(out, (1 / factor if name == "div" else factor,) * 2)
        parts.append((low.sum_to_size(side.lower.shape), high.sum_to_size(side.lower.shape)))
    return parts


_RULES: Mapping[tuple[str, ...], Callable[..., list[Slope]]] = {
    ("linear", "conv1d", "conv2d", "conv3d"): _affine,
    ("batch_norm",): _batch_norm,
    tuple(_SLOPES): _elementwise,
    ("flatten", "reshape", "view", "squeeze", "unsqueeze", "clone", "contiguous", "pad"): _view,
    ("mean", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d"): _view,
    ("float", "dropout", "dropout2d", "feature_dropout"): _same,
    ("max_pool2d",): _max_pool,
    ("add", "sub", "mul", "div"): _binary,
}


def dual_norm(bounds: Slope, norm: str) -> Tensor:
    """The largest dual norm of a gradient within bounds, [N]: of linf the l1 norm, of l2 itself, of l1 the largest entry."""
    largest = torch.maximum(-bounds[0], bounds[1]).flatten(1)
    kinds = {"linf": largest.sum(1), "l2": largest.norm(dim=1), "l1": largest.amax(1)}
    found: Tensor = kinds[norm]
    return found
