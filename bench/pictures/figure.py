"""What a picture shows, without a word on how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, isfinite, log10

TONES = 6
"""Curves that the eye, and a grey print, can tell apart; no picture has more."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A scale from low to high, and what it is called, with its unit."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one."""
        if self.log:
            return (log10(max(value, self.low)) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Curve:
    """A line through points from left to right; band: the interval of each, where there is one."""

    name: str
    points: tuple[Point, ...]
    tone: int = 0
    band: tuple[Point, ...] = ()
    dots: bool = True
    steps: bool = False
    """Whether a value holds until the next one."""


@dataclass(frozen=True)
class Mark:
    """A method: where it stands, how sure that is, where its seeds stand, and what is proved."""

    name: str
    at: Point
    interval: Point | None = None
    """Low and high of the vertical value."""
    dots: tuple[Point, ...] = ()
    floor: float | None = None
    hollow: bool = False
    """Whether its number is doubted."""
    link: str = ""
    told: str = ""


@dataclass(frozen=True)
class Moment:
    """A vertical line at one value."""

    at: float
    name: str
    bad: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves and marks over two axes."""

    about: str
    """A sentence for whoever does not see it."""
    x: Axis
    y: Axis
    curves: tuple[Curve, ...] = ()
    marks: tuple[Mark, ...] = ()
    front: tuple[Point, ...] = ()
    """The points that nothing beats on both axes, from left to right."""
    moments: tuple[Moment, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Bar:
    """A piece from start to end, in percent; tone 0 stands, 1 fell."""

    name: str
    start: float
    end: float
    value: str
    tone: int = 0
    told: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars below each other, from 0 to 100 %."""

    about: str
    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Pair:
    """Two values of one thing, in percent."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """Pairs below each other: what the two ends are called."""

    about: str
    label: str
    ends: tuple[str, str]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Heat:
    """A table whose cells are shaded from 0 to 1; None for a cell that says nothing."""

    about: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shades: tuple[tuple[float | None, ...], ...]
    texts: tuple[tuple[str, ...], ...]
    across: str
    down: str
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    fine: bool = False
    """Whether its cells are those of a plane: small, without numbers."""


Figure = Chart | Bars | Pairs | Heat


def percent_axis(label: str, values: Sequence[float] = (), *, whole: bool = True) -> Axis:
    """Percent, from 0 to 100, or around the values."""
    if whole or not values:
        return Axis(label, 0, 100, tuple((t, str(t)) for t in (0, 20, 40, 60, 80, 100)))
    low, high = max(min(values) - 2, 0), min(max(values) + 2, 100)
    return _nice(label, low, max(high, low + 4), top=100)


def rising_axis(
    label: str, values: Sequence[float], *, log: bool = False, least: float | None = None, tight: bool = False
) -> Axis:
    """An axis around values; least: where it begins, at most; tight: it ends where they do, and not at a tick."""
    known = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if log and low > 0:
        return _decades(label, low, high)
    low = low if least is None else min(least, low)
    axis = _nice(label, low, high if high > low else low + 1)
    if not tight or high <= low:
        return axis
    slack = 1e-9 * (high - low)
    return Axis(label, low, high, tuple(tick for tick in axis.ticks if low - slack <= tick[0] <= high + slack))


def _nice(label: str, low: float, high: float, top: float | None = None) -> Axis:
    """Ticks at 1, 2 or 5 of a power of ten, the ends included."""
    rough = (high - low) / 5
    power = 10.0 ** floor(log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    ticks = [step * k for k in range(first, last + 1)]
    if top is not None and ticks[-1] > top:
        ticks[-1] = top
    return Axis(label, ticks[0], ticks[-1], tuple((tick, f"{tick:.10g}") for tick in ticks))


def _decades(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis with ticks at 1, 2 and 5 where they are few, else at powers of ten."""
    low, high = low / 1.15, high * 1.15
    powers = range(floor(log10(low)), floor(log10(high)) + 2)
    fine = [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high]
    whole = [10.0**p for p in powers if low <= 10.0**p <= high]
    whole = whole[:: max(1, -(-len(whole) // 8))]
    ticks = (fine if len(fine) <= 7 or len(whole) < 2 else whole) or [(low * high) ** 0.5]
    return Axis(
        label,
        low,
        high,
        tuple((tick, _decade(tick)) for tick in ticks),
        log=True,
    )


def _decade(tick: float) -> str:
    """A value of a logarithmic axis, short however large or small it is."""
    if 0.001 <= tick < 1e5:
        return f"{tick:.3g}" if tick < 1000 else f"{tick:.0f}"
    return f"{tick:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
