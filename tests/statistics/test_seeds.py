"""Tests for a few seeds, and times until something happens, against tables, closed forms and other implementations."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import logrank, wilcoxon

from bench.statistics import kaplan_meier, log_rank, mean_interval, paired, rank_correlation, sign_flips, survival

SIX_MP = ([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], [True] * 9 + [False] * 12)
PLACEBO = ([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], [True] * 21)
"""Weeks of remission of Freireich et al. 1963, the example of every textbook."""


def test_the_estimate_is_that_of_the_textbooks() -> None:
    found = kaplan_meier(*SIX_MP)
    assert found.times == (6, 7, 10, 13, 16, 22, 23)
    assert found.left == pytest.approx((0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448), abs=5e-4)
    # Kalbfleisch and Prentice print 0.620 to 0.952 on the scale of log(-log S) for 6 weeks.
    assert (found.low[0], found.high[0]) == pytest.approx((0.620, 0.952), abs=1e-3)


def test_without_censoring_it_is_the_share_that_is_left() -> None:
    assert kaplan_meier([1, 2, 3, 4], [True] * 4).left == pytest.approx((0.75, 0.5, 0.25, 0))


def test_where_nothing_happens_nothing_is_lost() -> None:
    assert kaplan_meier([30, 30], [False, False]) == ((), (), (), ())
    assert log_rank([30, 30], [False] * 2, [30, 30], [False] * 2) == 1


def test_intervals_are_numbers_even_where_all_fell() -> None:
    found = kaplan_meier([2, 2, 2], [True] * 3)
    assert found == ((2,), (0,), (0,), (0,))


def test_the_log_rank_of_many_is_that_of_the_textbooks() -> None:
    """Chi-square 16.79 on one degree of freedom."""
    assert log_rank(*SIX_MP, *PLACEBO) == pytest.approx(4.17e-5, rel=0.01)


def test_the_exact_log_rank_goes_through_all_divisions() -> None:
    """All of five fall and none of five others: of the 252 divisions, this one and its mirror are as extreme."""
    assert log_rank([3, 3, 4, 5, 7], [True] * 5, [12] * 5, [False] * 5) == pytest.approx(2 / 252)
    same = [2, 5, 9], [True, True, False]
    assert log_rank(*same, *same) == 1


def test_the_exact_statistic_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    times, happened = rng.integers(1, 6, 8).astype(float), rng.random(8) < 0.7
    chosen = np.zeros((3, 8), bool)
    for row, members in enumerate(list(combinations(range(8), 4))[:3]):
        chosen[row, list(members)] = True
    ours = survival._excess(times, happened, chosen)
    for row, mask in zip(ours, chosen, strict=True):
        parts = [survival._censored(times[side].tolist(), happened[side].tolist()) for side in (mask, ~mask)]
        assert abs(row) == pytest.approx(abs(logrank(*parts).statistic))


def test_sign_flips_of_few_are_counted() -> None:
    assert sign_flips([1, 2, 3, 4, 5]) == 2 / 32
    assert sign_flips([1, -1]) == sign_flips([0, 0, 0]) == 1
    assert sign_flips([0.3]) == 1
    # Of four equal differences with one against them, 5 of 16 sign patterns on either side are as far from 0.
    assert sign_flips([1, 1, 1, -1]) == 10 / 16


def test_sign_flips_of_ranks_are_the_exact_signed_rank_test() -> None:
    """On the ranks themselves the two tests are one."""
    signed = np.array([1, 2, -3, 4, 5, 6, 7, -8.0])
    assert sign_flips(signed.tolist()) == pytest.approx(wilcoxon(signed, method="exact").pvalue)


def test_sign_flips_of_many_are_drawn_and_close_to_a_t_test() -> None:
    gaps = np.random.default_rng(1).normal(0.5, 1, 40)
    assert sign_flips(gaps.tolist()) == pytest.approx(0.0009, abs=0.002)
    assert sign_flips((gaps - gaps.mean()).tolist()) > 0.9


def test_differences_are_of_the_second_less_the_first() -> None:
    found = paired([1, 2, 3], [2, 4, 6])
    # 1, 2, 3: mean 2, t(0.975, 2) = 4.3027, so 2 +- 4.3027 / sqrt(3).
    assert found == pytest.approx((2, 2 - 2.48414, 2 + 2.48414, 0.25), abs=1e-4)
    assert np.isnan(mean_interval([1.0])).all()


def test_a_constant_has_no_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 25]) == 1
    assert np.isnan(rank_correlation([1, 2, 3], [4, 4, 4]))
