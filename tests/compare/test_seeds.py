"""What several seeds say about two trainings: by pairs of seeds, or by either side; never by their images in one pool."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_ind, ttest_rel

from bench.compare import over_seeds
from bench.errors import BadInput
from bench.results.outcomes import Flags
from bench.statistics.proportions import mcnemar, paired_bootstrap, paired_interval

NONE = (0.586, 0.569, 0.639)
TENTH = (0.525, 0.544, 0.556)
"""Robust accuracies of three seeds without and with a tenth of clean warm-up."""


def flags(accuracies: tuple[float, ...], n: int = 1000, seed: int = 0) -> Flags:
    """Samples that stand, [seeds, n]: the same hard ones fall first in every seed, as they do in trainings."""
    order = np.random.default_rng(seed).permutation(n)
    return np.stack([order < round(accuracy * n) for accuracy in accuracies])


def test_seeds_in_pairs_say_less_than_their_images() -> None:
    """Three seeds whose pooled images leave no doubt, and which leave some."""
    a, b = flags(NONE), flags(TENTH)
    found = over_seeds(a, b, paired=True)
    assert found.difference == pytest.approx(np.mean(TENTH) - np.mean(NONE))
    assert found.p == pytest.approx(ttest_rel(TENTH, NONE).pvalue) == pytest.approx(0.08, abs=0.001)
    assert mcnemar(int((a & ~b).sum()), int((b & ~a).sum())) < 1e-10
    low, high = paired_bootstrap(b.ravel().tolist(), a.ravel().tolist())
    assert found.interval[0] < low < high < found.interval[1]


def test_either_side_by_itself_is_the_test_of_compare() -> None:
    found = over_seeds(flags(NONE), flags(TENTH))
    assert found.p == pytest.approx(ttest_ind(TENTH, NONE, equal_var=False).pvalue)
    # What is common to the seeds of a pair is no noise between them.
    shared = over_seeds(flags((0.3, 0.5, 0.7)), flags((0.35, 0.56, 0.74)), paired=True)
    apart = over_seeds(flags((0.3, 0.5, 0.7)), flags((0.35, 0.56, 0.74)))
    assert shared.p is not None
    assert apart.p is not None
    assert shared.p < 0.05
    assert apart.p > 0.5
    assert apart.interval[0] < 0 < shared.interval[0]


def test_few_seeds_are_not_taken_for_certain() -> None:
    one = flags((0.5,))
    assert over_seeds(one, flags((0.6,)), paired=True).p is None
    assert over_seeds(one, flags((0.6, 0.7))).p is None
    # Three equal differences show no spread, and do not show that there is none.
    assert over_seeds(flags((0.5, 0.6, 0.7)), flags((0.51, 0.61, 0.71)), paired=True).p == 0.25
    assert over_seeds(flags((0.5, 0.6)), flags((0.5, 0.6)), paired=True).p == 1
    # Two that agree to the sample may still differ by less than one, of 10: half a sample apart settles nothing.
    few = over_seeds(flags((0.5, 0.5), n=10), flags((0.6, 0.6), n=10)).p
    assert few == pytest.approx(2 * student.sf(1, 2))
    assert over_seeds(flags((0.5, 0.5), n=10), flags((0.5, 0.6), n=10)).p > few  # type: ignore[operator]
    assert over_seeds(flags((0.5, 0.5)), flags((0.5, 0.5))).p == 1
    with pytest.raises(BadInput, match="1 and 2 seeds are no pairs"):
        over_seeds(one, flags((0.6, 0.7)), paired=True)


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("paired", [True, False])
def test_samples_that_tell_nothing_apart_leave_a_difference_open(accuracy: float, paired: bool) -> None:
    found = over_seeds(flags((accuracy,) * 3), flags((accuracy,) * 3), paired=paired)
    assert (found.difference, found.p) == (0, 1)
    low, high = paired_interval(0, 0, 1000)
    assert found.interval[0] <= low < -0.003 < 0.003 < high <= found.interval[1]


def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", Path(__file__).parents[1] / "studies" / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks for the module that it is of.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "study", module)
        spec.loader.exec_module(module)
    return module


def test_a_study_tells_the_test_over_seeds_and_no_other() -> None:
    told = study().compared([*flags(TENTH)], [*flags(NONE)])
    # Of three pairs of one sign no exact p is lower.
    assert told.startswith("-5.6 points, 95% -")
    assert told.endswith(", p = 0.25")


@pytest.mark.filterwarnings("error")
def test_seeds_that_agree_to_the_last_image_are_no_reason_for_a_warning() -> None:
    assert over_seeds(flags((0.5, 0.5)), flags((0.6, 0.7))).p == pytest.approx(
        ttest_ind((0.5, 0.5 + 1e-12), (0.6, 0.7), equal_var=False).pvalue, rel=1e-3
    )
