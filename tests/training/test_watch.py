"""Weights of epochs that are kept, and kernels that are looked at meanwhile; neither changes a training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench import train
from bench.cli.commands import app
from bench.core import isolated
from bench.data import hold_out, in_turn, load
from bench.errors import BadInput, UnknownName
from bench.evaluation import Execution
from bench.files import sha256
from bench.measures import read_measurement
from bench.models import resolve
from bench.runs.jobs import trained
from bench.science import ntk
from bench.training import TrainingRequest
from bench.training import watch as watching

KEY = "3a385ef9"
SETTINGS = {"epochs": "5", "keep_every": "2"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("standard", settings={"epochs": "5"}, results=tmp_path_factory.mktemp("plain"), quiet=True)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = TrainingRequest.of(defense="standard", settings=SETTINGS)
    return trained(request, Execution(tmp_path_factory.mktemp("watched"), quiet=True), ["kernel"])


def test_every_second_epoch_and_the_last_are_kept_and_can_be_evaluated(plain: Path, watched: Path) -> None:
    kept = sorted(path.name for path in watched.glob("epoch-*"))
    assert kept == ["epoch-2.safetensors", "epoch-4.safetensors", "epoch-5.safetensors"]
    assert sha256(watched / "epoch-5.safetensors") == sha256(watched / "last.safetensors") == sha256(plain / "last.safetensors")
    assert sha256(watched / "epoch-2.safetensors") != sha256(watched / "epoch-4.safetensors")
    digests = {resolve(f"run:{watched}?weights={name}", (1, 8, 8), 10).digest for name in ("epoch-2", "epoch-4", "epoch-5")}
    assert len(digests) == 3
    assert not [*plain.glob("epoch-*")]


def test_an_option_that_is_not_set_leaves_key_and_record_as_they_were(plain: Path) -> None:
    """The key below is that of the release before there was the option."""
    job = TrainingRequest.of(defense="fast_at", dataset="digits").job()
    assert job.key() == KEY
    assert "keep_every" not in job.settings()
    assert "keep_every" not in json.loads((plain / "train.json").read_text())["settings"]
    other = TrainingRequest.of(defense="fast_at", dataset="digits", settings={"keep_every": 5}).job()
    assert other.key() != job.key()
    assert other.settings()["keep_every"] == 5


def test_looking_changes_no_training_and_says_what_the_kernel_did(watched: Path) -> None:
    found = read_measurement(watched / "measures" / "kernel-watched.json")
    curve = found.curves["over epochs"]
    assert curve["epoch"][0] == 0
    assert curve["epoch"][-1] == 5
    assert (curve["radius"][0], curve["radius"][-1]) == (0, 1)
    with np.load(watched / "measures" / "kernel-watched.npz", allow_pickle=False) as arrays:
        clean = torch.from_numpy(arrays["clean"])
    assert clean.shape[1:] == (20, 20)
    # The last is the kernel of the network that was kept last, of images that it was not trained on.
    held = load("digits", "train")
    _, validation = hold_out(held, 1000)
    x, _ = validation.batch(in_turn(validation.y)[:20])
    net = resolve(f"run:{watched}?weights=last", (1, 8, 8), 10).net
    torch.testing.assert_close(clean[-1], ntk.kernel(net, x), rtol=1e-5, atol=1e-6)


def test_a_watched_training_that_was_killed_goes_on_to_the_same_bytes(
    watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, place = TrainingRequest.of(defense="standard", settings=SETTINGS), Execution(tmp_path, quiet=True)
    plain = watching.KernelWatch.after

    def after(self: watching.KernelWatch, epoch: int, net: torch.nn.Module) -> None:
        plain(self, epoch, net)
        if epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.KernelWatch, "after", after)
    with pytest.raises(KeyboardInterrupt):
        trained(request, place, ["kernel"])
    monkeypatch.setattr(watching.KernelWatch, "after", plain)
    run = trained(request, place, ["kernel"])
    for name in ("kernel-watched.json", "kernel-watched.npz"):
        assert sha256(run / "measures" / name) == sha256(watched / "measures" / name)


def test_looks_are_sized_by_the_training(tmp_path: Path) -> None:
    job, samples = TrainingRequest.of(defense="standard").job(), load("digits", "test")
    for size, epochs, n, looks in ((1_293, 30, 20, 4), (1_293, 12, 20, 2), (59_000, 30, 129, 31), (10**6, 30, 250, 31)):
        found = watching.KernelWatch(job, tmp_path, samples, size, epochs)
        assert len(found.samples) == n
        assert len({*range(0, epochs, found.every), epochs}) == looks
        # A look takes 5 steps of the attack and two gradients of three passes; one at either end is always taken.
        assert looks == 2 or 11 * n * looks <= 0.025 * size * epochs
    with isolated(0):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        before = torch.get_rng_state()
        found.after(1, net)
        assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_watched_is_told(plain: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'kernel'"):
        trained(TrainingRequest.of(defense="standard"), Execution(plain, quiet=True), ["kernle"])
    told = CliRunner().invoke(
        app, ["train", "standard", "--epochs", "5", "--results", str(plain.parents[2]), "--watch", "kernel"]
    )
    assert isinstance(told.exception, BadInput)
    assert "checkpoints=true" in str(told.exception)
