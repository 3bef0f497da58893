"""Interval arithmetic on tensors: what torch's functions make of every tensor between two others.

A network's own forward runs on an `Interval` in place of images, so that no second description of an architecture can drift
from the first; a function without a rule here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
FLOAT32 = 2.0**-24
"""The largest relative error of one rounding to float32."""
LARGEST = torch.finfo(torch.float32).max
"""Beyond it float32 is infinite."""


class Interval:
    """Every tensor between two others, elementwise; stands in for a tensor in a network's forward."""

    passes = 2
    """What a forward costs: one of the centre, one of the radius."""

    def __init__(
        self, lower: Tensor, upper: Tensor, unit: float = 0.0, affine: tuple[Interval, Tensor, Tensor] | None = None
    ) -> None:
        """unit: the rounding error of the network that is bounded, 0 for exact arithmetic. affine: input, weight and bias
        of the linear layer that this is the output of.
        """
        self.lower, self.upper, self.unit, self.affine = lower, upper, unit, affine
        self.shared = False
        """Whether the network may hold the same numbers under another name, so that a change in place would be seen there."""

    @property
    def centre(self) -> Tensor:
        """The midpoint."""
        return (self.upper + self.lower) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width."""
        return (self.upper - self.lower) / 2

    @property
    def size_at_most(self) -> Tensor:
        """The largest absolute value inside."""
        return torch.maximum(-self.lower, self.upper)

    def widened(self, by: Tensor) -> Interval:
        """The interval with so much more at both ends, a rounding error: without ends where float32 may have overflowed."""
        if not self.unit:
            return self
        by = _or_endless(by, self.unit)
        return Interval(self.lower - by, self.upper + by, self.unit)

    def replace(self, found: Interval) -> Interval:
        """This interval, changed in place."""
        if self.shared:
            raise Unknown("it changes a tensor in place of which it holds another view")
        self.lower, self.upper, self.affine = found.lower, found.upper, None
        return self

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can reach what margins are taken of."""
        return (self.affine[0] if self.affine else self).upper.requires_grad

    def register_hook(self, hook: Callable[[Tensor], None]) -> None:
        """Call this when it does."""
        (self.affine[0] if self.affine else self).upper.register_hook(hook)

    def margins(self, y: Tensor) -> Tensor:
        """Upper bounds of z_j - z_y, [N, K], for logits z and labels y [N]; 0 at y.

        A linear layer that comes last is merged with the difference, which makes the bound of the two together exact.
        """
        rows = y[:, None]
        if self.affine is None:
            high = self.upper - self.lower.gather(1, rows)
        else:
            x, weight, bias = self.affine
            against = weight - weight[y][:, None]
            high = torch.einsum("nkd,nd->nk", against, x.centre) + torch.einsum("nkd,nd->nk", against.abs(), x.radius)
            error = _gamma(weight.shape[1] + 1, self.unit) * (x.size_at_most @ weight.abs().T + bias.abs())
            high = high + bias - bias[y][:, None] + _or_endless(error + error.gather(1, rows), self.unit)
        return high.scatter(1, rows, 0.0)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Interval:
        del types
        rule, known = _RULES.get(func.__name__), [part for part in args if isinstance(part, Interval)]
        if rule is None or not known:
            raise Unknown(f"it calls {func.__name__}, which has no bounds here")
        # Half precision would lose a small radius beside a large centre.
        options = dict(kwargs or {})
        inplace = options.pop("inplace", False)
        with torch.autocast(known[0].lower.device.type, enabled=False):
            found = rule(func, *args, **options)
        return known[0].replace(found) if inplace and found is not known[0] else found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("shape", "ndim", "dtype", "device", "dim", "size"):
            return getattr(self.upper, name)
        if name not in _RULES:
            raise Unknown(f"it uses {name} of a tensor, which has no bounds here")
        return lambda *args, **kwargs: self.__torch_function__(getattr(Tensor, name), (), (self, *args), kwargs)

    def __len__(self) -> int:
        return len(self.lower)

    def __add__(self, other: Any) -> Interval:
        return self.__torch_function__(torch.add, (), (self, other))

    def __sub__(self, other: Any) -> Interval:
        return self.__torch_function__(torch.sub, (), (self, other))

    def __rsub__(self, other: Any) -> Interval:
        return self.__torch_function__(torch.sub, (), (other, self))

    def __mul__(self, other: Any) -> Interval:
        return self.__torch_function__(torch.mul, (), (self, other))

    def __truediv__(self, other: Any) -> Interval:
        return self.__torch_function__(torch.div, (), (self, other))

    __radd__, __rmul__ = __add__, __mul__

    def __iadd__(self, other: Any) -> Interval:
        return self.replace(self + other)

    def __isub__(self, other: Any) -> Interval:
        raise Unknown("it changes a tensor in place, other than by adding to it")

    __imul__ = __itruediv__ = __isub__


class Unknown(Exception):
    """A function or a use of one that intervals have no rule for."""


def _gamma(operations: int, unit: float) -> float:
    """The relative error that so many roundings in a row can add up to (Higham 2002, lemma 3.1), and a little more."""
    return (operations + 2) * unit / (1 - (operations + 2) * unit)


def _or_endless(error: Tensor, unit: float) -> Tensor:
    """This rounding error, infinite where it is that of numbers which float32 may not hold."""
    return error.masked_fill(error > unit * LARGEST, math.inf) if unit else error


def _affine(func: Function, x: Any, weight: Tensor, bias: Tensor | None = None, *rest: Any, **options: Any) -> Interval:
    """A linear layer or a convolution: W c + b, give or take |W| r."""
    if not isinstance(x, Interval) or isinstance(weight, Interval):
        raise Unknown("its weights depend on the images")
    weight = weight.to(x.dtype)
    bias = weight.new_zeros(len(weight)) if bias is None else bias.to(x.dtype)
    error = _gamma(weight[0].numel() + 1, x.unit)
    radius = x.radius + error * x.size_at_most if x.unit else x.radius
    middle = func(x.centre, weight, bias, *rest, **options)
    spread = func(radius, weight.abs(), error * bias.abs(), *rest, **options)
    found = Interval(middle, middle, x.unit).widened(spread) if x.unit else Interval(middle - spread, middle + spread)
    if func.__name__ == "linear" and x.ndim == 2:
        # As it is now: the network may yet change it in place.
        found.affine = (Interval(x.lower, x.upper, x.unit), weight, bias)
    return found


def _batch_norm(  # noqa: PLR0913 - the signature of torch.nn.functional.batch_norm
    func: Function,
    x: Interval,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Interval:
    del func, momentum
    if training or mean is None or variance is None:
        raise Unknown("it normalises with the statistics of the batch")
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, scale = mean.to(x.dtype), (variance.to(x.dtype) + eps).rsqrt()
    scale = (scale if weight is None else scale * weight).view(shape)
    shift = (torch.zeros_like(mean) if bias is None else bias.to(x.dtype)).view(shape)
    mean = mean.view(shape)
    middle, spread = (x.centre - mean) * scale + shift, x.radius * scale.abs()
    # A root, a quotient, products and sums, in whatever order a kernel takes them.
    error = _gamma(12, x.unit) * (scale.abs() * (x.size_at_most + mean.abs()) + shift.abs())
    return Interval(middle - spread, middle + spread, x.unit).widened(error)


def _exact(func: Function, x: Interval, *args: Any, return_indices: bool = False, **options: Any) -> Interval:
    """A rising function that does not round."""
    if return_indices:
        raise Unknown("it asks for the indices of a maximum")
    return Interval(func(x.lower, *args, **options), func(x.upper, *args, **options), x.unit)


def _view(func: Function, x: Interval, *args: Any, **options: Any) -> Interval:
    """The same numbers in another shape."""
    found = _exact(func, x, *args, **options)
    x.shared = found.shared = True
    return found


def _rising(func: Function, x: Interval, *args: Any, **options: Any) -> Interval:
    """An activation that rises, and rounds."""
    if any(value < 0 for value in (*args, *options.values())):
        raise Unknown(f"its {func.__name__} has a negative parameter, and may fall")
    found = _exact(func, x, *args, **options)
    return found.widened(_gamma(8, x.unit) * (1 + found.size_at_most))


def _softplus(func: Function, x: Interval, beta: float = 1.0, threshold: float = 20.0) -> Interval:
    """Falls a little where it becomes the identity: from the usual threshold on by less than it rounds."""
    if threshold < 20:
        raise Unknown("its softplus has a threshold below 20, where it falls")
    return _rising(func, x, beta, threshold)


def _mean(func: Function, x: Interval, *args: Any, **options: Any) -> Interval:
    """A mean over a window, which falls where a divisor below 0 is asked for."""
    one, other, size = (func(part, *args, **options) for part in (x.lower, x.upper, x.size_at_most))
    window = x.lower.numel() // size.numel() if func.__name__ == "mean" else math.prod(x.shape[2:])
    return Interval(torch.minimum(one, other), torch.maximum(one, other), x.unit).widened(_gamma(window, x.unit) * size.abs())


def _same(func: Function, x: Interval, *args: Any, **options: Any) -> Interval:
    """A change of layout, or to the type that the network computes in."""
    del func, args, options
    found = Interval(x.lower, x.upper, x.unit, x.affine)
    x.shared = found.shared = True
    return found


def _dropout(func: Function, x: Interval, p: float = 0.5, training: bool = True) -> Interval:
    del func
    if training and p:
        raise Unknown("it drops at random")
    return x


def _binary(func: Function, left: Any, right: Any) -> Interval:
    """A sum, difference, product or quotient of which one side may be a constant."""
    if func.__name__ == "div" and isinstance(right, Interval):
        raise Unknown("it divides by what depends on the images")
    unit = max(side.unit for side in (left, right) if isinstance(side, Interval))
    sides = [(side.lower, side.upper) if isinstance(side, Interval) else (torch.as_tensor(side),) for side in (left, right)]
    found = torch.stack([func(one, other) for one in sides[0] for other in sides[1]])
    box = Interval(found.amin(0), found.amax(0), unit)
    return box.widened(_gamma(2, unit) * box.size_at_most)


_RULES: Mapping[str, Callable[..., Interval]] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _affine),
    **dict.fromkeys(("relu", "relu6", "hardtanh", "max_pool1d", "max_pool2d", "adaptive_max_pool2d", "pad"), _exact),
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze", "detach"), _view),
    **dict.fromkeys(("clone", "contiguous", "float"), _same),
    **dict.fromkeys(("leaky_relu", "elu", "celu", "selu", "sigmoid", "tanh"), _rising),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d", "mean"), _mean),
    **dict.fromkeys(("dropout", "dropout2d", "feature_dropout"), _dropout),
    **dict.fromkeys(("add", "sub", "mul", "div"), _binary),
    "softplus": _softplus,
    "batch_norm": _batch_norm,
}
"""How each function of torch acts on intervals, by its name."""
