"""Sweeps over eps, where each ball goes on from what the smaller ones broke; and randomised models, attacked on average."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from bench import Card, evaluate
from bench.cli.commands import main
from bench.core.expectation import DRAWS, Expectation, randomised
from bench.core.judge import Judge
from bench.core.losses import cross_entropy, margin
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Gradient, Meter
from bench.data.datasets import load
from bench.errors import BadInput
from bench.models import resolve
from bench.results.archive import read_tensors
from bench.statistics.proportions import wilson

RADII = ("0.05", "0.1", "0.15", "0.2")
N = 120


def attacked(reference: str, results: Path, **options: Any) -> tuple[Card, Path]:
    return evaluate(reference, dataset="digits", results=results, quiet=True, **options)


def timeless(card: Card) -> dict[str, Any]:
    content = card.model_dump(exclude={"seconds"})
    for entry in content["attacks"]:
        del entry["seconds"]
    return content


@pytest.fixture(scope="module")
def weights(fast_run: Path) -> str:
    return str(fast_run / "best.safetensors")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(weights: str, home: Path) -> tuple[Card, Path]:
    return attacked(weights, home, n=N, eps_sweep=RADII)


@pytest.mark.slow
def test_the_curve_falls_to_the_robust_accuracy_of_the_card(swept: tuple[Card, Path]) -> None:
    card, _ = swept
    assert [point.eps for point in card.curve] == list(RADII)
    heights = [card.clean_accuracy, *(point.robust_accuracy for point in card.curve)]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 5
    assert card.curve[-1].robust_accuracy == card.robust_accuracy
    assert card.threat.eps == "0.2"
    for point in card.curve:
        assert point.interval == wilson(round(point.robust_accuracy * N), N)


def test_every_example_lies_in_the_ball_that_its_sample_fell_in(weights: str, swept: tuple[Card, Path]) -> None:
    card, path = swept
    rows = pd.read_parquet(path.parent / card.records.file)
    tensors, about = read_tensors(path.parent / card.archive.file)
    x, y = load("digits", "test").first(N).batch(tensors["ids"])
    assert about["eps"] == "0.2"
    assert (resolve(weights, (1, 8, 8), 10).net(tensors["z"]).argmax(1) != y).all()
    names = ["fast at 0.05", "fast at 0.1", "fast at 0.15", "fast"]
    assert [result.name for result in card.attacks] == names
    place = {int(sample): row for row, sample in enumerate(tensors["ids"])}
    broken = set(rows[(rows.attack == "clean") & rows.broken].id)
    for name, eps, point in zip(names, RADII, card.curve, strict=True):
        mine = rows[rows.attack == name]
        # Who fell in a smaller ball is attacked no more.
        assert not broken & set(mine.id)
        fell = set(mine[mine.broken].id)
        assert fell
        which = torch.tensor([place[sample] for sample in fell])
        assert ThreatModel.parse("linf", eps).contains(tensors["z"][which], x[which]).all()
        broken |= fell
        assert point.robust_accuracy == pytest.approx(1 - len(broken) / N)
    assert len(place) == len(broken) - round(N * (1 - card.clean_accuracy))


def test_a_sweep_ends_no_higher_than_a_plain_evaluation(weights: str, swept: tuple[Card, Path], tmp_path: Path) -> None:
    plain, _ = attacked(weights, tmp_path, n=N, eps="0.2")
    assert plain.curve == ()
    assert swept[0].robust_accuracy <= plain.robust_accuracy + 2 / N


def test_the_order_and_repetition_of_radii_change_nothing(weights: str, home: Path, swept: tuple[Card, Path]) -> None:
    """It is the same evaluation, down to its folder."""
    assert attacked(weights, home, n=N, eps_sweep=("0.2", "1/20", "0.150", "0.1", "0.05", "0.2")) == swept


def test_a_sweep_of_one_radius_is_a_plain_evaluation(weights: str, tmp_path: Path) -> None:
    options = {"n": 20, "plan_name": "smoke"}
    assert attacked(weights, tmp_path, eps_sweep=("0.1", "1/10"), **options) == attacked(
        weights, tmp_path, eps="0.1", **options
    )


def test_a_sweep_from_zero_and_with_searched_steps(weights: str, tmp_path: Path) -> None:
    """In the ball of radius 0 nothing falls; grids, restarts and attacks on all samples keep what fell before."""
    plan = tmp_path / "p.toml"
    plan.write_text(
        '[[attacks]]\nattack = "pgd"\non = "all"\nrestarts = 2\nprobe = 20\nparameters = { steps = 5 }\n'
        'grid = { step = [0.25, 1.0] }\n\n[[attacks]]\nattack = "fgsm"\non = "all"\n'
    )
    card, path = attacked(weights, tmp_path / "r", n=60, eps_sweep=("0", "0.1", "0.2"), plan_name=str(plan))
    heights = [point.robust_accuracy for point in card.curve]
    assert heights[0] == card.clean_accuracy > heights[1] > heights[2] == card.robust_accuracy
    rows = pd.read_parquet(path.parent / card.records.file)
    fell = set(rows[rows.broken & (rows.attack == "pgd at 0.1")].id)
    assert not fell & set(rows[rows.attack.isin(["pgd", "fgsm"])].id)
    grids = [attack.grid for attack in card.attacks if attack.grid]
    # All three step curves are about the same 20 samples, of which none comes back.
    assert [grid.probe for grid in grids] == [20] * 3
    for smaller, larger in pairwise(grids):
        for point, wider in zip(smaller.points, larger.points, strict=True):
            assert point.robust_accuracy >= wider.robust_accuracy
    assert grids[0].points[0].robust_accuracy == 1 > grids[2].points[0].robust_accuracy
    # A single attack's accuracy, too, counts what fell in a smaller ball.
    assert card.attacks[-1].robust_accuracy <= 1 - len(fell) / 60


def test_eps_and_a_sweep_exclude_each_other(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match=r"both eps 0\.1 and a sweep over 0\.1, 0\.2 are given; leave one out"):
        attacked(weights, tmp_path, eps="0.1", eps_sweep=("0.1", "0.2"))
    arguments = ["gauntlet", "evaluate", weights, "--dataset", "digits", "--eps", "0.1", "--eps-sweep", "0.1, 0.2"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "leave one out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


NOISY = """
import torch
import torch.nn.functional as F
from torch import nn
from bench.models import resolve

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = resolve({weights!r}, (1, 8, 8), 10).net

    def forward(self, x):
        return self.net({input})

def net():
    return Noisy()
"""
GAUSSIAN, DROPOUT, SILENT = "x + 0.1 * torch.randn_like(x)", "F.dropout(x, 0.2, training=True)", "x"


def noisy(folder: Path, weights: str, source: str) -> str:
    (folder / "noisy.py").write_text(NOISY.format(weights=weights, input=source))
    return f"py:{folder}/noisy.py:net"


@pytest.mark.parametrize(("source", "eot", "told"), [(GAUSSIAN, 4, 4), (DROPOUT, 4, 4), (GAUSSIAN, 1, 1), (SILENT, 4, 1)])
def test_a_randomised_model_is_attacked_on_average_and_always_the_same(
    weights: str, tmp_path: Path, source: str, eot: int, told: int
) -> None:
    """Also with a single draw, the noise belongs to the seed; and nobody else's random numbers are touched."""
    model = noisy(tmp_path, weights, source)
    before = torch.random.get_rng_state()
    options = {"eps": "0.1", "n": 40, "plan_name": "smoke", "eot": eot}
    first, path = attacked(model, tmp_path / "first", **options)
    with isolated(7):
        again, _ = attacked(model, tmp_path / "again", **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.eot == told
    assert timeless(again) == timeless(first)
    assert first.robust_accuracy < first.clean_accuracy
    assert first.attacks[0].forwards >= told
    assert (first.search == "float32: it is randomised") == (source != SILENT)
    # Square's 200 queries are 200 answers, each the mean of so many draws.
    rows = pd.read_parquet(path.parent / first.records.file)
    square = rows[rows.attack == "square"]
    assert square.forwards.max() == 200 * told
    assert (square.forwards % told == 0).all()


@pytest.mark.slow
def test_the_portfolio_runs_on_a_randomised_model(weights: str, tmp_path: Path) -> None:
    """Also beyond the pilot: the budget is one of answers, whatever number of passes each takes."""
    card, path = attacked(noisy(tmp_path, weights, GAUSSIAN), tmp_path / "r", eps="0.2", n=120, eot=2)
    assert {round.stage for round in card.attacks[0].rounds} == {"opening", "pilot", "sweep", "closing"}
    assert not any(round.rough for round in card.attacks[0].rounds)
    tensors, _ = read_tensors(path.parent / card.archive.file)
    assert len(tensors["ids"]) == round((card.clean_accuracy - card.robust_accuracy) * 120) > 0


def test_twenty_draws_unless_told(weights: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[[attacks]]\nattack = "fgsm"\n')
    options = {"eps": "0.1", "n": 10, "plan_name": f"{tmp_path}/p.toml", "results": tmp_path / "r"}
    card, _ = attacked(noisy(tmp_path, weights, DROPOUT), **options)
    assert card.eot == DRAWS == 20
    assert card.attacks[0].backwards == 20
    plain, _ = attacked(weights, **options)
    assert (plain.eot, plain.attacks[0].backwards) == (1, 1)
    with pytest.raises(BadInput, match="eot 0: an expectation needs at least one answer"):
        attacked(weights, **options, eot=0)


class Jitter(nn.Module):
    """A linear network whose weights are drawn anew for every image, around their mean."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.weight = Rng(3, torch.arange(1)).normal((2, 16))[0]
        self.spread = spread
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        weight = self.weight + self.spread * torch.randn(len(x), 2, 16)
        return torch.einsum("nkd,nd->nk", weight, x.flatten(1))


@pytest.mark.parametrize("draws", [16, 256])
def test_the_averaged_gradient_approaches_that_of_the_mean(draws: int) -> None:
    """The mean network's margin has the gradient w_other - w_true; the errors are normal with variance 2 spread^2 / draws."""
    spread, net = 0.5, Jitter(0.5)
    x, y = Rng(0, torch.arange(40)).uniform((1, 4, 4)), torch.arange(40) % 2
    view = Gradient(Expectation(net, draws), Meter(40, x.device, passes=draws))
    with isolated(0):
        ascent = view.grad(x, margin, y)
    exact = (net.weight[1 - y] - net.weight[y]).view_as(x)
    deviation = (ascent.grad - exact).square().sum().item() * draws / (2 * spread**2)
    low, high = chi2.ppf([1e-6, 1 - 1e-6], x.numel())
    assert low < deviation < high
    torch.testing.assert_close(ascent.loss, margin(ascent.logits, y))


@pytest.mark.parametrize("draws", [1, 3, 20])
def test_every_draw_is_counted(draws: int) -> None:
    net, x, y = Jitter(0.1), torch.rand(16, 1, 4, 4), torch.zeros(16, dtype=torch.int64)
    for access, calls in (("decision", ("labels",)), ("score", ("labels", "logits")), ("gradient", ("logits", "grad"))):
        meter = Meter(16, x.device, passes=draws)
        view = VIEWS[access](Expectation(net, draws), meter)
        net.calls = 0
        for call in calls:
            _ = view.grad(x, cross_entropy, y) if call == "grad" else getattr(view, call)(x)
        assert net.calls == len(calls) * draws
        assert (meter.forwards == net.calls).all()
        assert (meter.backwards == draws * ("grad" in calls)).all()
        _ = view[torch.arange(4)].labels(x[:4])
        assert meter.forwards.tolist() == [(len(calls) + 1) * draws] * 4 + [len(calls) * draws] * 12


@pytest.mark.parametrize(
    ("spread", "told"), [(0.0, False), (1e-7, False), (1e-2, True), (1.0, True)], ids=["none", "rounding", "some", "much"]
)
def test_rounding_does_not_make_a_model_randomised(spread: float, told: bool) -> None:
    before = torch.random.get_rng_state()
    assert randomised(Jitter(spread), torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 0) is told
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fresh_draws_judge_by_majority() -> None:
    """Wrong in two draws of five is right; the mean margin may say otherwise."""

    class Coin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wrong = torch.rand(len(x)) < x[:, 0, 0, 0]
            return torch.stack([torch.zeros(len(x)), torch.where(wrong, 100.0, -1.0)], 1)

    x = torch.tensor([0.0, 0.2, 0.8, 1.0]).repeat_interleave(500).view(-1, 1, 1, 1)
    y = torch.zeros(2000, dtype=torch.int64)
    judge = Judge(Coin(), ThreatModel.parse("linf", "0.1"), 5, 3)
    correct, lead = judge.correct(x, y)
    # The chance of at most two wrong draws out of five.
    for chance, rate in zip((1.0, 0.94208, 0.05792, 0.0), correct.view(4, 500).double().mean(1).tolist(), strict=True):
        assert abs(rate - chance) <= 5 * (chance * (1 - chance) / 500) ** 0.5
    assert (lead[500:1000][correct[500:1000]] > 0).any()
    again, _ = judge.correct(x, y)
    assert torch.equal(again, correct)
