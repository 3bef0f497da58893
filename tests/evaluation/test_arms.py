"""What the arms of a pilot say together: where blind search finds what no gradient does, margins do not say what falls next."""

from pathlib import Path

import pytest
import torch

from bench.core import ThreatModel
from bench.data import load
from bench.evaluation import portfolio
from bench.evaluation.arms import FRONTIER, Trial, outdone, overlooked
from bench.evaluation.engine import Evaluation
from bench.evaluation.evaluation import carry_out
from bench.files import Reporter
from bench.models import resolve
from bench.plans import Arm, Plan, Portfolio
from bench.plans import load as load_plan


def trial(attack: str, fell: list[int], *, of: int = 64, **parameters: object) -> Trial:
    progress = torch.full((of,), 0.25)
    progress[fell] = 1.0
    return Trial(Arm(attack=attack, parameters=parameters), [], progress)


@pytest.mark.parametrize(
    ("blind", "seeing", "known", "alone"),
    [
        ([0, 1, 2], [0, 1], [5, 6, 7], 1),
        ([0, 1, 2, 3], [0], [], 3),
        ([], [0, 1], [2, 3, 4], 0),
        ([0, 1], [0, 1, 2], [], 0),
    ],
)
def test_what_blind_search_alone_finds(blind: list[int], seeing: list[int], known: list[int], alone: int) -> None:
    """A search that goes on from a gradient's candidate is none that sees nothing."""
    trials = [trial("square", blind), trial("pgd", seeing), trial("square", known, start="known")]
    assert overlooked(trials) == alone
    assert not outdone(trials, 48)


def test_without_either_kind_nothing_is_outdone() -> None:
    for trials in ([trial("square", [0, 1, 2])], [trial("pgd", [0])]):
        assert overlooked(trials) == 0
        assert outdone(trials, 48) == ""


def test_more_than_a_tenth_is_a_masked_gradient() -> None:
    assert outdone([trial("square", [*range(7)]), trial("pgd", [])], 48).startswith("black-box search broke 7 of 64 pilot")
    assert outdone([trial("square", [*range(6)]), trial("pgd", [])], 48) == ""


@pytest.mark.parametrize(("fell", "unseen"), [(1, True), (6, True), (7, False)])
def test_blind_search_goes_on_where_a_reading_finds_next_to_nothing(
    fast_run: Path, tmp_path: Path, fell: int, unseen: bool
) -> None:
    """A network without a gradient that lost one of 64 to what is inside was spared the long searches on its labels."""
    plan = Plan(name="test", attacks=load_plan("fast").attacks).resolved(ThreatModel.parse("linf", "0.2"))
    (spec,) = plan.attacks
    assert isinstance(spec, Portfolio)
    search = portfolio._Search(begun(str(fast_run / "best.safetensors"), tmp_path, plan), 0, spec)
    search.unseen, search.masked = True, "64 of 64 pilot samples have no gradient"
    search.compare([trial("pgd", []), trial("square", [])], [trial("inner", [*range(fell)], reading="inner 1")], 48)
    assert search.unseen is unseen


def begun(weights: str, folder: Path, plan: Plan) -> Evaluation:
    net, data = resolve(weights, (1, 8, 8), 10).net, load("digits", "test").first(300)
    return Evaluation(
        net=net, data=data, threat=ThreatModel.parse("linf", "0.2"), plan=plan, seed=0, batch_size=256, folder=folder,
        report=Reporter("test", 1, quiet=True),
    )  # fmt: skip


def swept(weights: str, folder: Path) -> tuple[int, int]:
    """How many samples the first sweep takes on, and how many stand then."""
    plan = Plan(name="test", attacks=load_plan("fast").attacks).resolved(ThreatModel.parse("linf", "0.2"))
    evaluation = begun(weights, folder, plan)
    (result,), *_ = carry_out(evaluation)
    first = next(place for place, round in enumerate(result.rounds) if round.stage == "sweep")
    assert not result.masked
    fell = sum(round.broken for round in result.rounds[:first] if round.stage == "opening")
    pilot = [unit for unit in evaluation.units if any(f"round {k}:" in unit.run for k in range(3, first))]
    fell += len({int(i) for unit in pilot for i in unit.index[unit.fooled]})
    return result.rounds[first].samples, int(evaluation.clean.sum()) - fell


@pytest.mark.parametrize(("found", "everything"), [(FRONTIER, False), (FRONTIER + 1, True)])
def test_then_the_sweeps_begin_with_everything_that_stands(
    fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int, everything: bool
) -> None:
    monkeypatch.setattr(portfolio, "overlooked", lambda _: found)
    taken, stand = swept(str(fast_run / "best.safetensors"), tmp_path)
    assert (taken == stand) is everything
    assert taken <= stand
