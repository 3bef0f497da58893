"""What an earlier run left in the folder of an evaluation is used only where it belongs to this question, and is told."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import evaluate
from bench.errors import BadInput
from bench.evaluation import EvaluationRequest, Execution, evaluated
from bench.evaluation.engine import Evaluation
from bench.results import read_card
from bench.results.archive import read_tensors, write_tensors

N = 40


@pytest.fixture(scope="module")
def made(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of an evaluated run."""
    home = tmp_path_factory.mktemp("left") / fast_run.name
    home.mkdir()
    for file in fast_run.iterdir():
        if file.is_file():
            os.link(file, home / file.name)
    return evaluate(str(home), plan_name="smoke", n=N, quiet=True, device_name="cpu")[1]


@pytest.fixture
def card(made: Path, tmp_path: Path) -> Path:
    """The same in a place of its own."""
    shutil.copytree(made.parent.parent, tmp_path / made.parent.parent.name)
    return tmp_path / made.parent.parent.name / made.parent.name / "card.json"


def again(card: Path, **options: Any) -> Path:
    return evaluate(str(card.parent.parent), plan_name="smoke", n=N, device_name="cpu", **{"quiet": True, **options})[1]


def stopped(self: Evaluation, *_: object) -> None:
    raise AssertionError("attacked")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 7}, "its seed is 7, and 0 is asked for"),
        ({"n": N - 1}, "its n is 39, and 40 is asked for"),
        ({"eot": 3}, "its eot is 3"),
        ({"threat": {"norm": "linf", "eps": "0.9"}}, "its threat is linf 0.9, and linf 0.2 is asked for"),
        ({"plan_digest": "0" * 64}, "its digest of the plan is 000000000000"),
        ({"code": {"attack mine": "1" * 64}}, "its code of plug-ins is attack mine 111111111111, and none is asked for"),
        ({"curve": [{"eps": "0.1", "robust_accuracy": 0.5, "interval": [0.4, 0.6]}]}, "its radii of the sweep is 0.1"),
    ],
)
def test_a_card_of_another_question_is_no_answer(card: Path, change: dict[str, Any], named: str) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(BadInput, match=named) as told:
        again(card)
    assert "--fresh" in str(told.value)


@pytest.mark.parametrize(
    ("part", "key", "named"),
    [("model", "digest", "its model "), ("data", "digest", "its data "), ("model", "test_time", "its test-time defense is 0")],
)
def test_so_is_one_of_another_model_or_other_data(card: Path, part: str, key: str, named: str) -> None:
    content = json.loads(card.read_text())
    content[part][key] = "0" * 64
    card.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=named):
        again(card)


def test_a_weaker_plan_under_the_same_name_is_no_answer(card: Path) -> None:
    content = json.loads(card.read_text())
    content["plan"]["attacks"][0]["parameters"]["steps"] = 1
    card.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="its plan is smoke "):
        again(card)


def test_a_card_that_was_read_is_told(card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = EvaluationRequest(model=str(card.parent.parent), plan="smoke", n=N)
    assert "nothing was attacked" in evaluated(request, Execution(device="cpu")).told
    assert "nothing was attacked" in capsys.readouterr().err
    evaluated(request, Execution(device="cpu", quiet=True))
    assert capsys.readouterr().err == ""


def test_fresh_attacks_anew_in_an_empty_place(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = json.loads(card.read_text()) | {"name": "forged"}
    card.write_text(json.dumps(forged))
    (card.parent / "units").mkdir()
    (card.parent / "units" / "planted.safetensors").write_bytes(b"x")
    before = read_card(card)
    assert read_card(again(card, fresh=True)).name != "forged"
    aside = card.parent.with_name(f"{card.parent.name}.1.aside")
    assert read_card(aside / "card.json") == before
    assert {path.name for path in aside.iterdir()} >= {"units", "samples.parquet", "archive.safetensors"}
    assert not (aside / ".lock").exists()
    assert not (card.parent / "units").exists()
    again(card, fresh=True)
    assert aside.with_name(f"{card.parent.name}.2.aside").is_dir()
    monkeypatch.setattr("bench.evaluation.evaluation.carry_out", stopped)
    again(card)


def test_what_was_set_aside_is_no_result(card: Path) -> None:
    from bench.report import read_entries
    from bench.results import find_cards

    again(card, fresh=True)
    home = card.parent.parent
    assert [entry.path for entry in read_entries([home])[0]] == [card]
    assert find_cards(home) == find_cards(f"{home}/smoke*") == [card]


@pytest.mark.parametrize("undone", [False, True])
def test_fresh_loses_no_examples_that_somebody_added(card: Path, undone: bool) -> None:
    content = json.loads(card.read_text())
    (card.parent / "added-001.safetensors").write_bytes(b"x")
    if not undone:
        archive = {"file": "added-001.safetensors", "sha256": "0" * 64, "rows": 1}
        content["additions"] = [{"by": "somebody", "broken": 1, "archive": archive}]
    card.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="evaluating anew would lose them"):
        again(card, fresh=True)
    assert card.exists()


def test_examples_stand_in_the_way_of_a_lost_card_too(card: Path) -> None:
    (card.parent / "added-001.safetensors").write_bytes(b"x")
    (card.parent / "samples.parquet").unlink()
    with pytest.raises(BadInput, match="would lose the examples of added-001"):
        again(card)


def test_a_card_from_before_it_was_lowered_is_no_answer(card: Path) -> None:
    (card.parent / "added-001.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="which does not list it"):
        again(card)


@pytest.fixture
def interrupted(card: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card's folder as a kill leaves it before the card is written."""
    shutil.rmtree(card.parent)
    with monkeypatch.context() as broken:
        broken.setattr("bench.evaluation.evaluation.make_card", stopped)
        with pytest.raises(AssertionError):
            again(card)
    assert len(list(card.parent.glob("units/*"))) == 2
    return card


def test_units_that_are_used_again_are_told(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = EvaluationRequest(model=str(interrupted.parent.parent), plan="smoke", n=N)
    assert evaluated(request, Execution(device="cpu")).told.startswith("units of work used that an earlier run left: 2;")
    assert "an earlier run left: 2;" in capsys.readouterr().err


def test_units_of_another_question_are_not_used(interrupted: Path, made: Path) -> None:
    """What an attacker would leave: units in which every attempt failed, made with another plan or seed."""
    for path in interrupted.parent.glob("units/*"):
        tensors, about = read_tensors(path)
        write_tensors(path, tensors, about | {"key": "0" * 64})
    request = EvaluationRequest(model=str(interrupted.parent.parent), plan="smoke", n=N)
    answer = evaluated(request, Execution(device="cpu", quiet=True))
    assert answer.told == ""
    assert answer.card.archive == read_card(made).archive
