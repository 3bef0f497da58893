"""An evaluation as its users see it: card, records, archive; the same bytes for the same seed, whatever the batch size."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bench import Card, evaluate
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.models import resolve
from bench.results.archive import read_tensors
from bench.results.card import read_card
from bench.statistics.proportions import wilson

PLAN = """
[[attacks]]
attack = "pgd"
name = "pgd-10x3"
on = "all"
restarts = 3
probe = 50
parameters = { steps = 10 }
grid = { step = [0.1, 0.25, 1.0], loss = ["ce", "dlr"] }

[[attacks]]
attack = "fgsm"
on = "all"

[[attacks]]
attack = "square"
parameters = { queries = 60 }

[[attacks]]
attack = "simba"
samples = 100
parameters = { queries = 60 }
"""
LINEAR = """
import torch
from torch import nn

def net():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {classes}))
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan") / "mine.toml"
    path.write_text(PLAN)
    return str(path)


def attacked(run: Path, results: Path, plan: str, **options: Any) -> tuple[Card, Path]:
    # A copy, because the card of a run goes into its folder.
    home = results / run.name
    home.mkdir(parents=True)
    for file in run.iterdir():
        if file.is_file():
            os.link(file, home / file.name)
    return evaluate(str(home), plan_name=plan, quiet=True, **options)


def timeless(card: Card) -> dict[str, Any]:
    content = card.model_dump(exclude={"seconds"})
    for attack in content["attacks"]:
        del attack["seconds"]
    return content


@pytest.fixture(scope="module")
def reference(fast_run: Path, plan: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, Path]:
    return attacked(fast_run, tmp_path_factory.mktemp("reference"), plan, batch_size=64)


@pytest.mark.parametrize("batch_size", [64, 37, 500])
def test_the_batch_size_changes_nothing(
    fast_run: Path, plan: str, tmp_path: Path, reference: tuple[Card, Path], batch_size: int
) -> None:
    """Identical flags, margins, queries and adversarial examples: the records and the archive have the same bytes."""
    card, _ = attacked(fast_run, tmp_path, plan, batch_size=batch_size)
    assert timeless(card) == timeless(reference[0])


def test_another_seed_is_another_evaluation(fast_run: Path, plan: str, tmp_path: Path, reference: tuple[Card, Path]) -> None:
    card, _ = attacked(fast_run, tmp_path, plan, seed=1)
    assert card.archive.sha256 != reference[0].archive.sha256


def test_the_card_says_what_the_records_say(reference: tuple[Card, Path]) -> None:
    card, path = reference
    rows = pd.read_parquet(path.parent / card.records.file)
    clean = rows[rows.attack == "clean"]
    assert card.n == len(clean) == 360
    assert card.clean_accuracy == 1 - clean.broken.mean()
    broken = rows.groupby("id").broken.any()
    assert card.robust_accuracy == pytest.approx(1 - broken.mean())
    assert card.interval == wilson(round(card.robust_accuracy * 360), 360)
    assert card.robust_accuracy <= min(attack.robust_accuracy for attack in card.attacks if attack.n == 360)
    pgd = card.attacks[0]
    mine = rows[rows.attack == "pgd-10x3"]
    assert pgd.forwards * pgd.attempted == mine.forwards.sum()
    assert pgd.backwards * pgd.attempted == mine.backwards.sum()
    assert pgd.grid is not None
    assert len(pgd.grid.points) == 6
    assert [point.restarts for point in pgd.restarts] == [1, 2, 3]
    assert (mine.groupby(["id", "run"]).size() == 1).all()


def test_a_fooled_sample_is_not_attacked_again(reference: tuple[Card, Path]) -> None:
    card, path = reference
    rows = pd.read_parquet(path.parent / card.records.file)
    restarts = rows[(rows.attack == "pgd-10x3") & rows.run.str.startswith("restart")]
    per_sample = restarts.groupby("id")
    assert (per_sample.broken.sum() <= 1).all()
    assert (per_sample.broken.apply(lambda flags: not flags.iloc[:-1].any())).all()
    survivors = set(rows[rows.attack == "square"].id)
    assert survivors.isdisjoint(rows[rows.broken & rows.attack.isin(["clean", "pgd-10x3", "fgsm"])].id)


def test_the_archive_proves_every_broken_sample(fast_run: Path, reference: tuple[Card, Path]) -> None:
    card, path = reference
    tensors, about = read_tensors(path.parent / card.archive.file)
    data = load("digits", "test")
    model = resolve(str(fast_run), data.shape, data.classes)
    assert about["model_digest"] == model.digest == card.model.digest
    assert about["data_digest"] == data.digest == card.data.digest
    x, y = data.batch(tensors["ids"])
    assert ThreatModel.parse(about["norm"], about["eps"]).contains(tensors["z"], x).all()
    assert (model.net(x).argmax(1) == y).all()
    assert (model.net(tensors["z"]).argmax(1) != y).all()
    assert len(y) == round((card.clean_accuracy - card.robust_accuracy) * card.n)


def test_the_same_evaluation_again_reads_the_card(
    fast_run: Path, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, path = attacked(fast_run, tmp_path, plan, n=40)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr("bench.evaluation.evaluation.carry_out", lambda *_: pytest.fail("attacked again"))
    assert evaluate(str(tmp_path / fast_run.name), plan_name=plan, n=40, quiet=True) == (card, path)
    assert path.stat().st_mtime_ns == before
    assert read_card(path) == card
    assert not (path.parent / "units").exists()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_few_classes(tmp_path: Path, classes: int, norm: str) -> None:
    """Closed form: a linear model of two classes falls exactly where |margin| < eps * dual norm of the weight difference."""
    import numpy as np

    (tmp_path / "linear.py").write_text(LINEAR.format(seed=1, classes=classes))
    x = Rng(0, torch.arange(80)).uniform((64,)).mul(0.4).add(0.3).view(-1, 8, 8, 1).numpy()
    net = resolve(f"py:{tmp_path}/linear.py:net", (1, 8, 8), classes).net
    y = net(torch.from_numpy(x).permute(0, 3, 1, 2)).argmax(1)
    np.savez(tmp_path / "points.npz", x=x, y=y.numpy())
    (tmp_path / "p.toml").write_text('[[attacks]]\nattack="pgd"\nparameters={steps=20, loss="margin"}\non="all"\n')
    eps = {("linf", 2): "0.05", ("l2", 2): "0.2", ("linf", 3): "0.015", ("l2", 3): "0.06"}[norm, classes]
    card, path = evaluate(
        f"py:{tmp_path}/linear.py:net", dataset=f"{tmp_path}/points.npz", norm=norm, eps=eps, plan_name=f"{tmp_path}/p.toml",
        results=tmp_path / "r", quiet=True,
    )  # fmt: skip
    assert card.n == 80
    assert card.clean_accuracy == 1
    linear = net[1]
    logits = net(torch.from_numpy(x).permute(0, 3, 1, 2))
    falls = torch.zeros(80, dtype=torch.bool)
    for other in range(classes):
        weights = linear.weight[other] - linear.weight[y]
        reach = weights.norm(p=1 if norm == "linf" else 2, dim=1) * float(eps)
        falls |= (other != y) & (logits[:, other] - logits.gather(1, y[:, None]).squeeze(1) + reach > 0)
    rows = pd.read_parquet(path.parent / card.records.file)
    broken = torch.tensor(rows.groupby("id").broken.any().tolist())
    assert not (broken & ~falls).any()
    # Among three classes the nearest boundary at the start need not be the nearest in the end.
    assert torch.equal(broken, falls) if classes == 2 else broken.sum() >= 0.9 * falls.sum()
    assert 0.1 < card.robust_accuracy < 0.9


@pytest.mark.slow
def test_autoattack_equals_the_reference_sample_by_sample(fast_run: Path, tmp_path: Path) -> None:
    from pyautoattack import AutoAttack

    data = load("digits", "test").first(60)
    x, y = data.batch(torch.arange(60))
    net = resolve(str(fast_run), data.shape, data.classes).net
    state = torch.random.get_rng_state()
    direct, _ = AutoAttack(net, norm="Linf", eps=0.2, seed=3, version="standard", device="cpu").run_standard_evaluation(x, y)
    robust = net(direct).argmax(1) == y
    torch.random.set_rng_state(state)
    card, path = attacked(fast_run, tmp_path, "autoattack", n=60, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    rows = pd.read_parquet(path.parent / card.records.file)
    assert rows.groupby("id").broken.any().tolist() == (~robust).tolist()
    assert card.attacks[0].robust_accuracy == card.robust_accuracy == int(robust.sum()) / 60
    assert card.attacks[0].forwards > 100


def test_the_published_mnist_network(tmp_path: Path) -> None:
    root = os.environ.get("GAUNTLET_DATA")
    weights = Path(root or "", "..", "models", "wong2020_mnist_fgsm.pth").resolve()
    if not root or not weights.exists():
        pytest.skip("GAUNTLET_DATA is not set, or ../models beside it has no published network")
    (tmp_path / "wong.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    net = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), "
        "nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))\n"
        f"    net.load_state_dict(torch.load({str(weights)!r}, map_location='cpu', weights_only=True))\n    return net\n"
    )
    (tmp_path / "p.toml").write_text('[[attacks]]\nattack="fgsm"\non="all"\n')
    options = {"dataset": "mnist", "eps": "0.3", "n": 10000, "plan_name": f"{tmp_path}/p.toml", "results": tmp_path / "r"}
    card, _ = evaluate(f"py:{tmp_path}/wong.py:net", quiet=True, **options)
    assert card.clean_accuracy == 0.9850
    assert 0.8877 < card.robust_accuracy < 0.985


@pytest.mark.slow
def test_the_ensemble_is_attacked_as_a_whole(periodic_run: Path, tmp_path: Path) -> None:
    """T26: an attack through the ensemble fools the ensemble at least as often as an attack on one member does."""
    from bench.core.judge import Judge
    from bench.core.views import VIEWS, Meter
    from bench.plugins.registry import get_attack

    data = load("digits", "test")
    x, y = data.batch(torch.arange(360))
    threat = ThreatModel.parse("linf", "0.2")
    ensemble = resolve(str(periodic_run), data.shape, data.classes).net
    judge = Judge(ensemble, threat)
    pgd = get_attack("pgd")

    def fools(net: torch.nn.Module) -> int:
        view = VIEWS["gradient"](net, Meter(360, torch.device("cpu")))
        z = pgd.run(view, x, y, threat, Rng(0, data.ids).at("t"), **pgd.configure({"steps": 20}))
        return int(judge.verdict(z, x, y).fooled.sum())

    members = [resolve(f"{periodic_run}?weights=snapshot-{k}", data.shape, data.classes).net for k in (1, 2, 3)]
    assert fools(ensemble) >= max(fools(member) for member in members)
    card, _ = evaluate(str(periodic_run), plan_name="smoke", n=50, quiet=True)
    assert card.model.defense == "periodic_budget"


def test_the_schema_of_a_card_is_what_the_readme_promises(reference: tuple[Card, Path]) -> None:
    content = json.loads(reference[0].to_json())
    for key in ("name", "dataset", "n", "clean_accuracy", "robust_accuracy", "interval", "plan", "seed", "versions"):
        assert key in content
    assert content["threat"] == {"norm": "linf", "eps": "0.2"}
    for attack in content["attacks"]:
        assert {"name", "parameters", "robust_accuracy", "forwards", "backwards", "seconds"} <= set(attack)


def test_a_model_is_never_judged_on_what_it_was_trained_on(tmp_path: Path) -> None:
    """A file without a split of its own: a stranger is judged on all of it, a model trained on it on the held-out fifth."""
    import shutil

    import numpy as np

    from bench import run

    digits = load("digits", "train").first(300)
    chosen = digits.y < 2
    x = digits.x[chosen].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "two.npz", x=x, y=digits.y[chosen].numpy())
    options = {"dataset": f"{tmp_path}/two.npz", "plan_name": "smoke", "results": tmp_path / "r", "quiet": True}
    ((card, path),) = run("fast_at", settings={"epochs": "2"}, **options)
    assert (card.data.split, card.n) == ("test", len(x) // 5)
    shutil.copy(tmp_path / "two.npz", tmp_path / "moved.npz")
    moved, _ = evaluate(str(path.parents[1]), dataset=f"{tmp_path}/moved.npz", plan_name="smoke", quiet=True)
    assert moved.data == card.data.model_copy(update={"source": moved.data.source})
    (tmp_path / "linear.py").write_text(LINEAR.format(seed=1, classes=2))
    stranger, _ = evaluate(f"py:{tmp_path}/linear.py:net", **options)
    assert (stranger.data.split, stranger.n) == ("all", len(x))


@pytest.mark.slow
def test_the_batch_size_changes_nothing_for_a_residual_network(tmp_path: Path) -> None:
    """Batch norm, strides and 32x32 images: where a float sum in another order would show."""
    import numpy as np

    (tmp_path / "net.py").write_text(
        "from bench.models import build\n\ndef net():\n    return build('preact_resnet18?width=8', (3, 32, 32), 10)\n"
    )
    x = Rng(0, torch.arange(101)).at("x").uniform((32, 32, 3)).numpy()
    with isolated(0):
        net = resolve(f"py:{tmp_path}/net.py:net", (3, 32, 32), 10).net
    y = net(torch.from_numpy(x).permute(0, 3, 1, 2)).argmax(1).numpy()
    np.savez(tmp_path / "points.npz", x=x, y=y)
    (tmp_path / "p.toml").write_text('[[attacks]]\nattack="pgd"\nparameters={steps=6}\nrestarts=2\non="all"\n')
    cards = [
        evaluate(
            f"py:{tmp_path}/net.py:net", dataset=f"{tmp_path}/points.npz", eps="0.1", plan_name=f"{tmp_path}/p.toml",
            results=tmp_path / str(batch_size), batch_size=batch_size, quiet=True,
        )[0]
        for batch_size in (64, 37, 10)
    ]  # fmt: skip
    assert timeless(cards[0]) == timeless(cards[1]) == timeless(cards[2])
    assert 0 < cards[0].robust_accuracy < cards[0].clean_accuracy
