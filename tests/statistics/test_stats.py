"""Intervals and paired tests against tabulated values and against their own promises (T40)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom, binomtest, chi2_contingency, multinomial

from bench.statistics.proportions import (
    clopper_pearson,
    drop_p,
    hierarchical_bootstrap,
    holm,
    mcnemar,
    mcnemar_each,
    paired_bootstrap,
    paired_interval,
    samples_to_settle,
    two_proportions,
    wilson,
)
from bench.statistics.seeds import mean_over_seeds, means_apart


def test_tabulated_intervals() -> None:
    assert clopper_pearson(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert clopper_pearson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1


def test_tabulated_mcnemar() -> None:
    assert mcnemar(10, 2) == pytest.approx(0.0386, abs=1e-4)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1


def test_mcnemar_is_a_test_of_its_level() -> None:
    """Without a difference at most one run in twenty says otherwise; with 30 against 10 nearly every run does."""
    rng = np.random.default_rng(0)
    equal = rng.binomial(40, 0.5, 2000)
    assert np.mean([mcnemar(k, 40 - k) < 0.05 for k in equal.tolist()]) <= 0.05 + 0.01
    apart = rng.binomial(40, 0.8, 200)
    assert np.mean([mcnemar(k, 40 - k) < 0.05 for k in apart.tolist()]) > 0.95


def test_the_bootstrap_covers_the_true_difference() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for run in range(300):
        both, first, second = 0.6, 0.12, 0.08
        kind = rng.choice(4, 500, p=[both, first, second, 1 - both - first - second])
        low, high = paired_bootstrap(kind <= 1, (kind == 0) | (kind == 2), draws=1000, seed=run)
        inside += low <= first - second <= high
    assert 0.90 <= inside / 300 <= 0.99


def test_the_same_answers_differ_by_nothing() -> None:
    assert paired_bootstrap([True, False, True], [True, False, True]) == (0, 0)


@pytest.mark.parametrize(
    ("only_first", "only_second", "n", "confidence", "published"),
    [
        (9, 3, 32, 0.95, (-0.027, 0.390)),  # Tango 1998
        (0, 1, 44, 0.90, (-0.096, 0.037)),  # Tango 1998
        (16, 8, 86, 0.95, (-0.020, 0.207)),  # Agresti and Min 2005
        (1, 7, 21, 0.95, (-0.517, -0.026)),  # Fagerland, Lydersen and Laake 2014
        (3, 1, 14, 0.95, (-0.1670, 0.4327)),  # Tang, Li and Tang 2010
        (25, 2, 102, 0.95, (0.139, 0.321)),  # Chang et al. 2024
    ],
)
def test_published_paired_intervals(
    only_first: int, only_second: int, n: int, confidence: float, published: tuple[float, float]
) -> None:
    assert paired_interval(only_first, only_second, n, confidence) == pytest.approx(published, abs=6e-4)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 3000))
def test_a_paired_interval_holds_what_was_seen(first: int, second: int, both: int) -> None:
    n = max(first + second + both, 1)
    low, high = paired_interval(first, second, n)
    assert -1 <= low <= (first - second) / n <= high <= 1
    assert paired_interval(second, first, n) == pytest.approx((-high, -low), abs=1e-9)
    wide = paired_interval(first, second, n, 0.99)
    assert wide[0] <= low <= high <= wide[1]


@pytest.mark.parametrize(("first", "second"), [(0.02, 0.02), (0.1, 0.05), (0.3, 0.1), (0.01, 0.0)])
def test_a_paired_interval_covers(first: float, second: float) -> None:
    """By summing over every outcome of 60 samples, not by drawing some."""
    n = 60
    counts = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    chance = multinomial.pmf([(b, c, n - b - c) for b, c in counts], n, [first, second, 1 - first - second])
    likely = [(b, c, p) for (b, c), p in zip(counts, chance, strict=True) if p > 1e-7]
    covered = sum(p for b, c, p in likely if (ends := paired_interval(b, c, n))[0] <= first - second <= ends[1])
    assert covered >= 0.935


def test_many_pairs_at_once_are_the_same_test() -> None:
    first, second = np.meshgrid(np.arange(12), np.arange(12))
    expected = [[binomtest(int(b), int(b + c)).pvalue if b + c else 1 for b, c in zip(*row, strict=True)]
                for row in zip(first, second, strict=True)]  # fmt: skip
    assert mcnemar_each(first, second) == pytest.approx(np.array(expected))


def test_independent_proportions_against_the_chi_square_test() -> None:
    for first, first_n, second, second_n in [(10, 50, 20, 60), (1, 10, 9, 10), (300, 1000, 350, 1000)]:
        table = [[first, first_n - first], [second, second_n - second]]
        expected = chi2_contingency(table, correction=False).pvalue
        assert float(two_proportions(first, first_n, second, second_n)) == pytest.approx(expected)
    assert two_proportions([0, 10], 10, [0, 10], 10).tolist() == [1, 1]


def test_holm_by_hand() -> None:
    """4 x 0.005, 3 x 0.01, then 2 x 0.03 = 0.06, below which 0.04 cannot fall."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    adjusted, raw = holm(p), np.array(p)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(raw * len(p), 1)).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(("n", "tolerance"), [(30, 0.1), (60, 0.05), (40, 0.0)])
def test_a_drop_that_is_tolerated_is_rarely_called_one(n: int, tolerance: float) -> None:
    """The level is kept for every discordance, by summing over every outcome; and the test is not idle."""
    counts = [(lost, won) for lost in range(n + 1) for won in range(n + 1 - lost)]
    shares = np.linspace(tolerance, 1, 40)[:-1] if tolerance else np.linspace(0.02, 1, 40)
    called = [(lost, won) for lost, won in counts if lost - won > n * tolerance and drop_p(lost, won, n, tolerance) < 0.05]
    cells = [(lost, won, n - lost - won) for lost, won in called]
    sizes = [multinomial.pmf(cells, n, [(share + tolerance) / 2, (share - tolerance) / 2, 1 - share]).sum() for share in shares]
    assert max(sizes) <= 0.05
    assert max(sizes) > 0.03


def test_a_drop_without_tolerance_is_mcnemars_test() -> None:
    assert drop_p(10, 2, 100) == pytest.approx(0.0386 / 2, abs=1e-4)
    assert drop_p(0, 0, 100) == drop_p(0, 5, 100) == 1
    assert drop_p(0, 0, 100, 0.2) == 1
    # The smaller the tolerance, the nearer to the test without one.
    values = [drop_p(60, 20, 2000, tolerance) for tolerance in (0.02, 0.01, 0.005, 0)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("discordance", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("difference", [0.01, 0.02, 0.03])
def test_so_many_samples_settle_it(discordance: float, difference: float) -> None:
    """The exact power of the exact test at that number of samples is what was asked for, and little more."""
    n = int(samples_to_settle(difference, discordance))
    pairs = np.arange(n + 1)
    least = binom.isf(0.025, pairs, 0.5) + 1
    share = (1 + difference / discordance) / 2
    found = binom.sf(least - 1, pairs, share) + binom.cdf(pairs - least, pairs, share)
    assert 0.8 <= float(binom.pmf(pairs, n, discordance) @ found) <= 0.85
    assert samples_to_settle(-difference, discordance) == n
    assert samples_to_settle(0, discordance) == np.inf


def test_one_seed_is_the_paired_bootstrap_and_copies_of_it_are_no_further_evidence() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.6, rng.random(300) < 0.5
    single = hierarchical_bootstrap([first], [second])
    assert single == paired_bootstrap(first.tolist(), second.tolist())
    assert hierarchical_bootstrap([first] * 5, [second] * 5) == pytest.approx(single, abs=0.01)
    width = single[1] - single[0]
    seeds = [rng.random(300) < share for share in (0.2, 0.6, 0.95)]
    low, high = hierarchical_bootstrap(seeds, [second] * 3)
    assert high - low > 2 * width


def test_seeds_vary_as_their_means_do() -> None:
    """Where images do not matter, the interval is that of a mean of seeds: 1.96 standard deviations over sqrt(seeds)."""
    shares = np.random.default_rng(0).normal(0.5, 0.05, 20)
    flags = np.arange(20_000) / 20_000 < shares[:, None]
    low, high = hierarchical_bootstrap(flags, [flags[0]])
    assert (high - low) / 2 == pytest.approx(1.96 * shares.std(ddof=1) / np.sqrt(20), rel=0.15)


def outcomes(rng: np.random.Generator, seeds: int, n: int, spread: float, base: float = 0.0) -> Any:
    """Which samples stand, [seeds, n]: seeds and samples vary on the scale of logits."""
    lead = base + spread * rng.standard_normal((seeds, 1)) + 1.5 * rng.standard_normal(n)
    return rng.random((seeds, n)) < expit(lead)


@pytest.mark.parametrize("base", [0.0, -4.0])
@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.0), (2, 0.4), (3, 0.4), (5, 0.0), (5, 0.4)])
def test_the_interval_of_a_mean_over_few_seeds_covers_it(seeds: int, spread: float, base: float) -> None:
    """Drawing seeds anew misses one in four times with three seeds of this spread; Student's does not."""
    rng = np.random.default_rng(seeds)
    truth = expit(base + np.hypot(spread, 1.5) * np.random.default_rng(0).standard_normal(10**6)).mean()
    found = [mean_over_seeds(outcomes(rng, seeds, 500, spread, base)) for _ in range(300)]
    assert np.mean([low <= truth <= high for low, high in found]) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 3), (5, 2), (3, 1)])
def test_the_interval_of_a_difference_over_few_seeds_covers_it(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    held, called = [], []
    for _ in range(300):
        hard = rng.standard_normal(500)
        sides = [
            rng.random((seeds, 500)) < expit(0.4 * rng.standard_normal((seeds, 1)) + 1.5 * hard) for seeds in (first, second)
        ]
        found = means_apart(*sides)
        held.append(found.interval[0] <= 0 <= found.interval[1])
        called.append(found.p is not None and found.p < 0.05)
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(called) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_one_seed_is_wilsons_and_tangos() -> None:
    rng = np.random.default_rng(0)
    one, other = (outcomes(rng, 1, 400, 0.0) for _ in range(2))
    assert mean_over_seeds(one) == pytest.approx(wilson(int(one.sum()), 400))
    found = means_apart(one, other)
    assert found.interval == pytest.approx(paired_interval(int((one & ~other).sum()), int((other & ~one).sum()), 400))
    assert found.p is None
    several = means_apart(np.repeat(one, 3, axis=0), np.repeat(other, 3, axis=0))
    assert several.difference == pytest.approx(found.difference)
    assert several.interval[0] < found.interval[0] < found.interval[1] < several.interval[1]


def test_the_hierarchical_bootstrap_covers_the_true_difference() -> None:
    """With five seeds on either side about nine times in ten, which is why a verdict also needs the t test."""
    rng = np.random.default_rng(0)
    inside = 0
    for run in range(200):
        hard = rng.random(400)
        sides = [[hard + rng.normal(0, 0.05) < share for _ in range(5)] for share in (0.5, 0.55)]
        low, high = hierarchical_bootstrap(sides[1], sides[0], draws=500, seed=run)
        inside += low <= 0.05 <= high
    assert 0.82 <= inside / 200 <= 0.98
