"""What several test files share: models that the product itself trained on real digits."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import hypothesis
import pytest
import torch

# Two workers share two cores; and what a subprocess trains must match what the test trains, threads included.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fast_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short fast_at training on digits."""
    from bench import train

    return train("fast_at", settings={"epochs": "8"}, results=tmp_path_factory.mktemp("fast"), quiet=True)


@pytest.fixture(scope="session")
def periodic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short periodic_budget training on digits, with its snapshot ensemble."""
    from bench import train

    settings = {"epochs": "8", "steps": "3"}
    return train("periodic_budget", settings=settings, results=tmp_path_factory.mktemp("periodic"), quiet=True)


# In CI a red run should mean that the change broke something, so there the examples do not vary; elsewhere they do.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)> {{7*7}} =1+1'
"""What somebody may call a row."""


@pytest.fixture(scope="session")
def shown_results(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board: a method with three seeds, one that is doubted, one with a hostile name, one with a name of 10 kB, and three
    folders that are damaged, foreign and forged."""
    from bench import evaluate

    home = tmp_path_factory.mktemp("shown") / "results"
    run = home / "digits" / "linf-0.2" / "one"
    run.mkdir(parents=True)
    for file in fast_run.iterdir():
        if file.is_file():
            shutil.copy(file, run)
    _, path = evaluate(str(run), plan_name="smoke", n=80, quiet=True, device_name="cpu", results=home)
    for seed in (1, 2):
        _row_like(path, f"seed-{seed}", seed=seed)
    _row_like(path, "doubted", name="doubted", noticed=True)
    _row_like(path, "hostile", name=HOSTILE)
    _row_like(path, "long", name="n" * 10_000)
    _spoil(path, home)
    return home


@pytest.fixture(scope="session")
def hostile() -> str:
    """What one of its rows is called."""
    return HOSTILE


def _row_like(card: Path, folder: str, name: str = "", seed: int = 0, *, noticed: bool = False) -> Path:
    """Another row: as if a network with other weights had answered the same."""
    from bench.results.archive import read_tensors, write_archive

    home = card.parent.parent.parent / folder
    (home / "smoke").mkdir(parents=True)
    shutil.copy(card.parent.parent / "train.json", home)
    shutil.copy(card.parent / "samples.parquet", home / "smoke")
    content = json.loads(card.read_text())
    digest = hashlib.sha256(folder.encode()).hexdigest()
    tensors, about = read_tensors(card.parent / "archive.safetensors")
    about.pop("schema_version", None)
    about["model_digest"] = digest
    made = write_archive(home / "smoke" / "archive.safetensors", tensors["ids"], tensors["z"], about)
    content["archive"] = made.model_dump()
    content["model"]["digest"], content["model"]["training"]["seed"] = digest, seed
    content["name"] = name or content["name"]
    if noticed:
        doubt = {"check": "gradients", "value": 1.0, "threshold": 0.05, "verdict": "suspicious", "told": "there is no gradient"}
        content["noticed"] = [doubt]
    (home / "smoke" / "card.json").write_text(json.dumps(content))
    return home / "smoke" / "card.json"


def _spoil(card: Path, home: Path) -> None:
    """A card that is half there, one of another program, and one whose number was raised."""
    for name in ("damaged", "foreign", "forged"):
        (home / name).mkdir()
    (home / "damaged" / "card.json").write_text(card.read_text()[:500])
    (home / "foreign" / "card.json").write_text('{"leaderboard": [1, 2, 3]}')
    content = json.loads(card.read_text())
    content["robust_accuracy"] = 1.0
    (home / "forged" / "card.json").write_text(json.dumps(content))
