"""Shares of samples over a few seeds: how far seeds and samples leave a mean, or a difference of means, open together.

The seeds' part is Student's, the samples' a score interval; their distances to the mean are added as squares (Zou and Donner
2008). Drawing seeds anew instead says of two or three what they happened to be: such intervals miss one time in three.
"""

from __future__ import annotations

from math import hypot, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from bench.statistics.proportions import Floats, paired_interval, wilson


class Apart(NamedTuple):
    """One mean less another."""

    difference: float
    interval: tuple[float, float]
    p: float | None
    """Welch's between seeds; None where a side has a single one."""


def mean_over_seeds(flags: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the mean share over seeds and samples, from flags [seeds, samples]; Wilson's for a single seed."""
    values = np.asarray(flags, dtype=float)
    shares, n = values.mean(1), values.shape[1]
    mean, seeds = float(shares.mean()), len(shares)
    low, high = wilson(round(mean * n), n, confidence)
    half = _half(spread(shares, n) / seeds, seeds - 1, confidence) if seeds > 1 else 0.0
    return max(mean - hypot(mean - low, half), 0.0), min(mean + hypot(high - mean, half), 1.0)


def means_apart(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Apart:
    """The mean of first less that of second, each [seeds, samples] over the same samples; seeds of either side are its own.

    A side with a single seed is taken to vary as much as the other.
    """
    sides = [np.asarray(side, dtype=float) for side in (first, second)]
    each = sides[0].mean(0) - sides[1].mean(0)
    n, difference = len(each), float(each.mean())
    # As many samples on which the two differ, one way and the other, as have this sum of squares.
    differ = max(float((each**2).sum()), abs(difference) * n)
    low, high = paired_interval((differ + difference * n) / 2, (differ - difference * n) / 2, n, confidence)
    known = [spread(side.mean(1), n) for side in sides if len(side) > 1]
    if not known:
        return Apart(difference, (low, high), None)
    parts = [(spread(side.mean(1), n) if len(side) > 1 else known[0]) / len(side) for side in sides]
    total, degrees = sum(parts), float(welch_degrees(*parts, *map(len, sides)))
    half = _half(total, degrees, confidence)
    p = float(2 * student.sf(abs(difference) / sqrt(total), degrees)) if len(known) == 2 else None
    ends = (difference - hypot(difference - low, half), difference + hypot(high - difference, half))
    return Apart(difference, (max(ends[0], -1.0), min(ends[1], 1.0)), p)


def welch_degrees(first: ArrayLike, second: ArrayLike, first_seeds: ArrayLike, second_seeds: ArrayLike) -> Floats:
    """Degrees of freedom of a difference of means whose variances are given; a single seed has none of its own."""
    one, other, k, m = (np.asarray(part, dtype=float) for part in (first, second, first_seeds, second_seeds))
    with np.errstate(invalid="ignore", divide="ignore"):
        welch = (one + other) ** 2 / (one**2 / (k - 1) + other**2 / (m - 1))
    degrees: Floats = np.where((k > 1) & (m > 1), welch, np.maximum(k, m) - 1)
    return degrees


def spread(shares: ArrayLike, n: int) -> float:
    """The variance between seeds of shares of n samples; seeds that agree to the last sample may still differ by less."""
    return max(float(np.var(np.asarray(shares, dtype=float), ddof=1)), 1 / n**2)


def _half(variance: float, degrees: float, confidence: float) -> float:
    return float(student.isf((1 - confidence) / 2, degrees)) * sqrt(variance)
