"""A board from its file to its tables: made once, gone on with after a kill, and a row that fails stops no other."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import call
from timeless import timeless

from bench.evaluation import EvaluationRequest, Execution
from bench.runs import Prices, Survey, lines_of, read_board, tasks
from bench.runs.tasks import Piece, Work, carry_out

BOARD = """
title = "A few digits"
about = "Small."
dataset = "digits"
threat = "linf 0.2"
plan = "smoke"
n = 40
seeds = 2
settings = { epochs = 1 }
model = "digits_cnn?width=8"

[[rows]]
defense = "standard"
published = [{ source = "https://example.org/a|b", robust = 1.5, attack = "PGD", n = 10000 }]

[[rows]]
defense = "fast_at"
seeds = 1
also = [{ n = 30 }]

[[rows]]
defense = "standard"
test_time = "rfi"
seeds = 1

[[rows]]
defense = "ibp"
threat = "l2 0.5"
seeds = 1

[[external]]
reference = "ckpt:none.safetensors"

[[broken]]
defense = "broken_gradient_kill"
seeds = 1
"""
COMMAND = [sys.executable, "-c", "from bench.cli.commands import main; main()", "board", "mine.toml"]


def bytes_of(results: Path) -> dict[str, str]:
    """A digest of every file below a folder; of records what does not depend on the clock, which pages tell too."""
    found = {}
    for path in sorted(file for file in results.rglob("*") if file.is_file() and not file.name.startswith(".")):
        if results / "report" in path.parents:
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(timeless(json.loads(content), "peak_memory_mib")).encode()
        found[str(path.relative_to(results))] = hashlib.sha256(content).hexdigest()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """The folder of a board that was made by one process, with how its command ended."""
    home = tmp_path_factory.mktemp("board")
    (home / "mine.toml").write_text(BOARD)
    done = subprocess.run(COMMAND, cwd=home, capture_output=True, text=True, check=False)
    return home, done.returncode, done.stdout, done.stderr


@pytest.fixture
def board(made: tuple[Path, int, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_a_row_that_fails_stops_no_other_and_is_named_at_the_end(made: tuple[Path, int, str, str]) -> None:
    home, code, out, err = made
    assert code == 1
    assert err.splitlines()[-1] == "failed: none: there is no file at none.safetensors"
    assert "Traceback" not in err
    assert len([*home.rglob("card.json")]) == 6
    assert out.splitlines()[-2:] == ["results/boards/mine.md", "results/report/index.html"]
    assert json.loads((home / "results/digits/l2-0.5/ibp-skipped.json").read_text())["reason"].startswith("ibp is defined")
    # In a log: which row is being made, and how many are left.
    assert "standard seed 0, standard + rfi seed 0:" in err
    assert "board mine: 4 of 4: standard seed 1: " in err


def test_the_page_has_its_sections(made: tuple[Path, int, str, str]) -> None:
    page = (made[0] / "results/boards/mine.md").read_text()
    shown = page.partition("## Not here")[0]
    ours, broken, published = shown.partition("## Broken on purpose")[0], *shown.split("## ")[-3:][0::2]
    assert page.startswith("# A few digits\n\nSmall.\n\n## digits · linf 0.2 · plan smoke\n")
    assert "| standard " in ours
    assert "| standard+rfi " in ours
    # Asked with 30 samples too, of which the 40 are more.
    assert sum("| fast_at " in line for line in ours.partition("## Under")[0].splitlines() if line.startswith("|")) == 1
    assert "broken_gradient_kill" not in ours
    assert broken.startswith("Broken on purpose")
    assert "broken_gradient_kill" in page.partition("## Broken on purpose")[2]
    assert "rank" not in page.partition("## Broken on purpose")[2].split("\n")[6]
    (row,) = [line for line in published.splitlines() if "https" in line]
    cells = [cell.strip() for cell in row.replace("\\|", "/").split("|")]
    assert cells[1:5] == ["standard", "1.50", "PGD", "10000"]
    assert cells[5].endswith("under smoke, n 40, 2 seeds")
    assert cells[6] == "https://example.org/a/b"


def test_the_page_names_what_is_not_there(
    board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader is not left to think that the board has no other rows; what was left out with a reason is said elsewhere."""
    page = board / "results/boards/mine.md"
    assert page.read_text().endswith(
        "## Not here\n\nOf the 7 evaluations that this board asks for 1 has no card here, and ranks are among the others; "
        "in brackets, of several seeds, how many are here.\n\n- smoke, n 40: none\n"
    )
    shutil.rmtree(next(board.glob("results/digits/linf-0.2/standard-*-s1-*")))
    for card in board.glob("results/digits/*/fast_at-*/*/card.json"):
        if json.loads(card.read_text())["n"] == 30:
            shutil.rmtree(card.parent)
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--tables", "--quiet")
    assert code == 0, err
    assert page.read_text().endswith("- smoke, n 30: fast_at\n- smoke, n 40: standard (1 of 2), none\n")
    assert "\nOf the 7 evaluations that this board asks for 3 have no" in page.read_text()


def test_a_second_run_does_nothing_and_says_so(
    board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in board.rglob("*") if path.suffix in (".parquet", ".safetensors")}
    content = bytes_of(board / "results")
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml")
    assert code == 1
    assert err.startswith("nothing to do: 6 of 7 networks of mine.toml are done\n")
    assert "epoch" not in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert bytes_of(board / "results") == content


def table(out: str) -> dict[str, list[str]]:
    """The cells of what a board says of itself, by the row."""
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_its_state_is_told(board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # A card without the diagnosis that is asked for is there in part, and of one without its archive the word alone.
    Path("mine.toml").write_text(BOARD.replace("n = 30", "n = 30, diagnose = true"))
    for card in board.glob("results/digits/*/fast_at-*/*/card.json"):
        if json.loads(card.read_text())["n"] == 40:
            (card.parent / "archive.safetensors").unlink()
    (plain,) = board.glob("results/digits/*/standard-*-s1-*")
    shutil.rmtree(plain)
    code, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--status")
    assert code == 0
    rows = table(out)
    assert rows["fast_at"] == ["1 of 1", "0 of 1, 1 stated", "0 of 1, 1 partly"]
    assert "\nstated: the card is here and not all that proves it" in out
    assert rows["standard"] == ["1 of 2", "1 of 2"]
    assert rows["ibp l2 0.5"] == ["0 of 1, 1 skipped", "0 of 1, 1 skipped"]
    assert rows["none (external)"] == ["0 of 1, 1 failed"]
    assert "ibp l2 0.5: skipped: ibp is defined for linf, not l2" in out
    assert out.splitlines()[-1] == "left to do: 1 training and 4 evaluations"


def test_a_clone_has_the_whole_page(board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the weights and examples of most rows, and without the network of another, every row stands on the page."""
    page = board / "results/boards/mine.md"
    network = board / "other.safetensors"
    shutil.copy(next(board.glob("results/digits/linf-0.2/standard-*-s1-*/best.safetensors")), network)
    text = BOARD.replace("ckpt:none.safetensors", "ckpt:other.safetensors?arch=digits_cnn&width=8")
    Path("mine.toml").write_text(text)
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--quiet")
    assert code == 0, err
    said = page.read_text()
    assert "| other " in said
    assert "| proved " in said
    network.unlink()
    for row in board.glob("results/digits/linf-0.2/*"):
        if "-s1-" in row.name or "broken" in row.name:
            (row / "best.safetensors").unlink()
            next(row.glob("*/archive.safetensors")).unlink()
    before = bytes_of(board / "results")
    code, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--status")
    rows = table(out)
    assert rows["standard"] == ["1 of 2", "1 of 2, 1 stated"]
    assert rows["broken_gradient_kill (broken)"] == ["0 of 1", "0 of 1, 1 stated"]
    assert rows["other (external)"] == ["0 of 1, 1 stated"]
    code, out, err = call(capsys, monkeypatch, "board", "mine.toml", "--tables")
    assert (code, out.splitlines()[-2:]) == (0, ["results/boards/mine.md", "results/report/index.html"]), err
    clone = page.read_text()
    assert "| stated " in clone
    assert [line.split("|")[2].strip() for line in clone.splitlines() if line.startswith("| ")] == [
        line.split("|")[2].strip() for line in said.splitlines() if line.startswith("| ")
    ]
    made = {name for name in bytes_of(board / "results") if not name.startswith(("boards/", "leaderboard."))}
    assert made == {name for name in before if not name.startswith(("boards/", "leaderboard."))}
    # A file with other bytes than its card names is no file that is missing.
    kill = next(board.glob("results/digits/linf-0.2/broken*/*/card.json")).parent
    (kill / "archive.safetensors").write_bytes(b"other")
    _, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--status")
    assert table(out)["broken_gradient_kill (broken)"] == ["0 of 1", "0 of 1"]
    shutil.rmtree(board / "results")
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--tables")
    assert (code, err) == (2, "error: there are no cards in results; without --tables the board makes them\n")


def test_how_long_it_takes_is_told_from_what_is_there(
    board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = board.glob("results/digits/*/standard-*-s1-*")
    shutil.rmtree(plain)
    for record in board.glob("results/digits/*/standard-*-s0-*/train.json"):
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "training": {**content["training"], "seconds": 7200}}))
    for card in board.glob("results/digits/*/standard-*/*/card.json"):
        card.write_text(json.dumps({**json.loads(card.read_text()), "seconds": 3600}))
    (weights,) = board.glob("results/digits/*/standard-*-s0-*/best.safetensors")
    code = Path("mine.py")
    code.write_text("raise SystemExit('nobody asked for a result')\n")
    Path("mine.toml").write_text(
        BOARD
        + "[[rows]]\ndefense = 'pgd_at'\nsettings = {epochs = 2}\nseeds = 1\nplan = 'autoattack'\n"
        + f"[[external]]\nname = 'found'\nreference = 'ckpt:{weights}?arch=digits_cnn&width=8'\nplan = 'autoattack'\n"
        + "[[external]]\nname = 'foreign'\nreference = 'py:mine.py:net'\n"
        + "[[rows]]\ndefense = 'fgsm_at'\nseeds = 1\n[[broken]]\ndefense = 'broken_noise_layer'\nseeds = 1\n"
    )
    _, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--dry-run", "--workers", "2")
    rows = table(out)
    assert rows["found (external)"][-1] == "bound"
    assert rows["foreign (external)"][-1] == "unknown"
    assert rows["standard"][-2:] == ["3 h 00 min", "records + cards"]
    assert rows["pgd_at epochs=2"][-1] == "batch + bound"
    assert rows["fgsm_at"][-1] == "batch + cards"
    # What networks alone cost says nothing of one with something around it.
    assert rows["broken_noise_layer (broken)"][-1] == "batch + passes"
    assert "unknown: nothing, and not counted" in out
    assert out.splitlines()[-1].startswith("left to do: 4 trainings and 7 evaluations, about ")
    assert out.splitlines()[-1].endswith(" with 2 workers")
    assert not [*board.rglob("pgd_at*")]


def test_draws_and_a_diagnosis_are_in_the_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that answers at random every draw is one pass; what stands around a network takes its own time."""
    monkeypatch.chdir(tmp_path)
    head = 'title = "t"\ndataset = "digits"\nthreat = "linf 0.2"\nplan = "smoke"\nsettings = { epochs = 1 }\n'
    row = "[[broken]]\ndefense = '{}'\nname = '{}'\ndiagnose = {}\n"
    names = {"plain": ("broken_logit_scale", "false"), "told": ("broken_logit_scale", "true")}
    names["random"] = ("broken_noise_layer", "false")
    Path("mine.toml").write_text(head + "".join(row.format(defense, name, on) for name, (defense, on) in names.items()))
    board, results = read_board(Path("mine.toml")), Path("results")
    survey = Survey(board.dataset, Execution(results, "cpu"), {})
    lines = lines_of(board, Path("mine.toml"), results)
    costs = Prices(results, "cpu").of_all([survey.look(line) for line in lines])
    plain, told, random = (next(cost for label, cost in costs.items() if label.startswith(name))[-1].seconds for name in names)
    assert told == pytest.approx(1.5 * plain)
    assert random > 5 * plain


def test_a_device_that_is_not_here_is_no_failure_of_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(BOARD)
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--device", "foo")
    assert (code, err.startswith("error: ")) == (2, True)
    assert not Path("results").exists()


def test_only_some_rows_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(BOARD)
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--only", "broken*")
    assert code == 0, err
    assert [path.parent.parent.name.split("-")[0] for path in tmp_path.rglob("card.json")] == ["broken_gradient_kill"]
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--only", "fast_ta")
    assert (code, err.startswith("error: unknown row 'fast_ta': did you mean 'fast_at'")) == (2, True)


def test_one_plan_first_and_the_others_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("longer.toml").write_text('[[attacks]]\nattack = "pgd"\nparameters = { steps = 3 }\n')
    Path("mine.toml").write_text(BOARD.replace("also = [{ n = 30 }]", 'also = [{ plan = "longer.toml" }]'))
    only = ("board", "mine.toml", "--only", "fast_at")

    def plans() -> list[str]:
        return sorted(json.loads(path.read_text())["plan"]["name"] for path in tmp_path.rglob("card.json"))

    code, _, err = call(capsys, monkeypatch, *only, "--plan", "smoke")
    assert (code, plans()) == (0, ["smoke"]), err
    code, out, _ = call(capsys, monkeypatch, *only, "--status")
    assert [cell for cell in table(out)["fast_at"] if cell] == ["1 of 1", "1 of 1", "0 of 1"]
    code, _, err = call(capsys, monkeypatch, *only, "--plan", "lon*")
    assert (code, plans()) == (0, ["longer", "smoke"]), err
    code, _, err = call(capsys, monkeypatch, *only, "--plan", "smok")
    assert (code, err.startswith("error: unknown plan of these rows 'smok': did you mean 'smoke'")) == (2, True)


def test_what_failed_is_remembered_until_it_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        BOARD.partition("[[rows]]")[0].replace("seeds = 2", "seeds = 1")
        + "[[rows]]\ndefense = 'standard'\nsettings = {lr = %s}\n"
    )
    Path("mine.toml").write_text(text % "1e9")
    code, out, err = call(capsys, monkeypatch, "board", "mine.toml")
    assert code == 1
    assert "failed: standard lr=1000000000.0 seed 0: the training of standard diverged in epoch 1" in err
    _, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--status")
    assert "standard lr=1000000000.0 seed 0: failed: the training of standard diverged" in out
    assert "0 of 1, 1 failed  0 of 1, 1 failed" in " ".join(out.split()).replace(" 0 of", "  0 of")


def wait_for(found: Callable[[], list[Path]]) -> Path:
    """The first of the files that show how far another process is."""
    until = time.monotonic() + 120
    while not (there := found()) and time.monotonic() < until:
        time.sleep(0.01)
    return there[0]


@pytest.mark.slow
def test_after_kills_of_driver_and_worker_a_board_goes_on_to_the_same_bytes(
    made: tuple[Path, int, str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(BOARD)
    command = [*COMMAND, "--only", "standard"]
    driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for(lambda: [*tmp_path.rglob("units")])
    driver.kill()
    driver.wait()
    for lock in tmp_path.rglob(".lock"):
        lock.unlink()
    assert len([*tmp_path.rglob("card.json")]) < 3
    driver = subprocess.Popen([*command, "--workers", "2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    # The process that has locked a folder is a worker, and not the one that was started.
    worker = int(wait_for(lambda: [path for path in tmp_path.rglob(".lock") if path.read_text()]).read_text().split()[1])
    assert worker != driver.pid
    os.kill(worker, signal.SIGKILL)
    _, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    here, there = (bytes_of(home / "results/digits/linf-0.2") for home in (tmp_path, made[0]))
    assert here == {name: digest for name, digest in there.items() if name.startswith("standard-")}
    assert len([name for name in here if name.endswith("card.json")]) == 3
    # Tasks side by side do not tell of themselves.
    assert "board mine: 2 of 2: " in err
    assert "epoch" not in err


def test_what_no_row_may_do_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours, and a plug-in that is another file on a worker's machine."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("raise SystemExit('it ran')\n")
    piece = Piece("row seed 0", EvaluationRequest(model="run:none"), False)
    other = carry_out(Work(Execution(tmp_path, quiet=True), (piece,), plugins=((str(plugin), "0" * 64),)))
    assert other.failed == {
        "row seed 0": f"plug-in {plugin} is another file here than where the board was begun; give every machine the same one"
    }

    def bug(*_: object, **__: object) -> None:
        raise TypeError("a\x1bb")

    monkeypatch.setattr(tasks, "evaluated", bug)
    found = carry_out(Work(Execution(tmp_path, quiet=True), (piece, piece._replace(label="row seed 1"))))
    assert list(found.failed) == ["row seed 0", "row seed 1"]
    assert found.failed["row seed 1"].startswith("fast: TypeError: a?b (test_board.py, line ")


def test_a_network_that_is_code_stands_on_a_board_where_its_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    head = BOARD.partition("[[rows]]")[0].replace('model = "digits_cnn?width=8"', "")
    Path("mine.toml").write_text(head + "[[external]]\nreference = 'py:theirs.py:net'\n")
    code, _, err = call(capsys, monkeypatch, "board", "mine.toml", "--plugin", "theirs.py")
    assert code == 0, err
    code, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--status", "--plugin", "theirs.py")
    assert table(out)["net (external)"] == ["1 of 1"]
    assert out.splitlines()[-1] == "nothing is left to do: 1 network"
    # Its code is a part of what was asked.
    Path("theirs.py").write_text(Path("theirs.py").read_text() + "# changed\n")
    code, out, _ = call(capsys, monkeypatch, "board", "mine.toml", "--status", "--plugin", "theirs.py")
    assert table(out)["net (external)"] == ["0 of 1"]
