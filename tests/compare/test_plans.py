"""One network under two plans: only what both were asked for is compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.compare import two_plans
from bench.results import Outcomes, read_outcomes

RESULTS = Path(__file__).parents[2] / "results"


def of(plan: str, ids: list[int], standing: list[int], run: str = "fast_at-digits_cnn-s0-*") -> Outcomes:
    """A committed evaluation as if it had been of these samples, of which some stand."""
    found = read_outcomes(next(RESULTS.glob(f"digits/linf-0.2/{run}/{plan}-*/card.json")))
    numbers = np.array(ids)
    stand = np.isin(numbers, standing)
    card = found.card.model_copy(update={"n": len(ids)})
    return replace(found, card=card, ids=numbers, labels=numbers % 10, clean=stand, planned=stand, robust=stand)


def test_shared_samples_alone_count() -> None:
    fast, standard = of("fast", [0, 1, 2, 3, 4, 5], [0, 1, 2, 5]), of("standard", [2, 3, 4, 9], [3, 4, 9])
    (pair,) = two_plans([standard, fast])
    assert (pair.a.card.plan.name, pair.b.card.plan.name) == ("fast", "standard")
    assert (pair.n, pair.standing, pair.alone) == (3, (1, 2), (1, 2))
    turned = pair.turned()
    assert (turned.a is pair.b, turned.standing, turned.alone) == (True, (2, 1), (2, 1))


def test_what_is_no_pair() -> None:
    fast = of("fast", [0, 1, 2], [0])
    assert two_plans([fast, of("fast", [0, 1], [0])]) == []
    assert two_plans([fast, of("standard", [7, 8], [7])]) == [], "no sample in common"
    assert two_plans([fast, of("standard", [0, 1, 2], [0], "n_fgsm-digits_cnn-s0-*")]) == [], "another network"
    others = of("standard", [0, 1, 2], [0])
    assert two_plans([fast, replace(others, labels=others.labels + 1)]) == [], "other images"
    (pair,) = two_plans([of("fast", [0], [0]), fast, others])
    assert pair.n == 3, "the evaluation with most samples"


@pytest.mark.parametrize(
    "card", sorted(RESULTS.glob("digits/linf-0.2/*/standard-*/card.json")), ids=lambda path: path.parts[-3]
)
def test_on_committed_rows_it_is_the_difference_of_their_numbers(card: Path) -> None:
    """Before examples that were handed in later lowered one of them."""
    standard = read_outcomes(card)
    every = map(read_outcomes, card.parents[1].glob("fast-*/card.json"))
    (fast,) = [one for one in every if one.card.model.test_time == standard.card.model.test_time]
    (pair,) = two_plans([fast, standard])
    assert pair.n == 360
    for outcomes, standing in zip((fast, standard), pair.standing, strict=True):
        lost = sum(addition.broken for addition in outcomes.card.additions)
        assert standing == round(360 * outcomes.card.robust_accuracy) + lost
    assert pair.alone[0] - pair.alone[1] == pair.standing[0] - pair.standing[1]
