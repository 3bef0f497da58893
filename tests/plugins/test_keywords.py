"""Values that a user gives: a number that is none is told before anything is run with it, whoever it is given to."""

import pytest

from bench import train
from bench.errors import BadInput
from bench.measures.lab import EXPERIMENTS
from bench.plugins import get_attack, make_defense, read_value

NONE = ["1e999", "inf", "nan", "1e10", "9" * 400]


@pytest.mark.parametrize("text", NONE)
@pytest.mark.parametrize("setting", ["step", "lr", "epochs", "weight_decay"])
def test_a_training_does_not_begin_with_it(text: str, setting: str) -> None:
    with pytest.raises(BadInput, match=rf"{setting} = .*(no number to run with|Input should)"):
        train("fast_at", settings={setting: text}, quiet=True)


@pytest.mark.parametrize("text", NONE)
def test_no_attack_defense_or_experiment_takes_it(text: str) -> None:
    given = read_value(text)
    for ask in (
        lambda: get_attack("pgd").configure({"step": given}),
        lambda: make_defense("smoothing", {"sigma": given}),
        lambda: EXPERIMENTS["structured"].configure({"rate": given}),
        lambda: EXPERIMENTS["linear"].configure({"n": given}),
    ):
        with pytest.raises(BadInput, match=r"no number to run with|Input should"):
            ask()


def test_what_is_nested_without_end_is_a_text() -> None:
    assert read_value("[" * 99_999) == "[" * 99_999
