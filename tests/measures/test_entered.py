"""What is measured on a network stands on the cards of the same weights, whichever came first; the same bytes every time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import evaluate
from bench.evaluation import Execution
from bench.files import sha256
from bench.measures import MeasureRequest, measured, read_measurement
from bench.results import MOST_MEASURED, Card, read_card
from bench.results.headlines import SENTENCES

PATH = {"n": 20, "steps": 3}
LIPSCHITZ = {"n": 4, "steps": 1, "radii": [0.0, 1.0]}


def ask(run: Path, measure: str, options: dict[str, object], *, fresh: bool = False) -> tuple[Path, str]:
    _, path, told = measured(MeasureRequest.of(model=run, measure=measure, options=options), Execution(quiet=True, fresh=fresh))
    return path, told


@pytest.fixture(scope="module")
def evaluated(copied: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two cards of its weights, one of others, and one of a defense at test time."""
    run = copied(tmp_path_factory.mktemp("entered"))
    for n, added in ((20, ""), (10, ""), (10, "rfi")):
        card, _ = evaluate(str(run), plan_name="smoke", n=n, quiet=True, device_name="cpu", test_time=added)
    (run / "other").mkdir()
    model = card.model.model_copy(update={"digest": "0" * 64, "test_time": ""})
    card.model_copy(update={"model": model}).save(run / "other" / "card.json")
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def cards(run: Path) -> list[tuple[Path, Card]]:
    return [(path, read_card(path)) for path in sorted(run.glob("*/card.json"))]


def test_a_measure_is_entered_into_every_card_of_the_weights_and_no_other(run: Path) -> None:
    before = {path: path.read_bytes() for path, _ in cards(run)}
    path, told = ask(run, "path", PATH)
    document = read_measurement(path)
    own = [name for name, card in cards(run) if card.model.digest == document.digest and not card.model.test_time]
    assert (len(own), len(before)) == (2, 4)
    assert told == f"on the card of {', '.join(name.parent.name for name in own)}"
    for name, card in cards(run):
        if name not in own:
            assert name.read_bytes() == before[name]
            continue
        (short,) = card.measures
        assert (short.measure, short.file, short.sha256) == ("path", path.name, sha256(path))
        assert short.asked == "digits, test, linf 0.2, n 20, steps 3, step 0.1, seed 0"
        assert {value: document.values[value] for value in short.values} == short.values
        assert {"clean loss", "final loss", "ever fooled"} <= set(short.values)
        # Nothing else of the card has changed.
        content = json.loads(name.read_text())
        del content["measures"]
        assert json.dumps(content, indent=2) + "\n" == before[name].decode()


def test_measured_twice_or_anew_the_cards_have_the_same_bytes_and_two_measures_stand_in_one_order(run: Path) -> None:
    path, _ = ask(run, "path", PATH)
    ask(run, "lipschitz", LIPSCHITZ)
    (name, card), *_ = [(name, card) for name, card in cards(run) if card.measures]
    assert [short.measure for short in card.measures] == ["lipschitz", "path"]
    before, written = name.read_bytes(), name.stat().st_mtime_ns
    assert "was there already" in ask(run, "path", PATH)[1]
    assert name.stat().st_mtime_ns == written
    ask(run, "lipschitz", LIPSCHITZ, fresh=True)
    assert name.read_bytes() == before
    # One that was measured before cards had measures is entered when it is asked for again.
    name.write_text(card.model_copy(update={"measures": card.measures[:1]}).to_json())
    assert "on the card of" in ask(run, "path", PATH)[1]
    assert name.read_bytes() == before
    # A document that has become another one takes the place of the old.
    content = json.loads(path.read_text())
    content["values"]["final loss"] = 1.5
    path.write_text(json.dumps(content, indent=1) + "\n")
    ask(run, "path", PATH)
    (old, new) = read_card(name).measures
    assert (old, new.values["final loss"], new.sha256) == (card.measures[0], 1.5, sha256(path))
    assert not list(run.rglob(".lock"))


def test_an_evaluation_takes_what_lies_there(run: Path, evaluated: Path) -> None:
    """The card is the same, whether the measure came before it or after."""
    ask(run, "path", PATH)
    foreign = json.loads(ask(run, "lipschitz", LIPSCHITZ)[0].read_text())
    (own,) = [name for name, card in cards(run) if card.measures and card.n == 10]
    for number, harm in enumerate(({"digest": "0" * 64}, {"measure": "nonsense"}, {"values": {}}, {"schema_version": 9})):
        (run / "measures" / f"a{number}.json").write_text(json.dumps({**foreign, **harm}))
    (run / "measures" / "Capital.json").write_text(json.dumps(foreign))
    entered = read_card(own)
    shutil.rmtree(own.parent)
    again, path = evaluate(str(run), plan_name="smoke", n=10, quiet=True, device_name="cpu")
    assert path == own
    assert again.measures == entered.measures
    assert len(again.measures) == 2
    # Where nothing was measured a card says nothing of measures, as it always did.
    for name, card in cards(evaluated):
        assert '"measures"' not in name.read_text()
        assert card.to_json() == name.read_text()


def test_a_full_card_takes_no_more_and_a_damaged_one_hinders_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(run, "path", PATH)
    (name, card), (damaged, _) = [(name, card) for name, card in cards(run) if card.measures]
    many = [card.measures[0].model_copy(update={"file": f"a{number:03d}.json"}) for number in range(MOST_MEASURED)]
    full = card.model_copy(update={"measures": tuple(many)})
    full.save(name)
    damaged.write_text("{")
    before = name.read_bytes()
    assert "on the card" not in ask(run, "path", PATH)[1]
    assert "no card has more" in capsys.readouterr().err
    assert (name.read_bytes(), damaged.read_text()) == (before, "{")


def test_every_measure_has_a_headline_of_values_that_a_card_holds() -> None:
    from bench.measures import measure_names

    assert sorted(SENTENCES) == measure_names()
    for sentences in SENTENCES.values():
        assert 1 <= len({name for _, *names in sentences for name in names}) <= 16
