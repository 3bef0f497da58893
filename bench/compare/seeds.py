"""What several seeds of two trainings say about the trainings: images of all seeds are never pooled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ttest_rel

from bench.errors import BadInput
from bench.statistics import hierarchical_bootstrap, means_apart, paired_interval


class SeedTest(NamedTuple):
    """B against A over their seeds, as shares of the samples."""

    difference: float
    interval: tuple[float, float]
    """95 %, for other seeds and samples; of pairs a bootstrap of both, and Tango's where no sample tells the two apart."""
    p: float | None
    """Of a t test between seeds; None where one side has a single seed."""


def over_seeds(a: ArrayLike, b: ArrayLike, *, paired: bool = False) -> SeedTest:
    """The mean of b less that of a, which samples stand, each [seeds, samples] over the same samples.

    paired: row i of both is of the same seed, and its trainings share their first weights, order and noise: their differences
    are tested (paired t test), and seeds are drawn in pairs. Otherwise Welch's t test, and seeds are drawn on either side.
    """
    first, second = (np.asarray(side, dtype=np.int64) for side in (a, b))
    if not paired:
        return SeedTest(*means_apart(second, first))
    if first.shape != second.shape:
        raise BadInput(f"{len(first)} and {len(second)} seeds are no pairs; give the same seeds on either side")
    apart = second - first
    nothing = np.zeros((1, apart.shape[1]), dtype=np.int64)
    interval = hierarchical_bootstrap(apart, nothing) if apart.any() else paired_interval(0, 0, apart.shape[1])
    return SeedTest(float(apart.mean()), interval, _paired(first, second))


def _paired(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    seeds, gaps = len(first), second.sum(1) - first.sum(1)
    if seeds < 2:
        return None
    if (gaps == gaps[0]).all():
        # No spread was seen, and a few seeds do not show that there is none: the sign test.
        return 2.0 ** (1 - seeds) if gaps[0] else 1.0
    return float(ttest_rel(second.mean(1), first.mean(1)).pvalue)
