"""Learning-rate and budget schedules in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bench.errors import BadInput, UnknownName

Schedule = Callable[[float], float]
"""Maps the progress of the training, in [0, 1], to a factor of the peak value."""


def learning_rate(text: str) -> Schedule:
    """A schedule from text: a name, and after a colon its numbers.

    constant · cosine · triangular:PEAK (0 to 1 at PEAK, back to 0) · piecewise:P1,P2,... (x 0.1 at each fraction) ·
    periodic:B1,B2,... (periods that end at these fractions; inside each, x 0.1 at 1/2 and again at 3/4).
    """
    name, _, rest = text.partition(":")
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        raise BadInput(f"schedule {text!r}: {rest!r} is not a list of numbers, as in piecewise:0.5,0.75") from None
    if any(not 0 < number <= 1 for number in numbers) or sorted(numbers) != numbers:
        raise BadInput(f"schedule {text!r}: the numbers are fractions of the training, rising, in (0, 1]")
    if name == "constant" and not numbers:
        return lambda _: 1.0
    if name == "cosine" and not numbers:
        return lambda p: (1 + math.cos(math.pi * p)) / 2
    if name == "triangular" and len(numbers) == 1 and numbers[0] < 1:
        return lambda p: float(np.interp(p, [0, numbers[0], 1], [0, 1, 0]))
    if name == "piecewise" and numbers:
        return lambda p: 0.1 ** sum(p >= number for number in numbers)
    if name == "periodic" and numbers:
        return lambda p: 0.1 ** sum(position_in_period(p, numbers) >= drop for drop in (0.5, 0.75))
    if name in ("constant", "cosine", "triangular", "piecewise", "periodic"):
        raise BadInput(f"schedule {text!r}: write constant, cosine, triangular:0.5, piecewise:0.5,0.75 or periodic:0.5,1")
    raise UnknownName("schedule", name, ["constant", "cosine", "triangular", "piecewise", "periodic"])


def budget_factor(text: str) -> Schedule | None:
    """A schedule of the budget from text, as fractions of eps clipped at 1: KIND:MIN,MAX or KIND:MIN,MAX:END,...

    KIND is const, linear or cosine; the ends are those of periods, each with a ramp of its own (Liu et al. 2020). None for
    an empty text.
    """
    if not text:
        return None
    kind, *parts = text.split(":")
    try:
        numbers = [[float(number) for number in part.split(",")] for part in parts]
    except ValueError:
        numbers = []
    ends = numbers[1] if len(numbers) == 2 else [1.0]
    rising = ends == sorted(set(ends)) and ends[-1] == 1 and all(0 < end <= 1 for end in ends)
    if len(numbers) not in (1, 2) or len(numbers[0]) != 2 or not rising:
        raise BadInput(f"budget schedule {text!r}: write KIND:MIN,MAX, and the ends of periods, as in cosine:0,2:0.5,1")
    low, high = numbers[0]
    if not (0 <= low < math.inf and 0 <= high < math.inf):
        raise BadInput(f"budget schedule {text!r}: {low:g} and {high:g} are fractions of eps, of at least 0")
    return rising_budget(kind, low, high, ends)


def rising_budget(kind: str, low: float, high: float, ends: Sequence[float]) -> Schedule:
    """Periods with these ends, each with a ramp from low to high, both fractions of eps, that is clipped at 1."""
    ramp(kind, 0.0)
    return lambda p: min(low + (high - low) * ramp(kind, position_in_period(p, ends)), 1.0)


def position_in_period(progress: float, ends: Sequence[float]) -> float:
    """How much of the current period is done, in [0, 1); periods end at these rising fractions of the training."""
    start = 0.0
    for end in ends:
        if progress < end:
            return (progress - start) / (end - start)
        start = end
    return 1.0


def ramp(kind: str, ratio: float) -> float:
    """The budget schedules of Liu et al. 2020 on [0, 1]: const, linear or cosine at `ratio` of a period."""
    if kind == "const":
        return 1.0
    if kind == "linear":
        return ratio
    if kind == "cosine":
        return (1 - math.cos(math.pi * ratio)) / 2
    raise UnknownName("budget schedule", kind, ["const", "linear", "cosine"])
