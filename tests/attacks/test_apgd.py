"""Auto-PGD: its schedule, its targets, and the reference implementation at equal settings."""

import os
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from bench.attacks import apgd as module
from bench.attacks.apgd import windows
from bench.core.judge import Judge
from bench.core.losses import dlr_targeted, margin
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.data.datasets import load
from bench.errors import BadInput
from bench.models import build, resolve
from bench.plugins.registry import get_attack

DATA = load("digits", "test")
X, Y = DATA.batch(torch.arange(len(DATA)))


def ours(net: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, ids: Tensor | None = None, **parameters: object) -> Tensor:
    attack = get_attack("apgd")
    view = VIEWS["gradient"](net, Meter(len(x), x.device))
    rng = Rng(0, torch.arange(len(x)) if ids is None else ids)
    z: Tensor = attack.run(view, x, y, threat, rng, **attack.configure(parameters))
    return z


def standing(net: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    judge = Judge(net, threat)
    verdict = judge.verdict(z, x, y)
    assert verdict.legal.all()
    return judge.correct(x, y)[0] & ~verdict.fooled


@pytest.fixture(scope="module")
def digits(fast_run: Path) -> nn.Module:
    return resolve(str(fast_run), DATA.shape, 10).net


def test_progress_is_checked_where_the_paper_says() -> None:
    """T05: 22, 41, 57, 70, 80, 87, 93, 99 of 100."""
    assert windows(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert windows(1) == [1]
    assert windows(10)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_loss_never_falls_and_steps_only_halve(digits: nn.Module, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """T05, on samples that nobody fools, so that every step of every sample is seen."""
    best: list[Tensor] = []
    sizes: list[Tensor] = []
    advance = module._Halving.advance

    def watched(self: module._Halving, *found: object) -> None:
        advance(self, *found)  # type: ignore[arg-type]
        best.append(self.best_loss)
        sizes.append(self.size)

    monkeypatch.setattr(module._Halving, "advance", watched)
    threat = ThreatModel.parse(norm, "0.02")
    chosen = margin(digits(X), Y).argsort()[:20]
    z = ours(digits, threat, X[chosen], Y[chosen], chosen)
    assert len(best) == 100
    assert (torch.stack(best).diff(dim=0) >= 0).all()
    final = nn.functional.cross_entropy(digits(z), Y[chosen], reduction="none")
    assert (final >= best[-1] - 1e-5).all()
    assert (sizes[0] == 2 * threat.radius).all()
    for step, (before, after) in enumerate(pairwise(sizes), 1):
        if step in windows(100):
            assert ((after == before) | (after == before / 2)).all()
            assert (after < before).any()
        else:
            assert torch.equal(after, before)


def test_both_rules_halve_the_step() -> None:
    """A loss that stands still halves it at every check, one that rises at none.

    One that rises four steps in five to where it was before has gained often enough, but nothing: that halves it at every
    second check, from the second on.
    """
    climb = module._Halving(X[:3], Y[:3], None, module.LOSSES["ce"], 0.75)
    climb.begin(X[:3], ThreatModel.parse("linf", "0.1"), 100)
    halvings: list[list[int]] = [[], [], []]
    for step in range(100):
        before = climb.size
        climb.advance(step, torch.tensor([0.0, step, step % 5 - 4]), torch.ones_like(X[:3]), X[:3])
        for row in (climb.size < before).nonzero().squeeze(1).tolist():
            halvings[row].append(step)
    checks = windows(100)
    assert halvings == [checks, [], checks[1::2]]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.15"), ("l2", "0.8")])
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted"])
def test_it_is_the_reference_step_by_step(digits: nn.Module, norm: str, eps: str, loss: str) -> None:
    """From the same start in float64 the same samples fall, and the others end at the same points.

    All but a few: at a tie of two logits the gradient jumps, and there the last bit decides where a sample goes.
    """
    # A quarter of the logits: leads stay below 10, where our cross-entropy begins to differ from the plain one.
    net = nn.Sequential(deepcopy(digits).double(), nn.Linear(10, 10, bias=False).double()).requires_grad_(False)
    net[1].weight.copy_(torch.eye(10) / 4)
    ids = (net(X.double()).argmax(1) == Y).nonzero().squeeze(1)[:100]
    x, y, threat = X[ids].double(), Y[ids], ThreatModel.parse(norm, eps)
    settings = {"n_iter": 100, "norm": norm.capitalize(), "eps": threat.radius, "device": "cpu"}
    rng = Rng(0, ids)
    if loss == "targeted":
        z, rng = ours(net, threat, x, y, ids, targets=1), rng.at("target", 0)
        reference = APGDAttack_targeted(net, **settings)
        reference.y_target = net(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    else:
        z, reference = ours(net, threat, x, y, ids, loss=loss), APGDAttack(net, loss=loss, **settings)
    reference.init_hyperparam(x)
    best, robust, *_ = reference.attack_single_run(x, y, x_init=threat.project(module._start(x, threat, rng), x))
    robust = robust.bool()
    assert torch.equal(net(z).argmax(1) == y, robust)
    assert 40 < robust.sum() < 90
    same = (z - best).abs().flatten(1).amax(1)[robust] < 1e-6
    # A momentum of 0.76 instead of 0.75 leaves none of them.
    assert same.float().mean() > 0.9


def reference_l1(net: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, targets: int, **settings: object) -> Tensor:
    """Who stands after the reference; its candidates lie a few millionths outside the ball, which is let pass."""
    settings |= {"norm": "L1", "eps": threat.radius, "device": "cpu"}
    with isolated(0):
        attack = APGDAttack_targeted(net, n_target_classes=targets, **settings) if targets else APGDAttack(net, **settings)
        z: Tensor = attack.perturb(x, y)
    assert (threat.distance(z, x) <= threat.radius + 1e-5).all()
    return net(z).argmax(1) == y


def agree(left: Tensor, reached: Tensor) -> bool:
    """Whether two attacks leave as many standing, bool [seeds, N]: within half a point and three standard errors."""
    apart = (left != reached).sum()
    return bool((left.sum() - reached.sum()).abs() <= 0.005 * left.numel() + 3 * apart**0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("targets", "multi_eps"), [(0, False), (0, True), (2, False)])
def test_in_l1_it_breaks_as_many_as_the_reference(digits: nn.Module, targets: int, multi_eps: bool) -> None:
    threat, left, reached = ThreatModel.parse("l1", "1.5"), [], []
    for seed in range(4):
        z = ours(digits, threat, X, Y, DATA.ids + 1000 * seed, targets=targets, steps=30, multi_eps=multi_eps)
        left.append(standing(digits, threat, X, Y, z))
        reached.append(reference_l1(digits, threat, X, Y, targets, n_iter=30, use_largereps=multi_eps, seed=seed))
    assert agree(torch.stack(left), torch.stack(reached))
    assert 100 < left[0].sum() < 250


@pytest.mark.slow
def test_in_l1_it_breaks_as_many_as_the_reference_on_mnist() -> None:
    """A published network (Wong et al. 2020), 500 images, about as many of which stand as fall."""
    root = os.environ.get("GAUNTLET_DATA")
    weights = Path(root or "", "..", "models", "wong2020_mnist_fgsm.pth").resolve()
    if not root or not weights.exists():
        pytest.skip("GAUNTLET_DATA is not set, or ../models beside it has no published network")
    net = build("mnist_fast", (1, 28, 28), 10)
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)
    x, y = load("mnist", "test").batch(torch.arange(500))
    threat = ThreatModel.parse("l1", "10")
    left = standing(net, threat, x, y, ours(net, threat, x, y, steps=50, multi_eps=False))
    assert agree(left, reference_l1(net, threat, x, y, 0, n_iter=50))
    assert 150 < left.sum() < 350


@pytest.mark.parametrize("multi_eps", [True, False])
def test_in_l1_few_pixels_move_and_fewer_and_fewer(digits: nn.Module, monkeypatch: pytest.MonkeyPatch, multi_eps: bool) -> None:
    """A fifth at first in a single ball; in each of several two thirds of what the start has changed (the source, x_init)."""
    counts: list[Tensor] = []
    advance, begin = module._Sparse.advance, module._Sparse.begin
    begun: list[tuple[Tensor, Tensor]] = []

    def watched(self: module._Sparse, *found: object) -> None:
        before = self.z
        advance(self, *found)  # type: ignore[arg-type]
        counts.append(self.count)
        # The projection takes something off every pixel that had moved, so what a step moved shows where nothing had.
        assert (((self.z != self.x) & (before == self.x)).flatten(1).sum(1) <= self.count).all()
        assert (self.size <= self.threat.radius).all()
        assert (self.size >= self.threat.radius / 10).all()

    def opened(self: module._Sparse, *found: Any, alone: bool) -> None:
        begin(self, *found, alone=alone)
        begun.append((self.count, (found[0] != self.x).flatten(1).sum(1)))

    monkeypatch.setattr(module._Sparse, "advance", watched)
    monkeypatch.setattr(module._Sparse, "begin", opened)
    chosen = (digits(X).argmax(1) == Y).nonzero().squeeze(1)[:20]
    ours(digits, ThreatModel.parse("l1", "0.2"), X[chosen], Y[chosen], chosen, multi_eps=multi_eps)
    assert len(counts) == 100
    assert len(begun) == (3 if multi_eps else 1)
    for count, changed in begun:
        assert torch.equal(count, (changed / 1.5).ceil().long().clamp_min(1) if multi_eps else torch.full_like(count, 13))
    assert (counts[-1] < 7).all()


def test_larger_balls_are_for_l1() -> None:
    with pytest.raises(BadInput, match="multi_eps = True is for l1, and this threat model is linf"):
        ours(nn.Flatten(), ThreatModel.parse("linf", "0.1"), X[:2], Y[:2], multi_eps=True)


def test_more_targets_break_at_least_as_many(digits: nn.Module) -> None:
    threat = ThreatModel.parse("linf", "0.2")
    left = [
        standing(digits, threat, X, Y, ours(digits, threat, X, Y, targets=targets, steps=20)).sum() for targets in (1, 3, 9)
    ]
    assert left == sorted(left, reverse=True)


def test_the_targeted_ratio_is_blind_to_shift_and_scale() -> None:
    logits = Rng(0, torch.arange(8)).normal((5,))
    y, target = torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64)
    torch.testing.assert_close(dlr_targeted(7 * logits - 3, y, target), dlr_targeted(logits, y, target), atol=1e-5, rtol=1e-5)


DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def linear(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network, and 40 images of 16 pixels near the grey at which its classes meet: no boundary is beyond the box."""
    with isolated(classes):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).requires_grad_(False)
    net[1].bias.copy_(-net[1].weight.sum(1) / 2)
    x = 0.48 + 0.04 * Rng(0, torch.arange(40)).uniform((1, 4, 4))
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("classes", "loss"), [(2, None), (2, "margin"), (2, "ce"), (3, None), (5, None), (5, "margin")])
def test_targets_reach_every_class_in_reach(classes: int, loss: str | None, norm: str) -> None:
    """Closed form: class j is in reach of a linear network if its lead is below eps times the dual norm of the weights."""
    net, x, y = linear(classes)
    logits, weight = net(x), net[1].weight
    lead = logits.gather(1, y[:, None]) - logits
    slope = (weight - weight[y].unsqueeze(1)).norm(p=DUAL[norm], dim=2)
    nearest = (lead / slope).nan_to_num(torch.inf).amin(1)
    threat = ThreatModel.parse(norm, f"{nearest.median():.4f}")
    fooled = net(ours(net, threat, x, y, targets=classes, loss=loss)).argmax(1) != y
    clear = (nearest / threat.radius - 1).abs() > 0.02
    assert torch.equal(fooled[clear], (nearest < threat.radius)[clear])
    assert 15 < fooled.sum() < 25


def test_the_targeted_dlr_needs_four_classes() -> None:
    """T07: where it is asked for by name."""
    net, x, y = linear(3)
    with pytest.raises(BadInput, match="targeted dlr needs at least 4 classes, this model has 3; use ce or margin"):
        ours(net, ThreatModel.parse("linf", "0.1"), x, y, targets=2, loss="dlr")


def test_who_stands_keeps_the_candidate_nearest_to_any_target(digits: nn.Module) -> None:
    threat = ThreatModel.parse("linf", "0.1")
    margins = []
    for targets in (1, 2, 4):
        z = ours(digits, threat, X, Y, targets=targets, steps=20, loss="margin")
        logits = digits(z)
        margins.append(logits.scatter(1, Y[:, None], -torch.inf).amax(1) - logits.gather(1, Y[:, None]).squeeze(1))
    stands = margins[-1] < 0
    assert stands.sum() > 100
    for fewer, more in pairwise(margins):
        assert (more >= fewer - 1e-5)[stands].all()
        assert (more > fewer + 1e-3)[stands].any()
