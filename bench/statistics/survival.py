"""Times until something happens, where some saw nothing happen: what share is left, and whether two groups differ."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from scipy.stats import CensoredData, ecdf, logrank

EXACT = 20_000
"""Ways to divide the subjects up to which the log-rank test goes through them all."""


class Survival(NamedTuple):
    """The share that is left after each time at which something happened, and a 95 % interval of it."""

    times: tuple[float, ...]
    left: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def kaplan_meier(times: Sequence[float], happened: Sequence[bool]) -> Survival:
    """The Kaplan-Meier estimate from the time of each subject and whether it happened then, or was not seen to until then.

    Intervals are Greenwood's on the scale of log(-log S), which stays within [0, 1]; where the estimate is 0 or 1 they have no
    width, and say nothing.
    """
    found = ecdf(_censored(times, happened)).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        interval = found.confidence_interval(method="log-log")
    ends = interval.low.probabilities, interval.high.probabilities
    low, high = (np.where(np.isfinite(end), end, found.probabilities) for end in ends)
    kept = np.isin(found.quantiles, [t for t, seen in zip(times, happened, strict=True) if seen])
    columns = (found.quantiles, found.probabilities, low, high)
    return Survival(*(tuple(float(value) for value in column[kept]) for column in columns))


def log_rank(
    first: Sequence[float], first_happened: Sequence[bool], second: Sequence[float], second_happened: Sequence[bool]
) -> float:
    """The two-sided p-value that two groups differ in when it happens.

    The log-rank statistic among its values under every division of the subjects into groups of these sizes, which is exact; by
    the normal distribution where these are too many. 1 where nothing happened to anybody.
    """
    times, happened = np.array([*first, *second], float), np.array([*first_happened, *second_happened], bool)
    if not happened.any():
        return 1.0
    count, size = len(times), len(first)
    if comb(count, size) > EXACT:
        return float(logrank(_censored(first, first_happened), _censored(second, second_happened)).pvalue)
    chosen = np.zeros((comb(count, size), count), bool)
    for row, members in enumerate(combinations(range(count), size)):
        chosen[row, list(members)] = True
    excess = np.abs(_excess(times, happened, chosen))
    # The groups as they are come first.
    return float((excess >= excess[0] - 1e-9).mean())


def _excess(times: np.ndarray, happened: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How many more events than expected the chosen of each row have, in standard deviations; [rows]."""
    gap, variance = np.zeros(len(chosen)), np.zeros(len(chosen))
    for time in np.unique(times[happened]):
        at_risk, now = times >= time, happened & (times == time)
        n, d = at_risk.sum(), now.sum()
        share = (chosen & at_risk).sum(1) / n
        gap += (chosen & now).sum(1) - d * share
        variance += d * share * (1 - share) * (n - d) / max(n - 1, 1)
    return np.divide(gap, np.sqrt(variance), out=np.zeros_like(gap), where=variance > 0)


def _censored(times: Sequence[float], happened: Sequence[bool]) -> CensoredData:
    pairs = list(zip(times, happened, strict=True))
    return CensoredData(uncensored=[t for t, seen in pairs if seen], right=[t for t, seen in pairs if not seen])
