"""Nothing is left on the CPU that belongs on the device: trainings and evaluations on a pretended one, against the CPU's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from second_device import Elsewhere, second_device
from torch import nn

from bench import evaluate, train
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.data.datasets import load
from bench.errors import BadInput
from bench.evaluation import EvaluationRequest, Execution, evaluated
from bench.executors import InProcess
from bench.files.progress import Reporter
from bench.models import build
from bench.plugins.registry import attack_names, defense_names, get_attack
from bench.results.card import Card
from bench.training.loop import Trainer
from bench.training.request import TrainingRequest
from bench.verify.cards import exit_code, verify_cards
from bench.verify.loading import Given

SHORT = {"epochs": "2", "batch_size": "700", "precision": "float32"}
COUNTS = ["forwards", "backwards"]
"""Passes are counted otherwise: away from the CPU, finished samples are dropped now and then, and not at once."""


@pytest.fixture
def device() -> Iterator[str]:
    with second_device() as name:
        yield name


def test_tensors_do_not_mix(device: str) -> None:
    there = torch.ones(3, device=device)
    assert isinstance(there, Elsewhere)
    assert (there + torch.tensor(1.0)).sum().item() == 6
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        nn.Linear(3, 2)(there)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3)[there > 0]
    assert there[torch.tensor([0, 1])].tolist() == [1, 1]
    assert type(there.cpu()) is torch.Tensor
    there[0] = 5
    assert there.tolist() == [5, 1, 1]


def both(tmp_path: Path, name: str, settings: dict[str, str], model: str | None = None) -> list[dict[str, bytes]]:
    """The files of weights of a training on the pretended device and of one on the CPU."""
    common: dict[str, Any] = {"dataset": "digits", "eps": "0.1", "settings": settings, "model": model, "quiet": True}
    with second_device() as device:
        there = train(name, device_name=device, results=tmp_path / "there", **common)
    here = train(name, device_name="cpu", results=tmp_path / "here", **common)
    return [{path.name: path.read_bytes() for path in run.glob("*.safetensors")} for run in (there, here)]


@pytest.mark.parametrize("name", defense_names())
def test_every_defense_trains_the_same_weights(name: str, tmp_path: Path) -> None:
    there, here = both(tmp_path, name, SHORT)
    assert there == here


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd_at", {"ema": "0.9", "ema_buffers": "true"}),
        ("pgd_at", {"swa": "0.3"}),
        ("pgd_at", {"awp": "0.01"}),
        ("pgd_at", {"snapshots": "[0.5, 1]", "eps_schedule": "cosine:0,2:0.5,1", "label_smoothing": "0.1"}),
        ("pgd_at", {"statistics": "clean", "biased_norms": "true", "craft_updates": "false"}),
        ("pgd_at", {"statistics": "adversarial", "clean_first": "0.4", "craft": "eval"}),
        ("trades", {"separate_norms": "true", "craft": "train"}),
        ("clean_warmup", {"mode": "kernel", "epochs": "3"}),
        ("fgsm_pgi", {"prior": "batch"}),
        ("fgsm_pgi", {"prior": "epoch"}),
        ("temporal_ensembling", {"base": "trades"}),
        ("noise_fgsm", {"covariance": "data", "penalty": "1", "placement": "both"}),
        ("noise_fgsm", {"covariance": "spectral", "clip": "true"}),
    ],
    ids=str,
)
def test_options_train_the_same_weights(name: str, settings: dict[str, str], tmp_path: Path) -> None:
    steps = {"steps": "2"} if name in ("pgd_at", "trades", "clean_warmup") else {}
    there, here = both(tmp_path, name, {**SHORT, **steps, **settings}, "preact_resnet18?width=2")
    assert there == here


class Killed(Exception):
    pass


class Kill(Reporter):
    """Ends the training after its first epoch."""

    def advance(self, units: float, note: str = "", *, milestone: bool = False) -> None:
        super().advance(units, note, milestone=milestone)
        if milestone and note.startswith("epoch 1/"):
            raise Killed


def test_a_killed_training_goes_on_there(tmp_path: Path) -> None:
    settings = {**SHORT, "ema": "0.9"}
    job = TrainingRequest(defense="fgsm_pgi", dataset="digits", eps="0.1", settings=settings).job()
    with second_device() as device:
        tmp_path.joinpath("run").mkdir()
        with pytest.raises(Killed):
            Trainer(job, tmp_path / "run", torch.device(device), Kill("test", 1, quiet=True)).run()
        trainer = Trainer(job, tmp_path / "run", torch.device(device), Reporter("test", 1, quiet=True))
        trainer.run()
        held = [*trainer.net.state_dict().values(), *trainer.updates.memory.values(), trainer.train_data.x]
        assert all(isinstance(tensor, Elsewhere) for tensor in held)
    whole = train("fgsm_pgi", dataset="digits", eps="0.1", settings=settings, results=tmp_path, device_name="cpu", quiet=True)
    for name in ("best", "last"):
        assert (tmp_path / "run" / f"{name}.safetensors").read_bytes() == (whole / f"{name}.safetensors").read_bytes()


@pytest.mark.parametrize("name", [name for name in attack_names() if name not in ("autoattack", "transfer")])
def test_every_attack_finds_the_same_examples(name: str) -> None:
    attack = get_attack(name)
    short = {"steps": 4, "queries": 30, "iterations": 4, "classes": 3}
    parameters = attack.configure({key: value for key, value in short.items() if key in attack.parameters})
    samples = load("digits").first(6)
    threat = ThreatModel.parse("linf" if "linf" in attack.norms else "l2", "0.1" if "linf" in attack.norms else "1")
    found = []
    for device in ("lazy:0", "cpu"):
        with second_device():
            torch.manual_seed(0)
            net = build("digits_cnn", samples.shape, 10).eval().requires_grad_(False).to(device)
            x, y = samples.to(device).batch(torch.arange(6))
            view = VIEWS[attack.access](net, Meter(len(x), x.device))
            z = attack.run(view, x, y, threat, Rng(0, torch.arange(6, device=device)), **parameters)
            assert z.device == torch.device(device)
            found.append(z.cpu())
    assert torch.equal(*found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of some defenses that are evaluated in their own ways."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {
        "pgd_at": {"epochs": "6", "steps": "3"}, "smoothing": {"epochs": "3"}, "ibp": {"epochs": "3"},
        "periodic_budget": {"epochs": "3", "steps": "2"}, "rfi": {"epochs": "3", "steps": "2"},
    }  # fmt: skip
    return {
        name: train(name, dataset="digits", eps="0.1", settings=chosen, results=folder, device_name="cpu", quiet=True)
        for name, chosen in settings.items()
    }


def judged(run: Path, device: str, **how: Any) -> tuple[Card, Path, pd.DataFrame]:
    """The card of an evaluation, its path and its records without the counts."""
    weights = how.pop("weights", "best")
    card, path = evaluate(f"run:{run}?weights={weights}", eps="0.1", device_name=device, quiet=True, **how)
    return card, path, pd.read_parquet(path.parent / "samples.parquet").drop(columns=COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("pgd_at", {"plan_name": "fast", "n": 8}),
        ("pgd_at", {"plan_name": "smoke", "n": 8, "diagnosed": True}),
        ("pgd_at", {"plan_name": "smoke", "n": 20, "test_time": "rfi"}),
        ("rfi", {"plan_name": "smoke", "n": 20}),
        ("ibp", {"plan_name": "smoke", "n": 20}),
        ("smoothing", {"plan_name": "smoke", "n": 2}),
        ("periodic_budget", {"plan_name": "smoke", "n": 20, "weights": "ensemble"}),
    ],
    ids=str,
)
def test_evaluations_say_the_same_and_are_verified(
    name: str, how: dict[str, Any], trained: dict[str, Path], tmp_path: Path
) -> None:
    outcomes = []
    for device in ("lazy:0", "cpu"):
        run = tmp_path / device[:4]
        shutil.copytree(trained[name], run)
        with second_device():
            outcomes.append(judged(run, device, **how))
            assert exit_code(verify_cards([outcomes[-1][1]], Given(device=device), quiet=True)) == 0
    (there, _, records), (here, _, others) = outcomes
    assert records.equals(others)
    assert there.robust_accuracy == here.robust_accuracy
    assert there.certified == here.certified
    said = [card.diagnosis and (card.diagnosis.verdict, card.diagnosis.findings) for card in (there, here)]
    assert said[0] == said[1]


class Apart(InProcess):
    """Workers that know nothing of each other, in this process, which has the device."""

    workers = 2
    apart = True


@pytest.mark.slow
def test_workers_there_find_the_same(trained: dict[str, Path], tmp_path: Path) -> None:
    records = []
    for device, executor in (("lazy:0", Apart()), ("cpu", InProcess())):
        run = tmp_path / device[:4]
        shutil.copytree(trained["pgd_at"], run)
        with second_device():
            request = EvaluationRequest.of(model=str(run), plan="smoke", n=40, eps=("0.1",), test_time="rfi")
            path = evaluated(request, Execution(tmp_path, device, quiet=True, executor=executor)).path
        records.append(pd.read_parquet(path.parent / "samples.parquet").drop(columns=COUNTS))
    assert records[0].equals(records[1])


def test_what_a_network_leaves_on_the_cpu_is_told(device: str, tmp_path: Path) -> None:
    """A tensor in a plain list moves with nothing."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.kept = [torch.ones(64, 10)]\n\n    def forward(self, x):\n        return x.flatten(1) @ self.kept[0]\n"
    )
    with pytest.raises(BadInput, match=r"mine.py:Net on lazy:0 fails .*same device.*in parameters or buffers"):
        evaluate(f"py:{tmp_path / 'mine.py'}:Net", dataset="digits", n=8, device_name=device, results=tmp_path, quiet=True)
