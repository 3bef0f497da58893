"""A row that is sent in one file: packed, unpacked and accepted; and ten that somebody forged."""

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import evaluate
from bench.errors import BadInput
from bench.results import read_card
from bench.verify.acceptance import Signed, accept
from bench.verify.loading import Given
from bench.verify.submission import ABOUT, Submission, submission_of, submit, unpack

ADA, HERE = Signed("Ada"), Given(device="cpu")
GAUNTLET = [sys.executable, "-c", "from bench.cli.commands import main; main()"]
PLUGIN = """
from pathlib import Path

from bench.defense import Defense, defense

Path("it-ran").touch()


@defense("sent_in")
class SentIn(Defense):
    def loss(self, net, x, y, ctx):
        return ctx.cross_entropy(net(x), y)
"""
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def run(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one card."""
    home = tmp_path_factory.mktemp("sent") / fast_run.name
    home.mkdir()
    for file in fast_run.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    evaluate(str(home), plan_name="smoke", n=40, quiet=True, device_name="cpu")
    return home


@pytest.fixture
def sent(run: Path, tmp_path: Path) -> Path:
    return submit(run, tmp_path / "row.zip", Submission(paper="arXiv 1", authors="Two\nlines."))[0]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    (tmp_path / "board").mkdir()
    return tmp_path / "board"


def files_of(file: Path) -> Files:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, files: Files, mode: Callable[[str], int] = lambda _: stat.S_IFREG | 0o644) -> Path:
    """An archive with these files, as anybody's tool may write one."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode(name) << 16
            archive.writestr(entry, content)
    return path


def refused(file: Path, board: Path) -> str:
    """Why a submission is not taken; nothing of it stays."""
    try:
        done = accept(file, board, ADA, HERE, quiet=True)
    except BadInput as error:
        told = str(error)
    else:
        assert done.path is None
        told = "; ".join([done.told, *(text for one in done.found.checks if not one.ok for text in one.told)])
    assert not [path for path in board.rglob("*") if path.is_file()]
    assert not [path for path in board.iterdir() if path.name.startswith(".accept")]
    return told


def test_a_row_is_sent_and_accepted(run: Path, sent: Path, board: Path) -> None:
    names = {name.split("/", 1)[1] for name in files_of(sent)}
    own = next(run.glob("*/card.json")).parent.name
    assert names == {
        "train.json", "best.safetensors",
        *(f"{own}/{name}" for name in ("card.json", "samples.parquet", "archive.safetensors", ABOUT)),
    }  # fmt: skip
    done = accept(sent, board, ADA, HERE, quiet=True)
    assert done.path == board / "digits/linf-0.2" / run.name / own / "card.json"
    assert done.found.path == sent / run.name / own / "card.json"
    assert json.loads((done.path.parent / ABOUT).read_text())["authors"] == "Two\nlines."
    for name in names - {f"{own}/{ABOUT}"}:
        assert (board / "digits/linf-0.2" / run.name / name).read_bytes() == (run / name).read_bytes()


def test_the_same_row_makes_the_same_bytes(run: Path, sent: Path, tmp_path: Path) -> None:
    again = submit(next(run.glob("*/card.json")), tmp_path / "again.zip", Submission(paper="arXiv 1", authors="Two\nlines."))[0]
    assert again.read_bytes() == sent.read_bytes()


def test_what_nobody_could_check_is_not_packed(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "home" / run.name
    shutil.copytree(run, home)
    weights = home / "best.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(BadInput, match="say where others find them, with --weights-at"):
        submit(home, tmp_path / "a.zip", Submission())
    _, names = submit(home, tmp_path / "b.zip", Submission(weights_at="https://example.org/w"))
    assert not [name for name in names if name.endswith("best.safetensors")]
    weights.write_bytes(content)
    card = next(home.glob("*/card.json"))
    card.write_text(json.dumps({**json.loads(card.read_text()), "robust_accuracy": 0.99}))
    with pytest.raises(BadInput, match="contradicts itself"):
        submit(home, tmp_path / "c.zip", Submission())
    with pytest.raises(BadInput, match=r"--authors .*none\.txt: No such file"):
        submission_of("", tmp_path / "none.txt", "")
    assert not [*tmp_path.glob("[ac].zip")]


def test_weights_that_lie_elsewhere_are_asked_for(run: Path, board: Path, tmp_path: Path) -> None:
    file, _ = submit(run, tmp_path / "row.zip", Submission(weights_at="https://example.org/w"))
    told = refused(file, board)
    assert "its weights are not in it but, as it says, at https://example.org/w: fetch them, and name them with --model" in told
    given = HERE._replace(model=str(run))
    assert accept(file, board, ADA, given, quiet=True).path


@pytest.mark.slow
def test_code_is_packed_and_runs_only_when_somebody_says_so(board: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)

    def gauntlet(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*GAUNTLET, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        ran = (tmp_path / "it-ran").exists()
        (tmp_path / "it-ran").unlink(missing_ok=True)
        return done.returncode, f"{'RAN ' if ran else ''}{done.stdout}{done.stderr}"

    options = ["--plugin", "mine.py", "--epochs", "1", "--plan", "smoke", "--n", "20", "--quiet"]
    assert gauntlet("run", "sent_in", *options)[0] == 0
    (own,) = (tmp_path / "results").glob("*/*/sent_in-*")
    with pytest.raises(BadInput, match="defense sent_in is a plug-in, and nobody can check the row without it: add --plugin"):
        submit(own, tmp_path / "row.zip", Submission())
    (tmp_path / "other.py").write_text(PLUGIN + "\n")
    with pytest.raises(BadInput, match="none of the files given is it, as it was"):
        submit(own, tmp_path / "row.zip", Submission(), [tmp_path / "other.py"])
    submit(own, tmp_path / "row.zip", Submission(), [tmp_path / "mine.py"])
    code, told = gauntlet("accept", "row.zip", "--into", "board", "--by", "Ada", "--rerun", "0", "--quiet")
    assert (code, "RAN" in told) == (1, False)
    assert "it brings code, mine.py, which runs only where you say so: read it, and add --run-code" in told
    code, told = gauntlet("accept", "row.zip", "--into", "board", "--by", "Ada", "--rerun", "0", "--quiet", "--run-code")
    assert code == 0, told
    assert told.startswith("RAN accepted: ")
    assert next(board.rglob("mine.py")).read_text() == PLUGIN


@pytest.mark.parametrize(
    "name",
    ["../card.json", "/etc/card.json", "a/../../card.json", "a\\..\\card.json", "a/b/c/card.json", "C:/x.json", "a/./x.json"],
)  # fmt: skip
def test_forged_1_paths_that_lead_out(sent: Path, board: Path, tmp_path: Path, name: str) -> None:
    assert "is no file that a submission has" in refused(packed(tmp_path / "f.zip", {**files_of(sent), name: b"x"}), board)


def test_forged_2_links(sent: Path, board: Path, tmp_path: Path) -> None:
    files = {name: b"/etc/passwd" if name.endswith("train.json") else content for name, content in files_of(sent).items()}
    file = packed(tmp_path / "f.zip", files, lambda name: stat.S_IFLNK | 0o777 if name.endswith("train.json") else 0)
    assert "is no regular file" in refused(file, board)


def test_forged_3_bombs(sent: Path, board: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shutil.copy(sent, tmp_path / "deflated.zip"), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/snapshot-1.safetensors", bytes(10**7))
    assert "is compressed or encrypted" in refused(tmp_path / "deflated.zip", board)
    # Every entry points at the same bytes: together they are more than the file.
    with zipfile.ZipFile(shutil.copy(sent, tmp_path / "overlapping.zip"), "a") as archive:
        (one,) = [entry for entry in archive.infolist() if entry.filename.endswith("best.safetensors")]
        for number in range(1, 40):
            other = zipfile.ZipInfo(one.filename.replace("best", f"snapshot-{number}"))
            for field in ("header_offset", "CRC", "compress_size", "file_size", "external_attr"):
                setattr(other, field, getattr(one, field))
            archive.filelist.append(other)
        archive._didModify = True  # type: ignore[attr-defined]
    assert "would unpack to more than its own size" in refused(tmp_path / "overlapping.zip", board)
    many = packed(tmp_path / "many.zip", {f"a/{number}.json": b"" for number in range(1001)})
    assert "lists 1001 files" in refused(many, board)
    content = bytearray(sent.read_bytes())
    content[-10:-6] = (2**31).to_bytes(4, "little")
    (tmp_path / "long.zip").write_bytes(content)
    assert "it does not end as one" in refused(tmp_path / "long.zip", board)


def test_forged_4_changed_bytes(sent: Path, board: Path, tmp_path: Path) -> None:
    content = bytearray(sent.read_bytes())
    content[content.index(b"archive.safetensors") + 2000] ^= 1
    (tmp_path / "flipped.zip").write_bytes(content)
    assert "Bad CRC-32" in refused(tmp_path / "flipped.zip", board)
    files = files_of(sent)
    (name,) = [name for name in files if name.endswith("archive.safetensors")]
    files[name] = files[name][:-4] + b"\0\0\x80\x3f"
    assert "archive.safetensors" in refused(packed(tmp_path / "f.zip", files), board)


def test_forged_5_missing_weights(sent: Path, board: Path, tmp_path: Path) -> None:
    files = {name: content for name, content in files_of(sent).items() if not name.endswith("best.safetensors")}
    assert "its weights are not here" in refused(packed(tmp_path / "f.zip", files), board)


def test_forged_6_a_foreign_card(sent: Path, board: Path, tmp_path: Path) -> None:
    files = files_of(sent)
    (name,) = [name for name in files if name.endswith("card.json")]
    content = json.loads(files[name])
    content["model"]["digest"] = "0" * 64
    assert "other" in refused(packed(tmp_path / "f.zip", {**files, name: json.dumps(content).encode()}), board)
    two = {**files, name.replace("smoke-", "fast-"): files[name]}
    assert "holds 2 cards, and a submission holds one" in refused(packed(tmp_path / "two.zip", two), board)


def test_forged_7_a_raised_number(sent: Path, board: Path, tmp_path: Path) -> None:
    files = files_of(sent)
    (name,) = [name for name in files if name.endswith("card.json")]
    raised = {**json.loads(files[name]), "robust_accuracy": 1.0}
    assert "it does not hold" in refused(packed(tmp_path / "f.zip", {**files, name: json.dumps(raised).encode()}), board)


def test_forged_8_pickled_weights(sent: Path, board: Path, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "it-ran"),)

    files, content = files_of(sent), pickle.dumps(Runs())
    (weights,) = [name for name in files if name.endswith("best.safetensors")]
    assert "it does not hold" in refused(packed(tmp_path / "f.zip", {**files, weights: content}), board)
    for name in ("best.pt", "state.pt", "last.pkl", "job.json"):
        file = packed(tmp_path / "f.zip", {**files, weights.replace("best.safetensors", name): content})
        assert "is no file that a submission has" in refused(file, board)
    assert not (tmp_path / "it-ran").exists()


def test_forged_9_huge_names(sent: Path, board: Path, tmp_path: Path) -> None:
    for name in ("a" * 60_000 + "/card.json", "a/" + "b" * 300 + ".json", "a/b\x1b[2J/card.json", "a/b/\u202egpj.json"):
        told = refused(packed(tmp_path / "f.zip", {**files_of(sent), name: b"x"}), board)
        assert "is no file that a submission has" in told
        assert len(told) < 400
        assert told.isprintable()
    about = next(name for name in files_of(sent) if name.endswith(ABOUT))
    for said in ('{"paper": "%s"}' % ("x" * 2000), '{"code": ["../../x.py"]}', "[" * 60_000, '{"papers": 1}'):
        assert "submission.json" in refused(packed(tmp_path / "f.zip", {**files_of(sent), about: said.encode()}), board)


def test_forged_10_code_that_would_run(sent: Path, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a module beside the card, nor a model that is code, nor a name in its plan."""
    monkeypatch.chdir(tmp_path)
    code = b"from pathlib import Path\nPath('it-ran').touch()\n\ndef net():\n    raise SystemExit\n"
    files = files_of(sent)
    (name,) = [name for name in files if name.endswith("card.json")]
    folder = name.rpartition("/")[0]
    content = json.loads(files[name])
    content["model"]["reference"] = f"py:{board}/x.py:net"
    about = json.dumps({"schema_version": 1, "code": ["torch.py"]}).encode()
    forged = {**files, f"{folder}/torch.py": code, f"{folder}/{ABOUT}": about, name: json.dumps(content).encode()}
    told = refused(packed(tmp_path / "f.zip", forged), board)
    assert "its model is code, which runs only when you name it" in told
    assert "it brings code, torch.py, which runs only where you say so" in told
    assert not (tmp_path / "it-ran").exists()


def test_what_is_no_archive_is_told(board: Path, tmp_path: Path) -> None:
    file = tmp_path / "row.zip"
    for content in (b"", b"PK"):
        file.write_bytes(content)
        assert f"has {len(content)} bytes, and none is so short" in refused(file, board)
    for content in (b"<!doctype html>" * 100, b"PK\5\6" + bytes(18)):
        file.write_bytes(content)
        assert str(file) in refused(file, board)
    with pytest.raises(BadInput, match="No such file"):
        unpack(tmp_path / "none.zip", board)
    os.mkfifo(tmp_path / "pipe.zip")
    assert "it is a pipe" in refused(tmp_path / "pipe.zip", board)


def test_a_submission_is_one_whatever_it_is_called(sent: Path, board: Path, tmp_path: Path) -> None:
    for name in ("row.dat", "row.ZIP", "row"):
        shutil.copy(sent, tmp_path / name)
        assert accept(tmp_path / name, board, ADA, HERE, quiet=True).path


def test_what_is_said_of_a_row_is_of_this_release(sent: Path, board: Path, tmp_path: Path) -> None:
    files = files_of(sent)
    (about,) = [name for name in files if name.endswith(ABOUT)]
    newer = json.dumps({**json.loads(files[about]), "schema_version": 9}).encode()
    told = refused(packed(tmp_path / "newer.zip", {**files, about: newer}), board)
    assert "schema_version" in told
    told = refused(packed(tmp_path / "none.zip", {name: content for name, content in files.items() if name != about}), board)
    assert str(tmp_path / "none.zip") in told
    assert ".accept" not in told


def test_a_card_is_accepted_as_before(run: Path, board: Path) -> None:
    done = accept(run, board, ADA, HERE, quiet=True)
    assert done.path
    assert not (done.path.parent / ABOUT).exists()
    assert read_card(done.path).n == 40
