"""`gauntlet accept`: what holds is copied into a board and its number remembered; nothing raises it again."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench import evaluate
from bench.cli.commands import main
from bench.data.datasets import load
from bench.errors import BadInput
from bench.models import resolve
from bench.report import read_entries
from bench.report.pages import write_leaderboard
from bench.results import read_card
from bench.results.archive import read_tensors
from bench.verify import read_lowest, verify_card
from bench.verify.acceptance import Accepted, Signed, accept
from bench.verify.additions import add
from bench.verify.loading import Given
from bench.verify.lowest import LOWEST, lowest_of

HERE = Given(device="cpu")
ADA = Signed("Ada", "2026-01-01")
N = 60


@pytest.fixture(scope="module")
def made(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two cards: of the smoke plan, and of one step only."""
    home = tmp_path_factory.mktemp("theirs") / fast_run.name
    home.mkdir()
    for file in fast_run.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    plan = home.parent / "weak.toml"
    plan.write_text('[[attacks]]\nattack = "fgsm"\n')
    strong, weak = (evaluate(str(home), plan_name=p, n=N, quiet=True, device_name="cpu")[0] for p in ("smoke", plan))
    assert strong.robust_accuracy < weak.robust_accuracy
    return home


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "sent" / made.name)
    (tmp_path / "board").mkdir()
    return tmp_path / "sent" / made.name


@pytest.fixture
def board(theirs: Path) -> Path:
    return theirs.parents[1] / "board"


def card_of(run: Path, plan: str) -> Path:
    return next(run.glob(f"{plan}-*/card.json"))


def taken(card: Path, board: Path, signed: Signed = ADA) -> Accepted:
    return accept(card, board, signed, HERE, quiet=True)


def placed(done: Accepted) -> Path:
    assert done.path is not None, done.told
    return done.path


def refused(card: Path, board: Path) -> str:
    """Why a row is not taken."""
    try:
        done = taken(card, board)
    except BadInput as error:
        return str(error)
    assert done.path is None
    return "; ".join([done.told, *(line for one in done.found.checks for line in one.told)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_row_that_holds_has_its_files_and_its_number_on_the_board(theirs: Path, board: Path) -> None:
    source = card_of(theirs, "smoke")
    (source.parent / "malware.py").write_text("raise SystemExit")
    place = placed(taken(source, board))
    assert place == board / "digits" / "linf-0.2" / theirs.name / source.parent.name / "card.json"
    assert sorted(contents(board)) == sorted(
        [LOWEST, *(f"digits/linf-0.2/{theirs.name}/{name}" for name in ("best.safetensors", "train.json")),
         *(f"digits/linf-0.2/{theirs.name}/{source.parent.name}/{name}"
           for name in ("card.json", "samples.parquet", "archive.safetensors"))]
    )  # fmt: skip
    assert verify_card(place, HERE).verdict == "holds"
    (number,) = read_lowest(board)
    card = read_card(place)
    assert (number.standing, number.n, number.by, number.on) == (round(card.robust_accuracy * N), N, "Ada", "2026-01-01")
    assert number.is_about(card)


def test_the_same_row_again_and_in_its_place_changes_nothing(theirs: Path, board: Path) -> None:
    place = placed(taken(card_of(theirs, "smoke"), board))
    before = contents(board)
    for again in (card_of(theirs, "smoke"), place, place.parent):
        assert taken(again, board, Signed("Grace")).path == place
        assert contents(board) == before


def test_no_plan_raises_what_was_proved(theirs: Path, board: Path) -> None:
    weak, strong = card_of(theirs, "weak"), card_of(theirs, "smoke")
    assert taken(weak, board).path
    assert taken(strong, board, Signed("Grace")).path
    (number,) = read_lowest(board)
    assert number.by == "Grace"
    before = contents(board)
    done = taken(weak, board)
    assert done.path is None
    low, high = (f"{read_card(card).robust_accuracy:.2%}" for card in (strong, weak))
    assert done.told.startswith(f"refused: it says {high} of {N}, and its model is down to {low}, proved by Grace")
    assert contents(board) == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_memory_does_not_depend_on_the_order(theirs: Path, board: Path, order: tuple[int, int]) -> None:
    cards = [card_of(theirs, "smoke"), card_of(theirs, "weak")]
    for place in order:
        taken(cards[place], board)
    assert [number.standing for number in read_lowest(board)] == [round(read_card(cards[0]).robust_accuracy * N)]


def test_what_does_not_hold_or_is_not_checked_is_refused(theirs: Path, board: Path) -> None:
    source = card_of(theirs, "smoke")
    whole = source.read_text()
    source.write_text(json.dumps(json.loads(whole) | {"robust_accuracy": 0.9}))
    assert "does not hold" in taken(source, board).told
    source.write_text(whole)
    (theirs / "best.safetensors").unlink()
    done = taken(source, board)
    assert "could not be checked" in done.told
    assert ".accept-" not in str(done.found)
    assert contents(board) == {}


def test_an_addition_that_was_undone_is_not_left_behind(theirs: Path, board: Path) -> None:
    weak, strong = card_of(theirs, "weak"), card_of(theirs, "smoke")
    shutil.copy(strong.parent / "archive.safetensors", weak.parent / "added-001.safetensors")
    assert "the card does not list break" in refused(weak, board)
    assert contents(board) == {}


@pytest.mark.parametrize("name", ["card.json", "samples.parquet", "../train.json", "../best.safetensors"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_copied(theirs: Path, board: Path, name: str, kind: str) -> None:
    source = card_of(theirs, "smoke")
    place = source.parent / name
    shutil.move(place, theirs.parent / "elsewhere")
    if kind == "link":
        place.symlink_to(theirs.parent / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    assert refused(source, board)
    assert contents(board) == {}
    assert list(board.iterdir()) == []


@pytest.mark.parametrize("dataset", ["..", "x/..", "../../etc/cron.d", ".hidden"])
def test_no_row_leaves_the_board(theirs: Path, board: Path, dataset: str) -> None:
    source = card_of(theirs, "smoke")
    source.write_text(json.dumps(json.loads(source.read_text()) | {"dataset": dataset}))
    refused(source, board)
    assert contents(board) == {}


def test_what_a_kill_leaves_is_no_row_and_goes(theirs: Path, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("bench.verify.acceptance.verify_card", killed)
        patched.setattr("bench.verify.acceptance.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            taken(card_of(theirs, "smoke"), board)
    assert any(path.name == "card.json" for path in board.rglob("*"))
    assert read_entries([board])[0] == []
    with monkeypatch.context() as patched:
        patched.setattr("bench.verify.acceptance.remember", killed)
        with pytest.raises(KeyboardInterrupt):
            taken(card_of(theirs, "smoke"), board)
    assert read_lowest(board) == []
    placed(taken(card_of(theirs, "smoke"), board))
    assert len(read_lowest(board)) == 1
    assert sorted(path.name for path in board.iterdir()) == ["digits", LOWEST]


def test_a_lower_row_takes_the_place_of_one_and_none_the_place_of_a_lower(theirs: Path, board: Path, tmp_path: Path) -> None:
    weak, strong = card_of(theirs, "weak"), card_of(theirs, "smoke")
    place, whole = placed(taken(weak, board)), contents(weak.parent)
    save_file({key: read_tensors(strong.parent / "archive.safetensors")[0][key] for key in ("ids", "z")}, tmp_path / "more")
    lowered = add(weak, tmp_path / "more", "Grace", HERE, quiet=True).card
    assert placed(taken(weak, board, Signed("Grace"))) == place
    assert read_card(place) == lowered
    aside = place.parent.with_name(f"{place.parent.name}.1.aside")
    assert contents(aside) == whole
    # Not even where the memory is lost.
    (board / LOWEST).unlink()
    (weak.parent / "added-001.safetensors").unlink()
    weak.write_bytes(whole["card.json"])
    with pytest.raises(BadInput, match="which is lower"):
        taken(weak, board)
    assert read_card(place) == lowered


def test_no_row_takes_the_place_of_one_of_which_more_is_known(theirs: Path, board: Path) -> None:
    """A verdict is nothing that files prove: who leaves it out has no better row."""
    card = card_of(theirs, "smoke")
    plain, doubted = card.read_bytes(), json.loads(card.read_text())
    known = next((Path(__file__).parents[2] / "results" / "digits").glob("*/broken_jpeg-*/fast-*/card.json"))
    doubted["diagnosis"] = {**json.loads(known.read_text())["diagnosis"], "verdict": "broken"}
    card.write_text(json.dumps(doubted))
    place = placed(taken(card, board))
    before = contents(place.parent)
    card.write_bytes(plain)
    with pytest.raises(BadInput, match="the same row with the verdict broken, and a verdict is the board's to change"):
        taken(card, board, Signed("Eve"))
    assert contents(place.parent) == before
    # The other way round it is told where the row is that was there.
    shutil.rmtree(board)
    board.mkdir()
    placed(taken(card, board))
    card.write_text(json.dumps(doubted))
    done = taken(card, board)
    assert f"the row that was there lies in {card.parent.name}.1.aside" in done.told
    assert read_card(placed(done)).verdict == "broken"


def test_no_weights_take_over_a_run_that_lies_there_without_its_own(theirs: Path, board: Path) -> None:
    """Its record is public, and beside it anybody can put other weights."""
    honest = placed(taken(card_of(theirs, "smoke"), board))
    (honest.parents[1] / "best.safetensors").unlink()
    content = load_file(theirs / "best.safetensors")
    with safe_open(theirs / "best.safetensors", "pt") as file:
        about = file.metadata()
    save_file({key: value + 1e-3 for key, value in content.items()}, theirs / "best.safetensors", about)
    shutil.rmtree(card_of(theirs, "smoke").parent)
    _, other = evaluate(str(theirs), plan_name="smoke", n=N, quiet=True, device_name="cpu")
    before = contents(board)
    assert "is of other weights than the row handed in" in refused(other, board)
    assert contents(board) == before


def test_a_number_of_other_samples_takes_no_place(theirs: Path, board: Path) -> None:
    """Counts of two sizes do not compare; the folder's name is the sender's to choose."""
    there = placed(taken(card_of(theirs, "smoke"), board))
    fewer = evaluate(str(theirs), plan_name="smoke", n=N - 20, quiet=True, device_name="cpu")[1]
    shutil.rmtree(theirs / there.parent.name)
    fewer.parent.rename(theirs / there.parent.name)
    before = contents(board)
    assert "holds a row of another choice of samples, under the same name" in refused(
        theirs / there.parent.name / "card.json", board
    )
    assert contents(board) == before


def test_fields_that_nothing_of_the_model_bears_out_are_no_other_model(theirs: Path, board: Path) -> None:
    source = card_of(theirs, "smoke")
    plain = json.loads(source.read_text())

    def edited(**changes: object) -> str:
        source.write_text(json.dumps({**plain, "model": {**plain["model"], **changes}}))
        return refused(source, board)

    assert "which its weights settle: it poses as another model" in edited(answers="aa", leads=[1.0])
    assert "is written 'rfi?ranking=class', which is 'rfi'" in edited(test_time="rfi?ranking=class")


def test_a_network_that_is_said_to_have_something_around_it_has_it(theirs: Path, board: Path) -> None:
    weights = theirs.parent / "net.safetensors"
    shutil.copy(theirs / "best.safetensors", weights)
    asked = {"dataset": "digits", "eps": "0.2", "plan_name": "smoke", "n": N, "quiet": True, "device_name": "cpu"}
    _, path = evaluate(f"ckpt:{weights}", results=theirs.parent, **asked)
    content = json.loads(path.read_text())
    content["model"]["defense"] = "rfi"
    path.write_text(json.dumps(content))
    done = accept(path, board, ADA, Given(model=f"ckpt:{weights}", device="cpu"), quiet=True)
    assert done.path is None
    assert "says that rfi stands around the network, and it is nothing" in str(done.found.checks)


def test_another_run_under_the_same_name_is_refused(theirs: Path, board: Path) -> None:
    place = placed(taken(card_of(theirs, "smoke"), board))
    (place.parents[1] / "train.json").write_text("{}")
    before = contents(board)
    with pytest.raises(BadInput, match=r"train.json is another file"):
        taken(card_of(theirs, "smoke"), board)
    assert contents(board) == before


def test_an_addition_lowers_the_memory_and_outlives_its_removal(theirs: Path, board: Path, tmp_path: Path) -> None:
    """The card put back and the examples removed too: only the board can know."""
    weak, strong = card_of(theirs, "weak"), card_of(theirs, "smoke")
    place = placed(taken(weak, board))
    before = contents(place.parent)
    save_file({key: read_tensors(strong.parent / "archive.safetensors")[0][key] for key in ("ids", "z")}, tmp_path / "more")
    lowered = add(place, tmp_path / "more", "Grace", HERE, quiet=True).card
    assert lowered
    assert taken(place, board, Signed("Grace")).path
    for file in place.parent.iterdir():
        file.unlink()
    for name, content in before.items():
        (place.parent / name).write_bytes(content)
    assert verify_card(place, HERE).verdict == "holds"
    assert taken(place, board).path is None
    (entry,) = read_entries([board])[0]
    assert entry.card.robust_accuracy == lowered.robust_accuracy
    assert f"lowered to {lowered.robust_accuracy:.2%}, proved by Grace" in entry.lowered
    write_leaderboard(board, ["md"])
    assert "proved by Grace" in (board / "leaderboard.md").read_text()


def test_a_damaged_memory_is_no_empty_one(theirs: Path, board: Path) -> None:
    assert taken(card_of(theirs, "smoke"), board).path
    for text in (
        "",
        "[]",
        '{"schema_version": 2, "lowest": []}',
        '{"schema_version": 1, "lowest": [{"by": "x"}]}',
        "[" * 10**5,
    ):
        (board / LOWEST).write_text(text)
        with pytest.raises(BadInput, match="restore it from version control"):
            taken(card_of(theirs, "weak"), board)
        with pytest.raises(BadInput, match="restore it"):
            read_entries([board])


def test_who_trained_it_is_no_other_model(theirs: Path, board: Path) -> None:
    """What only the submitter says, like the code of a defense, makes no new model of the same weights."""
    place = placed(taken(card_of(theirs, "smoke"), board))
    card = read_card(place)
    other = card.model.model_copy(update={"defense": "mine", "reference": "run:other", "arch": "x"})
    renamed = card.model_copy(update={"name": "new", "model": other, "code": {"defense mine": "0" * 64}, "seed": 5})
    assert lowest_of(renamed, read_lowest(board))
    for around in ({"test_time": "rfi"}, {"defense": "broken_gate"}, {"defense": "smoothing"}):
        smoothed = card.model_copy(update={"model": card.model.model_copy(update=around)})
        assert lowest_of(smoothed, read_lowest(board)) is None, around
    for same in ({"defense": "n_fgsm"}, {"settings": {}}):
        trained = card.model_copy(update={"model": card.model.model_copy(update=same)})
        assert lowest_of(trained, read_lowest(board)), same


def test_the_command_says_what_it_did(
    theirs: Path, board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(plan: str, *more: str) -> tuple[int, str, str]:
        words = ["gauntlet", "accept", str(card_of(theirs, plan)), "--into", str(board), "--device", "cpu", *more]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    assert call("smoke", "--by", "../x")[0] == 2
    code, out, _ = call("smoke", "--by", "Ada")
    assert (code, out.startswith("accepted: ")) == (0, True)
    code, out, _ = call("weak", "--by", "Ada", "--json")
    assert (code, json.loads(out)["accepted"]) == (1, None)
    assert "a row can only go down" in json.loads(out)["told"]


def test_the_model_on_the_board_is_the_one_that_was_sent(theirs: Path, board: Path) -> None:
    place = placed(taken(card_of(theirs, "smoke"), board))
    data = load("digits", "test")
    digests = {resolve(str(run), data.shape, data.classes).digest for run in (theirs, place.parents[1])}
    assert len(digests) == 1
