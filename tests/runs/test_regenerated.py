"""Committed rows are made again from the board's file alone, to the last byte where the processor is of their kind."""

import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from command import call
from timeless import timeless

from bench import Card
from bench.core.device import describe, native_bf16
from bench.results import read_card
from bench.runs import lines_of, read_board

CHECKOUT = Path(__file__).parents[2]
BOARD = CHECKOUT / "results" / "boards" / "digits.toml"
OTHERS = ["standard", "fgsm_at", "n_fgsm"]


def committed(name: str) -> tuple[Path, Card]:
    """The evaluation by `fast` of the first seed of a row."""
    (line,) = [line for line in lines_of(read_board(BOARD), BOARD, CHECKOUT / "results") if line.label == f"{name} seed 0"]
    (path,) = line.home.glob("fast-*/card.json")
    return path, read_card(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"periodic_budget schedule_eps={shape}" for shape in ("const", "linear", "cosine")] + OTHERS)
def test_a_committed_row_is_made_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows of each kind of processor that rows were made on."""
    path, card = committed(name)
    here = describe(torch.device("cpu"))
    if card.device != here:
        pytest.skip(f"made on {card.device}, here is {here}: sums come out otherwise in the last bit")
    other = {package: said for package, said in card.versions.items() if package != "python" and said != _version(package)}
    if other:
        pytest.skip(f"made with {other}, which are other versions here")
    found = tmp_path / path.relative_to(CHECKOUT / "results")
    precision = "bf16" if native_bf16(torch.device("cpu")) else "float32"
    if (card.model.training["device"], card.model.training["precision"]) != (here, precision):
        # Its training was elsewhere, and its evaluation here.
        shutil.copytree(path.parents[1], found.parents[1], ignore=shutil.ignore_patterns("*-*"))
    asked = ("--only", f"{name} seed 0", "--plan", "fast", "--results", str(tmp_path), "--device", "cpu", "--quiet")
    code, _, err = call(capsys, monkeypatch, "board", str(BOARD), *asked)
    assert code == 0, err
    for file in [*path.parents[1].glob("*.safetensors"), *path.parent.glob("*.safetensors"), path.parent / "samples.parquet"]:
        assert (tmp_path / file.relative_to(CHECKOUT / "results")).read_bytes() == file.read_bytes(), file.name
    mine, theirs = (timeless(json.loads(file.read_text()), "reference", "peak_memory_mib") for file in (found, path))
    assert mine == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_a_clone_makes_the_committed_pages(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no checkout of git: what is committed is not known")
    if name != "digits" and not os.environ.get("GAUNTLET_DATA"):
        pytest.skip("needs GAUNTLET_DATA")
    for file in listed.stdout.split("\0")[:-1]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / file, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, monkeypatch, "board", f"results/boards/{name}.toml", "--tables", "--quiet")
    assert code == 0, err
    assert f"results/boards/{name}.md" in out
    for made in out.splitlines()[:-1]:
        assert Path(made).read_bytes() == (CHECKOUT / made).read_bytes(), f"{made}: gauntlet board {name}.toml --tables"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
