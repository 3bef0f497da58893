"""A few differences, one for each seed: their mean, its interval, and an exact test."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import nan
from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test, spearmanr, t

EXACT = 16
"""Differences up to which every way to flip their signs is gone through; beyond it, 2**16 drawn ones are."""


class Differences(NamedTuple):
    """What differences say, the interval being Student's."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of sign flips: exact where both orders of a pair were as likely, and never below 2 / 2**n."""


def paired(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Differences:
    """The mean of second less first, row i of either being of one seed."""
    gaps = np.subtract(second, first, dtype=float)
    low, high = mean_interval(gaps.tolist(), confidence)
    return Differences(float(gaps.mean()), low, high, sign_flips(gaps.tolist()))


def sign_flips(gaps: Sequence[float]) -> float:
    """The two-sided p-value that differences are not around 0: of their mean, among the means with signs flipped."""
    values = np.asarray(gaps, float)
    if len(values) <= EXACT:
        means = np.abs(np.array(list(product((1.0, -1.0), repeat=len(values)))) @ values)
        return float((means >= abs(values.sum()) - 1e-12 * np.abs(values).sum()).mean())
    found = permutation_test(
        (values,), lambda x, axis: np.abs(np.mean(x, axis)), permutation_type="samples", alternative="greater",
        vectorized=True, n_resamples=2**16, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean; NaN for a single value."""
    count = len(values)
    if count < 2:
        return nan, nan
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * float(np.std(values, ddof=1)) / count**0.5
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; NaN where either side is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return nan
    return float(spearmanr(x, y).statistic)
