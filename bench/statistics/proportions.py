"""Intervals for proportions and their paired differences, and tests of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil, inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm

Floats = NDArray[np.float64]


ENOUGH = 35
"""Of so many, all of them, nine tenths are sure: the lower end of Wilson's interval."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion."""
    return _interval(successes, n, confidence, "wilson")


def surely(successes: int, n: int) -> float:
    """A proportion; of so few that chance may well have given it, the lower end of its interval, and 0 of none."""
    return successes / n if n >= ENOUGH else wilson(successes, n)[0] if n else 0.0


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion, which covers it at least as often as it says."""
    return _interval(successes, n, confidence, "exact")


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that two models differ, from the samples that only one of them gets right."""
    return float(mcnemar_each(only_first, only_second))


def mcnemar_each(only_first: ArrayLike, only_second: ArrayLike) -> Floats:
    """The same for many pairs of models at once."""
    first, second = np.asarray(only_first), np.asarray(only_second)
    twice: Floats = 2 * binom.cdf(np.minimum(first, second), first + second, 0.5)
    return np.minimum(twice, 1)


def two_proportions(first: ArrayLike, first_n: ArrayLike, second: ArrayLike, second_n: ArrayLike) -> Floats:
    """The two-sided p-values that proportions over different samples differ: the pooled score test."""
    first, first_n, second, second_n = (np.asarray(part, dtype=float) for part in (first, first_n, second, second_n))
    pooled = (first + second) / (first_n + second_n)
    error = np.sqrt(pooled * (1 - pooled) * (1 / first_n + 1 / second_n))
    apart = np.abs(first / first_n - second / second_n)
    return np.asarray(2 * norm.sf(np.divide(apart, error, out=np.zeros_like(apart), where=error > 0)))


def holm(p: ArrayLike) -> Floats:
    """p-values adjusted so that all of them together keep the level (Holm 1979)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def paired_interval(only_first: float, only_second: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of the difference of two proportions over the same n samples (Tango 1998)."""
    z = norm.ppf((1 + confidence) / 2)
    seen = (only_first - only_second) / n

    def end(edge: float, sign: int) -> float:
        found = brentq(lambda gap: float(_score(only_first, only_second, n, gap)) - sign * z, edge, seen)
        return float(found)

    # At an edge the statistic is 0 / 0; where the edge itself was seen, the interval ends there.
    near = 1 - 1e-12
    return end(-near, 1) if seen > -near else -1.0, end(near, -1) if seen < near else 1.0


def drop_p(lost: int, won: int, n: int, tolerance: float = 0.0) -> float:
    """The exact one-sided p-value that a model is worse than another by more than the tolerance, a share of n samples.

    lost, won: samples that only the other, and only this one gets right. Without a tolerance this is McNemar's test. With one,
    how many samples the two differ on is a nuisance: p is the largest over a confidence set of it, plus what lies outside of
    that set (Berger and Boos 1994), of the unconditional test that orders outcomes by Tango's statistic.
    """
    if not tolerance:
        return float(binom.sf(lost - 1, lost + won, 0.5))
    outside = 1e-6
    low, high = clopper_pearson(lost + won, n, 1 - outside)
    if high <= tolerance:
        return 1.0
    discordance = np.linspace(max(low, tolerance), high, 101)[:, None]
    pairs = np.arange(binom.ppf(1e-9, n, low), binom.isf(1e-9, n, high) + 1)
    least = _fewest_lost(pairs, n, tolerance, float(_score(lost, won, n, tolerance)))
    tail = binom.sf(least - 1, pairs, (1 + tolerance / discordance) / 2)
    return min(float((binom.pmf(pairs, n, discordance) * tail).sum(1).max()) + outside, 1.0)


def _fewest_lost(pairs: Floats, n: int, tolerance: float, statistic: float) -> Floats:
    """For each number of discordant pairs, how many must be losses for a statistic at least this high; by bisection."""
    low, high = np.zeros_like(pairs), pairs + 1
    while (low < high).any():
        middle = np.floor((low + high) / 2)
        enough = _score(middle, pairs - middle, n, tolerance) >= statistic - 1e-9
        low, high = np.where(enough | (low >= high), low, middle + 1), np.where(enough & (low < high), middle, high)
    return low


def _score(only_first: Any, only_second: Any, n: int, gap: float) -> Any:
    """Tango's statistic: how far a paired difference is from `gap`, in its standard errors there."""
    half = only_first + only_second - (2 * n - only_first + only_second) * gap
    second = (np.sqrt(np.maximum(half**2 + 8 * n * only_second * gap * (1 - gap), 0)) + half) / (4 * n)
    variance = np.maximum(n * (2 * second + gap * (1 - gap)), 1e-300)
    return (only_first - only_second - n * gap) / np.sqrt(variance)


def samples_to_settle(difference: float, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many paired samples the exact test needs to find a difference of this size; infinite for none.

    discordance: the share of samples that only one of the two gets right. Connor's formula (1987), and 2 / difference more for
    the exact test.
    """
    if not difference:
        return inf
    gap = abs(difference)
    score = (norm.isf(alpha / 2) * sqrt(discordance) + norm.isf(1 - power) * sqrt(discordance - gap**2)) ** 2 / gap**2
    return float(ceil(score + 2 / gap))


def paired_bootstrap(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """A percentile interval of mean(first) - mean(second) over the same samples, which are drawn anew in pairs."""
    return hierarchical_bootstrap([first], [second], confidence, draws, seed)


def hierarchical_bootstrap(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """A percentile interval of mean(first) - mean(second), each [seeds, samples] over the same samples.

    Seeds are drawn anew on either side, one fewer than there are, so that a few seeds vary as much as many would (Rao and
    Wu 1988); then samples, the same for all seeds. A side with one seed keeps it.
    """
    sides = [np.asarray(side, dtype=np.int64) for side in (first, second)]
    # Samples with the same outcomes everywhere are interchangeable, so a draw of all samples is a count of each kind.
    kinds, counts = np.unique(np.concatenate(sides), axis=1, return_counts=True)
    n, rng = int(counts.sum()), np.random.default_rng(seed)
    found = []
    for part in np.array_split(np.arange(draws), max(draws * len(counts) // 2**22, 1)):
        means = rng.multinomial(n, counts / n, size=len(part)) @ kinds.T / n
        split = np.split(means, [len(sides[0])], axis=1)
        drawn = [rng.integers(len(side), size=(len(part), max(len(side) - 1, 1))) for side in sides]
        one, other = (np.take_along_axis(mean, pick, 1).mean(1) for mean, pick in zip(split, drawn, strict=True))
        found.append(one - other)
    low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@cache
def _interval(successes: int, n: int, confidence: float, method: str) -> tuple[float, float]:
    interval = binomtest(successes, n).proportion_ci(confidence, method=method)
    return float(interval.low), float(interval.high)
