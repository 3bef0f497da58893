"""What stands behind a row: examples and records that lie there and agree with the card, or its word alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import evaluate
from bench.report import read_entries
from bench.report.pages import summary, write_leaderboard
from bench.results import read_card
from bench.results.archive import read_tensors, write_archive


@pytest.fixture(scope="module")
def made(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of an evaluated run."""
    home = tmp_path_factory.mktemp("backing") / fast_run.name
    home.mkdir()
    for file in fast_run.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    return evaluate(str(home), plan_name="smoke", n=60, quiet=True, device_name="cpu")[1]


@pytest.fixture
def row(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made.parent, tmp_path / "row")
    return tmp_path / "row" / "card.json"


def backing(row: Path) -> str:
    (entry,) = read_entries([row])[0]
    return entry.backing


def rewrite(row: Path, change: Callable[[torch.Tensor], torch.Tensor], **header: str) -> None:
    """Another archive, which the card vouches for."""
    tensors, about = read_tensors(row.parent / "archive.safetensors")
    info = write_archive(row.parent / "archive.safetensors", change(tensors["ids"]), change(tensors["z"]), about | header)
    content = json.loads(row.read_text())
    content["archive"] = info.model_dump() | {"rows": content["archive"]["rows"]}
    row.write_text(json.dumps(content))


def test_a_row_with_its_files_is_proved(row: Path) -> None:
    assert backing(row) == "proved"
    written = write_leaderboard(row.parent, ["md", "csv"])[0]
    assert "| proved" in written[0].read_text()
    assert pd.read_csv(written[1])["proof"].tolist() == ["proved"]
    assert "proof" not in summary([(read_card(row), row)])


@pytest.mark.parametrize("name", ["archive.safetensors", "samples.parquet"])
def test_without_one_of_them_it_is_stated(row: Path, name: str) -> None:
    (row.parent / name).unlink()
    assert backing(row) == "stated"
    assert "stated" in summary([(read_card(row), row)])


def test_examples_that_are_not_of_the_broken_samples_prove_nothing(row: Path) -> None:
    rewrite(row, lambda part: part)
    assert backing(row) == "proved"
    rewrite(row, lambda part: part[1:])
    assert backing(row) == "stated"


def test_examples_for_another_model_prove_nothing(row: Path) -> None:
    rewrite(row, lambda part: part, model_digest="0" * 64)
    assert backing(row) == "stated"


def test_verified_leaves_out_what_is_stated(row: Path, made: Path) -> None:
    shutil.copytree(made.parent, row.parent / "other")
    edited = json.loads(row.read_text())
    edited["model"]["digest"] = "1" * 64
    row.write_text(json.dumps(edited))
    written, refused = write_leaderboard(row.parent, ["csv"])
    assert sorted(pd.read_csv(written[0])["proof"]) == ["proved", "stated"]
    written, refused = write_leaderboard(row.parent, ["csv"], verified=True)
    assert pd.read_csv(written[0])["proof"].tolist() == ["proved"]
    assert refused == [f"{row}: its number is stated, nothing here proves it"]
    # Nothing left is an empty table and no error.
    shutil.rmtree(row.parent / "other")
    written, refused = write_leaderboard(row.parent, ["csv", "md"], verified=True)
    assert len(refused) == 1
