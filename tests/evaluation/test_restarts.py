"""One attack of a plan: the curve that distances make, and optional attacks that cannot run."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench import Card, evaluate
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.errors import BadInput
from bench.models import resolve
from bench.statistics.proportions import wilson

FACTORS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)
LINEAR = """
import torch
from torch import nn

def net():
    linear = nn.Linear(64, 2)
    linear.weight.data = torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
    linear.bias.data = -0.5 * linear.weight.data.sum(1)
    return nn.Sequential(nn.Flatten(), linear)
"""


@pytest.fixture
def linear(tmp_path: Path) -> tuple[str, str, nn.Module, Tensor, Tensor]:
    """A linear model of two classes and 150 images far from the edges of the box, every tenth of them mislabelled."""
    (tmp_path / "linear.py").write_text(LINEAR)
    reference = f"py:{tmp_path}/linear.py:net"
    net = resolve(reference, (1, 8, 8), 2).net
    x = 0.4 + 0.2 * Rng(1, torch.arange(150)).uniform((1, 8, 8))
    y = net(x).argmax(1)
    y[::10] = 1 - y[::10]
    np.savez(tmp_path / "points.npz", x=x.permute(0, 2, 3, 1).numpy(), y=y.numpy())
    return reference, f"{tmp_path}/points.npz", net, x, y


def evaluated(tmp_path: Path, reference: str, attacks: Iterable[dict[str, Any]], **options: Any) -> tuple[Card, Path]:
    def line(key: str, value: Any) -> str:
        table = isinstance(value, dict)
        inside = ", ".join(f"{name} = {json.dumps(each)}" for name, each in value.items()) if table else json.dumps(value)
        return f"{key} = {{ {inside} }}" if table else f"{key} = {inside}"

    text = "\n".join("\n".join(["[[attacks]]", *(line(*pair) for pair in attack.items())]) for attack in attacks)
    (tmp_path / "p.toml").write_text(text)
    return evaluate(reference, plan_name=f"{tmp_path}/p.toml", results=tmp_path / "r", quiet=True, **options)


def by_records(card: Card, path: Path, attack: str, norm: str, eps: str) -> list[float]:
    """Accuracy at every radius from the table of attempts: the least distance of each of the samples."""
    rows = pd.read_parquet(path.parent / card.records.file)
    nearest = rows[rows.attack == attack].groupby("id").distance.min().reindex(range(card.n), fill_value=0.0)
    radii = [ThreatModel.parse(norm, eps).scaled(factor).radius for factor in FACTORS]
    return [float((nearest > radius + 1e-6).mean()) for radius in radii]


@pytest.mark.parametrize(("norm", "eps", "dual"), [("linf", "0.008", 1), ("l2", "0.06", 2), ("l1", "0.3", torch.inf)])
def test_the_curve_of_a_linear_model(tmp_path: Path, linear: Any, norm: str, eps: str, dual: float) -> None:
    """Closed form: a sample stands at radius r where |margin| > r * dual norm; fmn comes within 2 % of that distance."""
    reference, points, net, x, y = linear
    attacks = [{"attack": "fmn", "on": "all", "parameters": {"beyond": True}}]
    card, path = evaluated(tmp_path, reference, attacks, dataset=points, norm=norm, eps=eps)
    logits = net(x)
    exact = (logits[:, 0] - logits[:, 1]).abs() / (net[1].weight[0] - net[1].weight[1]).norm(p=dual)
    exact[logits.argmax(1) != y] = 0
    curve = card.attacks[0].curve
    threat = ThreatModel.parse(norm, eps)
    assert [point.eps for point in curve] == [threat.scaled(factor).eps_text for factor in FACTORS]
    for point, factor in zip(curve, FACTORS, strict=True):
        radius = factor * threat.radius
        least, most = (int((distance > radius).sum()) for distance in (exact, 1.02 * exact))
        assert least <= round(point.robust_accuracy * 150) <= most
        assert point.interval == wilson(round(point.robust_accuracy * 150), 150)
    assert curve[0].robust_accuracy < card.clean_accuracy == 0.9
    assert all(wider.robust_accuracy <= point.robust_accuracy for point, wider in pairwise(curve))
    assert curve[3].robust_accuracy == card.attacks[0].robust_accuracy
    assert [point.robust_accuracy for point in curve] == pytest.approx(by_records(card, path, "fmn", norm, eps))


def test_the_curve_takes_the_best_of_the_restarts(tmp_path: Path, linear: Any) -> None:
    reference, points, *_ = linear
    parameters = {"beyond": True, "start": "random", "steps": 2}
    attacks = [{"attack": "fab", "on": "all", "restarts": 3, "samples": 100, "parameters": parameters}]
    card, path = evaluated(tmp_path, reference, attacks, dataset=points, norm="l2", eps="0.01")
    rows = pd.read_parquet(path.parent / card.records.file)
    runs = rows[rows.attack == "fab"].pivot_table(index="id", columns="run", values="distance")
    assert (runs.min(axis=1) < runs["restart 0"]).any()
    found = [point.robust_accuracy for point in card.attacks[0].curve]
    left = by_records(card, path, "fab", "l2", "0.01")
    assert [100 * share for share in found] == pytest.approx([150 * share for share in left])
    assert len(runs) < 100


def test_the_curve_where_earlier_attacks_have_been(tmp_path: Path, linear: Any) -> None:
    """What another attack broke is not run again: it has an example at eps, and none that is known to be nearer."""
    reference, points, *_ = linear
    attacks: list[dict[str, Any]] = [
        {"attack": "pgd", "samples": 60},
        {"attack": "fmn", "parameters": {"beyond": True}},
        {"attack": "fmn", "name": "alone", "on": "all", "parameters": {"beyond": True}},
    ]
    card, _ = evaluated(tmp_path, reference, attacks, dataset=points, norm="l2", eps="0.06")
    pgd, after, alone = card.attacks
    assert pgd.broken > 5
    assert after.attempted == alone.attempted - pgd.broken
    for first, other, factor in zip(after.curve, alone.curve, FACTORS, strict=True):
        assert (first.robust_accuracy == other.robust_accuracy) == (factor >= 1)
        assert first.robust_accuracy >= other.robust_accuracy
    assert after.curve[3].robust_accuracy == after.robust_accuracy
    assert pgd.curve == ()


def test_a_curve_in_linf_ends_with_the_box(tmp_path: Path, linear: Any) -> None:
    reference, points, *_ = linear
    attacks = [{"attack": "fmn", "on": "all", "parameters": {"beyond": True, "steps": 5}}]
    card, _ = evaluated(tmp_path, reference, attacks, dataset=points, eps="1/3")
    radii = [ThreatModel.parse("linf", point.eps).eps for point in card.attacks[0].curve]
    assert [12 * radius for radius in radii] == [1, 2, 3, 4, 5, 6, 8, 12]
    card, _ = evaluated(tmp_path, reference, attacks, dataset=points, eps="0")
    assert [(point.eps, point.robust_accuracy) for point in card.attacks[0].curve] == [("0", card.clean_accuracy)]


def test_a_sweep_has_a_curve_for_every_ball(tmp_path: Path, linear: Any) -> None:
    reference, points, *_ = linear
    attacks = [{"attack": "fmn", "on": "all", "parameters": {"beyond": True}}]
    card, _ = evaluated(tmp_path, reference, attacks, dataset=points, eps_sweep=("0.004", "0.008"))
    for point, attack in zip(card.curve, card.attacks, strict=True):
        assert attack.curve[3] == point


def test_an_optional_attack_that_refuses_the_model_is_a_note(tmp_path: Path, linear: Any) -> None:
    """Two classes leave one target, and no DLR; the attacks around them are carried out."""
    reference, points, *_ = linear
    refused: list[dict[str, Any]] = [
        {"attack": "fab", "on": "all", "parameters": {"targets": 9, "beyond": True}},
        {
            "attack": "pgd",
            "name": "dlr",
            "restarts": 2,
            "probe": 20,
            "grid": {"step": [0.1, 0.5]},
            "parameters": {"loss": "dlr"},
        },
        {"attack": "transfer", "parameters": {"sources": ["nowhere"]}},
    ]
    run = [{"attack": "fgsm", "on": "all"}, {"attack": "random_noise", "parameters": {"queries": 2}}]
    options = {"dataset": points, "eps": "0.008"}
    alone, _ = evaluated(tmp_path, reference, run, **options)
    for attack in refused:
        with pytest.raises(BadInput):
            evaluated(tmp_path, reference, [attack], **options)
    attacks = [run[0], *({**attack, "optional": True} for attack in refused), run[1]]
    card, _ = evaluated(tmp_path, reference, attacks, **options)
    assert card.robust_accuracy == alone.robust_accuracy
    for attack in card.attacks[1:4]:
        assert (attack.attempted, attack.broken, attack.restarts, attack.curve, attack.forwards) == (0, 0, (), (), 0)
        assert attack.notes[-1].startswith("left out: ")
    told = " ".join(card.notes)
    for message in ("a model of 2 classes has 1", "dlr needs at least 3 classes", "there is no 'nowhere'"):
        assert message in told
    first, last = card.attacks[0], card.attacks[-1]
    assert (first.broken, last.attempted) == (alone.attacks[0].broken, alone.attacks[1].attempted)
