"""What a stranger's card may have opened: what lies below its folder, and named sets; the rest only when the user names it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import evaluate
from bench.core import Judge
from bench.data import load
from bench.verify import consistency, loading
from bench.verify.cards import Verified, verify_card
from bench.verify.loading import Given

HERE = Given(device="cpu")
N = 40


@pytest.fixture(scope="module")
def made(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The card of a weights file and of data of the user's own, which are named by absolute paths."""
    home = tmp_path_factory.mktemp("mine")
    shutil.copy(fast_run / "best.safetensors", home / "mine.safetensors")
    digits, images = load("digits", "test"), home / "set"
    for number, (image, label) in enumerate(zip(digits.x[: 2 * N, 0].numpy(), digits.y.tolist(), strict=False)):
        (images / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(images / str(label) / f"{number}.png")
    model = f"ckpt:{home / 'mine.safetensors'}"
    given = {"dataset": str(images), "results": home / "results", "quiet": True, "device_name": "cpu"}
    path = evaluate(model, plan_name="smoke", n=N, **given)[1]  # type: ignore[arg-type]
    return path, model, str(images)


@pytest.fixture
def theirs(made: tuple[Path, str, str], tmp_path: Path) -> Path:
    """The same as a stranger hands it in."""
    shutil.copytree(made[0].parent, tmp_path / "row")
    return tmp_path / "row" / "card.json"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def told(found: Verified) -> str:
    return "; ".join(line for one in found.checks if not one.ok for line in one.told)


def test_what_lies_elsewhere_is_opened_when_it_is_named(theirs: Path, made: tuple[Path, str, str]) -> None:
    _, model, images = made
    found = verify_card(theirs, HERE)
    assert (found.verdict, f"--dataset {images}" in told(found)) == ("not checked", True)
    found = verify_card(theirs, HERE._replace(dataset=images))
    assert (found.verdict, f"--model {model}" in told(found)) == ("not checked", True)
    found = verify_card(theirs, HERE._replace(dataset=images, model=model))
    assert (found.verdict, told(found)) == ("holds", "")


def test_what_lies_beside_the_card_is_opened(theirs: Path, made: tuple[Path, str, str]) -> None:
    _, model, images = made
    shutil.copytree(images, theirs.parent / "set")
    shutil.copy(model.removeprefix("ckpt:"), theirs.parent)
    edit(theirs, lambda content: content["model"].update(reference="ckpt:mine.safetensors"))
    edit(theirs, lambda content: content.update(dataset="set"))
    # The archive says what data it was made for, by the name that the card had.
    assert "header" in {one.name for one in verify_card(theirs, HERE).checks if one.ok is False}
    assert {one.name for one in verify_card(theirs, HERE).checks if one.ok} >= {"data", "model", "examples"}


@pytest.mark.parametrize(
    "dataset", ["/proc", "/etc/passwd", "../../set", "..", ".", "", "link", "pipe", "no\0path", "x" * 4000]
)
def test_no_path_leads_out_of_the_folder_of_a_card(dataset: str, theirs: Path, made: tuple[Path, str, str]) -> None:
    (theirs.parent / "link").symlink_to(made[2])
    os.mkfifo(theirs.parent / "pipe")
    edit(theirs, lambda content: content.update(dataset=dataset))
    found = verify_card(theirs, HERE)
    assert "opens none elsewhere" in told(found) or "pipe' is not here" in told(found)
    assert len(told(found)) < 2000
    assert "data" not in {one.name for one in found.checks}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ckpt:/proc/self/environ", "opens none elsewhere"),
        ("ckpt:../../mine.safetensors", "opens none elsewhere"),
        ("ckpt:link.safetensors?arch=digits_cnn", "opens none elsewhere"),
        ("link.safetensors", "opens none elsewhere"),
        ("ckpt:pipe", "opens none elsewhere"),
        ("robustbench:Standard?dataset=cifar10&threat=Linf", "is downloaded, which is done only when you name it"),
        ("py:evil.py:net", "is code, which runs only when you name it"),
    ],
)
def test_no_model_leads_out_of_it(reference: str, message: str, theirs: Path, made: tuple[Path, str, str]) -> None:
    (theirs.parent / "link.safetensors").symlink_to(made[1].removeprefix("ckpt:"))
    (theirs.parent / "evil.py").write_text("raise SystemExit('ran')\n")
    os.mkfifo(theirs.parent / "pipe")
    edit(theirs, lambda content: content["model"].update(reference=reference))
    found = verify_card(theirs, HERE._replace(dataset=made[2]))
    assert found.verdict == "not checked"
    assert message in told(found)


def test_a_named_set_is_opened(fast_run: Path, tmp_path: Path) -> None:
    shutil.copytree(fast_run, tmp_path / "run")
    card = evaluate(str(tmp_path / "run"), plan_name="smoke", n=N, quiet=True, device_name="cpu")[1]
    assert verify_card(card, HERE).verdict == "holds"


def test_data_beside_a_card_that_unpack_to_gigabytes_are_not_read(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LEAST", 2**10)
    np.savez_compressed(theirs.parent / "bomb.npz", x=np.zeros((30_000, 64, 64), np.uint8), y=np.arange(30_000) % 10)
    edit(theirs, lambda content: content.update(dataset="bomb.npz"))
    found = verify_card(theirs, HERE)
    assert found.verdict in ("not checked", "fails")
    assert f"at most {100 * N * 64 * 4} can be needed" in told(found)


def test_an_archive_that_is_listed_many_times_is_read_once_at_most(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    plain = consistency.read_archive
    monkeypatch.setattr(consistency, "read_archive", lambda path, *rest: (reads.append(path), plain(path, *rest))[1])
    content = json.loads(theirs.read_text())
    again = {"by": "Mallory", "broken": 1, "archive": content["archive"]}
    edit(theirs, lambda content: content.update(additions=[again] * 7000))
    found = verify_card(theirs, HERE)
    assert found.verdict == "fails"
    assert "archive.safetensors is listed more than once" in told(found)
    assert len(reads) <= 1


@pytest.mark.parametrize(("room", "verdict"), [(3, "holds"), (0, "not checked")])
def test_where_memory_runs_out_batches_are_halved_and_no_other_card_suffers(
    room: int, verdict: str, theirs: Path, made: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, sizes = Judge.correct, set()

    def correct(self: Judge, x: Tensor, y: Tensor) -> Any:
        sizes.add(len(x))
        if len(x) > room:
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, x, y)

    monkeypatch.setattr(Judge, "correct", correct)
    found = verify_card(theirs, HERE._replace(model=made[1], dataset=made[2], batch_size=8))
    assert (found.verdict, sizes >= {8, 4, 2}) == (verdict, True)
    assert ("not memory enough" in told(found)) == (room == 0)
