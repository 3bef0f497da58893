"""The measures on a card are checked against their documents, and travel with the row; a stranger's are read with care."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import evaluate
from bench.errors import BadInput
from bench.evaluation import Execution
from bench.files import sha256
from bench.measures import MeasureRequest, measured
from bench.report.entries import read_entries
from bench.results import read_card
from bench.verify import lowest_of, read_lowest
from bench.verify.acceptance import Signed, accept
from bench.verify.cards import exit_code, render, verify_card
from bench.verify.loading import Given
from bench.verify.submission import Submission, submit

ADA, HERE = Signed("Ada"), Given(device="cpu")


@pytest.fixture(scope="module")
def measured_run(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one card that states two measures, one of them with arrays."""
    run = tmp_path_factory.mktemp("stated") / fast_run.name
    shutil.copytree(fast_run, run, ignore=lambda _, names: [name for name in names if "." not in name])
    evaluate(str(run), plan_name="smoke", n=20, quiet=True, device_name="cpu")
    for name, options in (("path", {"n": 10, "steps": 2}), ("lipschitz", {"n": 4, "steps": 1, "radii": [0.0, 1.0]})):
        measured(MeasureRequest.of(model=run, measure=name, options=options), Execution(quiet=True))
    return run


@pytest.fixture
def card(measured_run: Path, tmp_path: Path) -> Path:
    run = shutil.copytree(measured_run, tmp_path / measured_run.name)
    return next(Path(run).glob("*/card.json"))


def change(card: Path, changes: Callable[[dict[str, Any]], None]) -> None:
    """Change what the card states of the path."""
    content = json.loads(card.read_text())
    changes(content["measures"][1])
    card.write_text(json.dumps(content))


def document(card: Path) -> Path:
    return card.parent.parent / "measures" / read_card(card).measures[1].file


def rewrite(card: Path, **changes: object) -> None:
    """Change the document of the path, and the sha256 that the card has of it."""
    path = document(card)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    change(card, lambda short: short.update(sha256=sha256(path)))


def told(card: Path, ok: bool | None) -> str:
    found = verify_card(card, HERE)
    (check,) = [check for check in found.checks if check.name == "measures"]
    assert check.ok is ok, check
    assert found.verdict == ("fails" if ok is False else "holds")
    return "; ".join(check.told)


def test_what_was_measured_holds(card: Path, fast_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(card, True) == "lipschitz, path: as the documents beside it say"
    monkeypatch.chdir(card.parent)
    assert "as the documents" in told(Path("card.json"), True)
    content = json.loads(card.read_text())
    del content["measures"]
    card.write_text(json.dumps(content))
    assert "measures" not in {check.name for check in verify_card(card, HERE).checks}


FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "value": (lambda card: change(card, lambda s: s["values"].update({"final loss": 9.0})), "the card says 9.0"),
    "value of no document": (lambda card: change(card, lambda s: s["values"].update(mine=1.0)), "has mine None"),
    "settings": (lambda card: change(card, lambda s: s.update(asked="n 10000")), "the card says path, n 10000"),
    "measure": (lambda card: change(card, lambda s: s.update(measure="kernel")), "the card says kernel"),
    "document": (lambda card: document(card).write_text("{}"), "is not the document of the card: its sha256 is"),
    "no document": (lambda card: [document(card).write_text("{"), rewrite_sha(card)][0], "cannot be read"),
    "foreign weights": (lambda card: rewrite(card, digest="0" * 64), "is of the network 000000000000, and the card of"),
    "weights unknown": (lambda card: rewrite(card, digest=""), "is of the network unknown"),
    "another value": (lambda card: rewrite(card, values={"clean loss": 1.0}), "has final loss None"),
    "a link": (lambda card: moved(card).symlink_to("x"), "is a symbolic link"),
}  # fmt: skip


def moved(card: Path) -> Path:
    path = document(card)
    path.rename(path.with_name("x"))
    return path


def rewrite_sha(card: Path) -> None:
    path = document(card)
    change(card, lambda short: short.update(sha256=sha256(path)))


@pytest.mark.parametrize("what", FORGED)
def test_what_was_forged_is_told(card: Path, what: str, tmp_path: Path) -> None:
    forge, sentence = FORGED[what]
    forge(card)
    assert sentence in told(card, False)
    assert sentence in render([verify_card(card, HERE)])
    # The number of the row stands all the same, and says what does not hold.
    (entry,), refused = read_entries([card.parent.parent])
    assert (entry.backing, refused) == ("proved", [])
    with pytest.raises(BadInput, match="contradicts itself"):
        submit(card, tmp_path / "row.zip", Submission())
    (tmp_path / "board").mkdir()
    if what == "a link":
        with pytest.raises(BadInput, match="symbolic link"):
            accept(card, tmp_path / "board", ADA, HERE, quiet=True)
    else:
        assert accept(card, tmp_path / "board", ADA, HERE, quiet=True).path is None


def test_a_document_that_is_not_here_is_said_and_is_no_failure(card: Path, tmp_path: Path) -> None:
    document(card).unlink()
    assert "is not here" in told(card, None)
    rows = [verify_card(card, HERE)]
    assert (exit_code(rows), exit_code(rows, strict=True)) == (0, 1)
    with pytest.raises(BadInput, match="`gauntlet measure` it again"):
        submit(card, tmp_path / "row.zip", Submission())
    shutil.rmtree(card.parent.parent / "measures")
    assert told(card, None).count("is not here") == 2
    # A forger cannot keep a row from being attacked again by taking a document away.
    from bench.audit import Asked, audited

    (found,) = audited(rows, Asked(3, 0), HERE, quiet=True)
    assert [check.ok for check in found.checks if check.name == "audit"] == [True]


def test_a_row_travels_with_its_documents_and_holds_where_it_is_accepted(card: Path, tmp_path: Path) -> None:
    file, names = submit(card, tmp_path / "row.zip", Submission())
    stated = [document(card).name, document(card).with_suffix(".npz").name, read_card(card).measures[0].file]
    assert {name.rpartition("/")[2] for name in names if "/measures/" in name} == set(stated)
    board = tmp_path / "board"
    board.mkdir()
    for source in (file, card):
        done = accept(source, board, ADA, HERE, quiet=True)
        assert done.path is not None, done.told
        assert done.path.read_bytes() == card.read_bytes()
        there = done.path.parent.parent / "measures"
        assert {path.name: path.read_bytes() for path in there.iterdir()} == {
            name: (card.parent.parent / "measures" / name).read_bytes() for name in stated
        }
        told(done.path, True)
        shutil.rmtree(there)  # what is lost comes back with the same row
    accept(file, board, ADA, HERE, quiet=True)
    told(done.path, True)
    assert verify_card(done.path, HERE).verdict == "holds"


def test_a_board_keeps_its_own_document_of_that_name(card: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    done = accept(card, board, ADA, HERE, quiet=True)
    assert done.path is not None
    rewrite(card, notes=["measured elsewhere"])
    before = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="is another file than the one handed in"):
        accept(card, board, ADA, HERE, quiet=True)
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == before


def test_a_row_that_is_measured_later_is_as_one_that_is_diagnosed_later(card: Path, tmp_path: Path) -> None:
    """Its number stays remembered; that it was audited was said of another card, until it is accepted again."""
    board = tmp_path / "board"
    board.mkdir()
    done = accept(card, board, ADA, HERE, quiet=True)
    assert done.path is not None
    measured(
        MeasureRequest.of(model=done.path.parent.parent, measure="path", options={"n": 10, "steps": 1}), Execution(quiet=True)
    )
    assert len(read_card(done.path).measures) == 3
    told(done.path, True)
    lowest = lowest_of(read_card(done.path), read_lowest(board))
    assert lowest is not None
    assert lowest.card == sha256(card) != sha256(done.path)
    assert accept(done.path, board, ADA._replace(by="Bob"), HERE, quiet=True).path == done.path
    (number,) = read_lowest(board)
    assert number == lowest.model_copy(update={"card": sha256(done.path)}), "its audit is of the card that lies there now"


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a long name": lambda s: s.update(measure="k" * 10_000),
    "a name with a path": lambda s: s.update(measure="../kernel"),
    "a long name of a value": lambda s: s.update(values={"v" * 10_000: 1.0}),
    "an escape in a name": lambda s: s.update(values={"\x1b[31m": 1.0}),
    "no values": lambda s: s.update(values={}),
    "many values": lambda s: s.update(values={str(number): 1.0 for number in range(17)}),
    "NaN": lambda s: s.update(values={"clean loss": float("nan")}),
    "infinity": lambda s: s.update(values={"clean loss": float("inf")}),
    "a number of many digits": lambda s: s.update(values={"clean loss": 10**400}),
    "text": lambda s: s.update(values={"clean loss": "much"}),
    "nothing": lambda s: s.update(values={"clean loss": None}),
    "a path": lambda s: s.update(file="../../../etc/passwd.json"),
    "an absolute path": lambda s: s.update(file="/etc/passwd.json"),
    "a hidden file": lambda s: s.update(file=".x.json"),
    "no document": lambda s: s.update(file="card.py"),
    "a long file": lambda s: s.update(file="a" * 10_000 + ".json"),
    "no digest": lambda s: s.update(sha256="no"),
    "long settings": lambda s: s.update(asked="n" * 10_000),
    "two lines": lambda s: s.update(asked="n 1\nn 2"),
    "another key": lambda s: s.update(run="code"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_measures_are_refused(card: Path, what: str) -> None:
    change(card, HOSTILE[what])
    with pytest.raises(BadInput) as error:
        read_card(card)
    assert len(str(error.value)) < 1000
    assert "\x1b" not in render([verify_card(card, HERE)])


def test_too_many_measures_and_one_that_is_listed_twice_are_refused(card: Path) -> None:
    content = json.loads(card.read_text())
    for given in (content["measures"] * 2, [{**content["measures"][0], "file": f"a{number}.json"} for number in range(65)], {}):
        card.write_text(json.dumps({**content, "measures": given}))
        with pytest.raises(BadInput, match="measures"):
            read_card(card)


def test_documents_that_are_too_large_altogether_are_not_read(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.verify.measured.MOST", document(card).stat().st_size)
    assert "it is not read" in told(card, False)
