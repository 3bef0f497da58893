"""The threat model: a norm ball around a clean image, cut by the box [0, 1], and all of its geometry."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from textwrap import shorten
from typing import Literal, get_args

import torch
from torch import Tensor

from bench.core import l1
from bench.core.rng import Rng
from bench.errors import BadInput, UnknownName

Norm = Literal["linf", "l2", "l1"]
TOLERANCE = 1e-6
"""How far outside the ball or the box a float32 candidate may lie and still count, in input units."""
_ROUNDING = 1e-4
"""By how much of the radius rounding may take a candidate out of a ball of l2 or l1."""
LONGEST = 64
"""Characters in which an eps can be written."""
_PLAIN = re.compile(r"[-+0-9./_]+([eE][-+]?[0-9]{1,2})?")


@dataclass(frozen=True)
class ThreatModel:
    """Every image within `eps` of the clean one in `norm`, inside the box [0, 1].

    Images are [N, C, H, W] in [0, 1]; eps is an exact fraction in the same units ("8/255", not 8).
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise UnknownName("norm", str(self.norm), get_args(Norm))
        if self.eps < 0:
            raise BadInput(f"eps {self.eps} is negative; give a radius of at least 0")
        if self.norm == "linf" and self.eps > 1:
            hint = f"did you mean {self.eps}/255?" if self.eps <= 255 else "images live in [0, 1]"
            raise BadInput(f"eps {float(self.eps):g} is larger than the whole box [0, 1] in linf: {hint}")

    @classmethod
    def parse(cls, norm: str, eps: str | float | Fraction) -> ThreatModel:
        """Read a threat model from text, `parse("linf", "8/255")`; a float that is the nearest to k/255 is taken as that."""
        text = _exact(eps) if isinstance(eps, float) else eps if isinstance(eps, Fraction) else str(eps).strip()
        # Fraction("1e999999999") would write out every one of its digits.
        if isinstance(text, str) and not (len(text) <= LONGEST and _PLAIN.fullmatch(text)):
            raise BadInput(f"eps {shorten(repr(text), 80)} is not a number; write it like 8/255 or 0.3")
        try:
            value = Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise BadInput(f"eps {eps!r} is not a number; write it like 8/255 or 0.3") from None
        return cls(norm, value)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.norm} {self.eps_text}"

    @property
    def eps_text(self) -> str:
        """eps as people write it: "8/255", "0.3"; always read back exactly by `parse`."""
        denominator = self.eps.denominator
        for prime in (2, 5):
            while denominator % prime == 0:
                denominator //= prime
        if denominator == 1:
            return format(float(self.eps), ".12g") if Fraction(format(float(self.eps), ".12g")) == self.eps else str(self.eps)
        return f"{self.eps * 255}/255" if 255 % self.eps.denominator == 0 else str(self.eps)

    @property
    def radius(self) -> float:
        """eps as a float, in input units."""
        return float(self.eps)

    def scaled(self, factor: float) -> ThreatModel:
        """The same ball with its radius multiplied by `factor`."""
        return ThreatModel(self.norm, self.eps * Fraction(factor))

    def multiples(self, factors: Iterable[float]) -> list[ThreatModel]:
        """The balls of these multiples of the radius, each once; in linf those that lie in the box."""
        inside = (factor for factor in factors if self.norm != "linf" or Fraction(factor) * self.eps <= 1)
        return [*dict.fromkeys(map(self.scaled, inside))]

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Bring z into the ball around x and into the box: the nearest point for linf and l1, ball first, then box, for l2."""
        if self.norm == "linf":
            return torch.minimum(torch.maximum(z, x - self.radius), x + self.radius).clamp_(0, 1)
        if self.norm == "l1":
            return l1.project(z, x, self._reach(math.prod(x.shape[1:])))
        delta = z - x
        delta = delta * (self.radius / self._expand(self._length(delta), x).clamp_min(1e-12)).clamp_max(1)
        return (x + delta).clamp_(0, 1)

    def steepest(self, grad: Tensor, z: Tensor | None = None) -> Tensor:
        """The direction of unit norm along which a linear function with this gradient grows fastest; 0 where grad is 0.

        z: where the step starts. In l1, where one pixel moves at a time, it has to be one that the box lets move.
        """
        if self.norm == "linf":
            return grad.sign()
        if self.norm == "l2":
            return unit(grad)
        if z is not None:
            grad = grad * (((z > 0) | (grad > 0)) & ((z < 1) | (grad < 0)))
        flat = grad.flatten(1)
        top = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter_(1, top, flat.gather(1, top).sign()).view_as(grad)

    def dual(self, grad: Tensor) -> Tensor:
        """The dual norm of a gradient, [N]: how much a linear function grows over a step of unit norm."""
        return (grad * self.steepest(grad)).flatten(1).sum(1)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The norm of z - x per sample, [N]."""
        return self._length(z - x)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Which candidates are finite, in the ball and in the box, up to TOLERANCE; bool [N]."""
        return self.in_box(z) & (self.distance(z.double(), x.double()) <= self.radius + TOLERANCE)

    def pulled_back(self, z: Tensor, x: Tensor) -> Tensor:
        """Candidates z of images x as they are, but for those that rounding took out of the ball, which are brought back.

        Lengths over many pixels are sums of as many roundings: at 150,528 of them a float32 norm is short by 5e-6 of itself.
        """
        if self.norm == "linf":
            return z
        distance = self.distance(z.double(), x.double())
        near = (distance > self.radius + TOLERANCE) & (distance <= self.radius * (1 + _ROUNDING)) & self.in_box(z)
        reach = self._reach(math.prod(x.shape[1:])) * (1 - 2.0**-22)
        share = self._expand((reach / distance.clamp_min(self.radius)).float(), x)
        return torch.where(self._expand(near, x), x + (z - x) * share, z)

    @staticmethod
    def in_box(z: Tensor) -> Tensor:
        """Which candidates are images, up to TOLERANCE and without NaN; bool [N]."""
        flat = z.flatten(1)
        return (flat >= -TOLERANCE).all(1) & (flat <= 1 + TOLERANCE).all(1)

    def random_start(self, x: Tensor, rng: Rng, *, corner: bool = False, box: bool = True) -> Tensor:
        """A point drawn uniformly from the ball around each x, then clamped to the box unless told otherwise.

        corner: from the ball's far points instead, the corners of linf and the sphere of l2 and l1.
        """
        z = x + self._random_delta(x, rng, corner)
        return z.clamp_(0, 1) if box else z

    def _random_delta(self, x: Tensor, rng: Rng, corner: bool) -> Tensor:
        shape = x.shape[1:]
        if self.norm == "linf":
            delta = 2 * rng.uniform(shape) - 1
            return self.radius * (torch.where(delta < 0, -1.0, 1.0) if corner else delta)
        if self.norm == "l2":
            direction = rng.at("direction").normal(shape)
        else:
            magnitude = -torch.log1p(-rng.at("direction").uniform(shape))
            direction = torch.where(rng.at("sign").uniform(shape) < 0.5, -magnitude, magnitude)
        # u^(1/d) makes the draw uniform in volume; eps * u would crowd the centre.
        share = x.new_ones(len(x)) if corner else rng.at("length").uniform((1,)).squeeze(1)
        length = self._reach(math.prod(shape)) * share ** (1 / math.prod(shape))
        return direction * self._expand(length / self._length(direction).clamp_min(1e-12), x)

    def _reach(self, dimensions: int) -> float:
        """The radius that float32 images can use: in l1 the rounding of every pixel adds up, half a unit at most each."""
        return max(self.radius - dimensions * 2.0**-25, 0.0) if self.norm == "l1" else self.radius

    def _length(self, delta: Tensor) -> Tensor:
        flat = delta.flatten(1)
        if self.norm == "linf":
            return flat.abs().amax(1)
        return flat.norm(dim=1) if self.norm == "l2" else flat.abs().sum(1)

    @staticmethod
    def _expand(per_sample: Tensor, like: Tensor) -> Tensor:
        return per_sample.view(-1, *[1] * (like.dim() - 1))


def unit(grad: Tensor) -> Tensor:
    """Each gradient scaled to l2 norm 1, however small or large it is; 0 where it is 0.

    Squares of float32 are 0 below 1e-23: the largest entry is brought near 1 first, by a power of two, which rounds nothing.
    """
    each = (-1, *[1] * (grad.dim() - 1))
    largest = grad.flatten(1).abs().amax(1)
    power = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent.clamp(-126, 126))
    scaled = grad * power.view(each)
    length: Tensor = scaled.flatten(1).norm(dim=1).clamp_min(1e-12)
    return scaled / length.view(each)


def _exact(eps: float) -> Fraction | str:
    """8/255 computed by Python is meant as the fraction; any other float as it is printed."""
    near = Fraction(round(eps * 255), 255) if math.isfinite(eps) else Fraction(0)
    return near if near and float(near) == eps else str(eps)
