"""The minimum-norm attacks: exact geometry, closed forms on linear models, agreement with each other and with the reference."""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_pt import FABAttack_PT
from scipy.optimize import linprog
from torch import Tensor, nn

from bench.attacks.fmn import _onto_ball
from bench.core.hyperplane import smallest_move
from bench.core.judge import Judge
from bench.core.rng import Rng, isolated
from bench.core.threat import Norm, ThreatModel
from bench.core.views import VIEWS, Meter
from bench.data.datasets import load
from bench.errors import BadInput
from bench.models import resolve
from bench.plugins.registry import get_attack

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
ATTACKS = [*[(name, norm) for name in ("fab", "fmn") for norm in NORMS], ("ddn", "l2"), ("cw", "l2")]
QUICK: Mapping[str, dict[str, Any]] = {
    "fab": {"steps": 10},
    "fmn": {"steps": 30},
    "ddn": {"steps": 50},
    "cw": {"searches": 5, "steps": 30, "rate": 0.1},
}
EPS = {"linf": "0.15", "l2": "0.6", "l1": "1.2"}
every_attack = pytest.mark.parametrize(("name", "norm"), ATTACKS)


class Found(NamedTuple):
    """What a run returned, how far that is, and whether it is misclassified."""

    z: Tensor
    distance: Tensor
    wrong: Tensor
    meter: Meter

    @property
    def radius(self) -> Tensor:
        """The smallest eps at which the sample falls, infinite where nothing was found."""
        return torch.where(self.wrong, self.distance, torch.inf)


def attacked(net: nn.Module, x: Tensor, y: Tensor, name: str, threat: ThreatModel, seed: int = 0, **parameters: Any) -> Found:
    attack, meter = get_attack(name), Meter(len(x), x.device)
    rng = Rng(seed, torch.arange(len(x)))
    z = attack.run(VIEWS[attack.access](net, meter), x, y, threat, rng, **attack.configure(parameters))
    with torch.no_grad():
        return Found(z, threat.distance(z.double(), x.double()), net(z).argmax(1) != y, meter)


@pytest.fixture(scope="module")
def digits(fast_run: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network and 120 test images that it classifies correctly."""
    data = load("digits", "test")
    net = resolve(str(fast_run), data.shape, data.classes).net
    x, y = data.batch(torch.arange(len(data)))
    right = (net(x).argmax(1) == y).nonzero().squeeze(1)[:120]
    return net, x[right], y[right]


# The move onto a hyperplane


@st.composite
def moves(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """A point of the box, a normal and a gain; pixels at the edges and zeros in the normal are common, as in images."""
    size = draw(st.integers(1, 6))
    pixel = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
    weight = st.one_of(st.just(0.0), st.floats(-3, 3).filter(lambda w: abs(w) > 1e-3))
    point, normal = (draw(st.lists(part, min_size=size, max_size=size)) for part in (pixel, weight))
    gain = draw(st.floats(-4, 4).filter(lambda g: abs(g) > 1e-3)) * 10 ** draw(st.integers(-2, 0))
    return (*(torch.tensor(part, dtype=torch.float64).view(1, 1, 1, -1) for part in (point, normal)), torch.tensor([gain]))


def least(norm: Norm, normal: np.ndarray, gain: float, bounds: np.ndarray, move: np.ndarray) -> tuple[float, float]:
    """What this move costs and the least that any could, by a linear program.

    In l2 the move d is the nearest one exactly if d.v >= d.d for every v allowed: projections onto convex sets are that.
    """
    size, box = len(move), [tuple(pair) for pair in bounds]
    eye, ones = np.eye(size), np.ones((size, 1))
    if norm == "l2":
        best = linprog(move, A_eq=normal[None], b_eq=[gain], bounds=box)
        return float(move @ move), float(best.fun)
    column = ones if norm == "linf" else eye
    budget = np.block([[eye, -column], [-eye, -column]])
    cost = np.r_[np.zeros(size), np.ones(column.shape[1])]
    allowed = [*box, *[(0, None)] * column.shape[1]]
    weights = np.r_[normal, np.zeros(column.shape[1])][None]
    best = linprog(cost, A_ub=budget, b_ub=np.zeros(2 * size), A_eq=weights, b_eq=[gain], bounds=allowed)
    return float(np.abs(move).max() if norm == "linf" else np.abs(move).sum()), float(best.fun)


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=80)
@given(case=moves())
def test_the_move_is_the_smallest_of_all_in_the_box(norm: Norm, case: tuple[Tensor, Tensor, Tensor]) -> None:
    point, normal, gain = case
    move = smallest_move(point, normal, gain.double(), norm)
    assert (point + move).min() >= -1e-12
    assert (point + move).max() <= 1 + 1e-12
    x, w, d = (part.flatten().numpy() for part in (point, normal, move))
    room = np.where(w * gain.item() > 0, 1 - x, x)
    reachable = min(abs(gain.item()), float(np.abs(w) @ room))
    assert w @ d * np.sign(gain.item()) == pytest.approx(reachable, abs=1e-9)
    cost, minimum = least(norm, w, float(w @ d), np.stack([-x - 1e-12, 1 - x + 1e-12], 1), d)
    assert cost == pytest.approx(minimum, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_move_is_exact_in_float32_on_whole_images(norm: Norm, scale: float) -> None:
    """Half of the pixels at the edges, a third of the weights 0, loud and quiet gradients."""
    noise = Rng(0, torch.arange(50))
    x = (2 * noise.at("x").uniform((3, 16, 16)) - 0.5).clamp(0, 1)
    w = noise.at("w").normal(x.shape[1:]) * (noise.at("zero").uniform(x.shape[1:]) > 1 / 3) * scale
    goal = noise.at("goal").uniform(x.shape[1:])
    gain = (w * (goal - x)).flatten(1).sum(1)
    moved = x + smallest_move(x, w, gain, norm)
    short = (w.double() * (goal - moved).double()).flatten(1).sum(1) / w.double().flatten(1).norm(dim=1)
    assert short.abs().max() < 1e-5
    assert ((moved >= -1e-6) & (moved <= 1 + 1e-6)).all()
    threat = ThreatModel.parse(norm, "1")
    assert (threat.distance(moved, x) <= threat.distance(goal, x)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_box_forbids_the_gain_the_move_ends_in_its_corner(norm: Norm) -> None:
    x, w = torch.tensor([0.25, 0.5, 1.0, 0.0]).view(1, 1, 2, 2), torch.tensor([1.0, -2.0, 3.0, 0.0]).view(1, 1, 2, 2)
    for gain, corner in ((100.0, [1.0, 0.0, 1.0, 0.0]), (-100.0, [0.0, 1.0, 0.0, 0.0]), (0.0, x.flatten().tolist())):
        moved = x + smallest_move(x, w, torch.tensor([gain]), norm)
        assert moved.flatten().tolist() == corner
    assert not smallest_move(x, torch.zeros_like(w), torch.ones(1), norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_balls_of_several_radii_project_as_the_threat_model_does(norm: Norm) -> None:
    radii = {"linf": ["0.05", "0.2", "0.6"], "l2": ["0.3", "1", "5"], "l1": ["0.5", "3", "40"]}[norm]
    delta = Rng(1, torch.arange(3)).uniform((3, 5, 5)) - 0.5
    x = torch.full_like(delta, 0.5)
    together = x + _onto_ball(delta, torch.tensor([float(radius) for radius in radii]), norm)
    alone = torch.cat([ThreatModel.parse(norm, r).project((x + delta)[i : i + 1], x[i : i + 1]) for i, r in enumerate(radii)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert not torch.equal(together[0], x[0] + delta[0])
    torch.testing.assert_close(together[2], x[2] + delta[2])


# Closed forms


def linear(classes: int, rivals: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model whose first `rivals` classes compete, mid-grey images, labels, and all differences of weights."""
    noise = Rng(classes, torch.arange(24))
    weight = Rng(7, torch.arange(classes)).normal((16,))
    weight[rivals:] = weight[:rivals].mean(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).requires_grad_(False)
    x = 0.4 + 0.2 * noise.uniform((1, 4, 4))
    net[1].weight.copy_(weight)
    net[1].bias.copy_(-(x.flatten(1) @ weight.T).median(0).values)
    net[1].bias[rivals:] -= 5
    y = net(x).argmax(1)
    return net, x, y, weight - weight[y].unsqueeze(1)


def analytic(net: nn.Module, x: Tensor, y: Tensor, differences: Tensor, norm: Norm) -> Tensor:
    """The distance to the nearest boundary, [N], as long as the box does not come first: the least |m_j| / ||w_j - w_y||."""
    logits = net.double()(x.double())
    leads = logits - logits.gather(1, y[:, None])
    net.float()
    steep = differences.double().norm(DUAL[norm], dim=2)
    return (leads.abs() / steep).scatter(1, y[:, None], torch.inf).amin(1)


@every_attack
@pytest.mark.parametrize("classes", [2, 10])
def test_distances_on_a_linear_model_are_the_analytic_ones(classes: int, name: str, norm: Norm) -> None:
    """T09: two classes compete, so that every loss has the same direction."""
    net, x, y, differences = linear(classes, 2)
    exact = analytic(net, x, y, differences, norm)
    clear = exact < 0.39
    assert clear.sum() >= 16, "the images lie 0.4 from the edges of the box, which the closed form leaves out"
    settings = {"fab": {}, "fmn": {}, "ddn": {"steps": 300}, "cw": {"steps": 300}}[name]
    found = attacked(net, x, y, name, ThreatModel.parse(norm, "0.01"), beyond=True, **settings)
    assert found.wrong.all()
    assert (found.distance >= exact - 1e-6)[clear].all()
    assert (found.distance <= (1.01 if name == "fab" else 1.02) * exact)[clear].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 4])
def test_fab_finds_the_nearest_of_several_boundaries(norm: Norm, targets: int) -> None:
    net, x, y, differences = linear(5, 5)
    exact = analytic(net, x, y, differences, norm)
    clear = exact < 0.39
    assert clear.sum() >= 16
    found = attacked(net, x, y, "fab", ThreatModel.parse(norm, "0.01"), beyond=True, targets=targets)
    assert found.wrong.all()
    assert (found.distance >= exact - 1e-6)[clear].all()
    assert (found.distance <= 1.01 * exact)[clear].all()


# What all four owe


@every_attack
def test_a_run_beyond_the_ball_tells_who_falls_at_every_eps(digits: Any, name: str, norm: Norm) -> None:
    """The same iterates: whoever has an adversarial example in the ball is fooled by the run that stops there."""
    net, x, y = digits
    x, y = x[:60], y[:60]
    far = attacked(net, x, y, name, ThreatModel.parse(norm, 0), beyond=True, **QUICK[name])
    assert (far.meter.forwards == far.meter.forwards[0]).all()
    assert far.wrong.sum() > 40
    assert torch.equal(far.z[~far.wrong], x[~far.wrong])
    for eps in (EPS[norm], str(float(EPS[norm]) / 2)):
        threat = ThreatModel.parse(norm, eps)
        near = attacked(net, x, y, name, threat, **QUICK[name])
        falls = far.radius <= threat.radius
        assert 0 < falls.sum() < 60
        assert threat.contains(near.z, x).all()
        assert near.wrong[falls].all()
        assert (near.meter.forwards[falls] < far.meter.forwards[0]).any()
        assert (near.meter.forwards <= far.meter.forwards).all()


@every_attack
def test_beyond_the_ball_too_a_sample_does_not_see_its_batch(digits: Any, name: str, norm: Norm) -> None:
    net, x, y = digits
    options = {**QUICK[name], **({"targets": 3, "start": "random"} if name == "fab" else {}), "beyond": True}
    threat = ThreatModel.parse(norm, EPS[norm])
    whole = attacked(net, x[:30], y[:30], name, threat, **options)
    part = attacked(net, x[:7], y[:7], name, threat, **options)
    assert torch.equal(part.z, whole.z[:7])


@every_attack
def test_what_is_misclassified_already_has_distance_zero(digits: Any, name: str, norm: Norm) -> None:
    net, x, y = digits
    for beyond in (False, True):
        found = attacked(net, x[:20], (y[:20] + 1) % 10, name, ThreatModel.parse(norm, "0.1"), beyond=beyond, **QUICK[name])
        assert found.wrong.all()
        # The coordinates of Carlini & Wagner end just inside the box.
        assert found.distance.max() <= (1e-4 if name == "cw" else 0)


@every_attack
def test_more_work_never_means_larger_distances(digits: Any, name: str, norm: Norm) -> None:
    """Sample by sample where a longer run begins with the shorter one; else the schedule differs, and the mean counts."""
    net, x, y = digits
    x, y = x[:40], y[:40]
    budgets: list[dict[str, int]] = {
        "fab": [{"steps": steps} for steps in (2, 6, 20)],
        "cw": [{"searches": searches, "steps": 30} for searches in (3, 6, 9)],
    }.get(name, [{"steps": steps} for steps in (5, 20, 100)])
    threat = ThreatModel.parse(norm, "0.1")
    runs = [attacked(net, x, y, name, threat, beyond=True, **budget).radius for budget in budgets]
    if name in ("fmn", "ddn"):
        whole = threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
        runs = [torch.minimum(run, whole).mean() for run in runs]
    assert all((more <= less).all() for less, more in pairwise(runs))
    assert (runs[-1] < runs[0]).any()


def test_the_attacks_agree_on_a_trained_network(digits: Any) -> None:
    """DDN and FMN within a few percent; FAB with a run for every class, the closest of nine, is no farther than either."""
    net, x, y = digits
    threat = ThreatModel.parse("l2", "0.1")
    settings = {"ddn": {"steps": 100}, "fmn": {"steps": 100}, "fab": {"steps": 20, "targets": 9}}
    found = {name: attacked(net, x, y, name, threat, beyond=True, **given).radius.mean() for name, given in settings.items()}
    assert 0.95 < found["ddn"] / found["fmn"] < 1.05
    assert 0.9 * found["ddn"] < found["fab"] < min(found["ddn"], found["fmn"])


# One by one


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beyond", [False, True])
def test_fab_of_two_classes_needs_no_target(norm: Norm, beyond: bool) -> None:
    with isolated(0):
        net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)).requires_grad_(False)
    x = Rng(3, torch.arange(20)).uniform((1, 6, 6))
    net[3].bias -= net(x).median(0).values
    y = net(x).argmax(1)
    runs = [
        attacked(net, x, y, "fab", ThreatModel.parse(norm, "0.01"), beyond=beyond, steps=20, targets=targets)
        for targets in (0, 1)
    ]
    assert torch.equal(runs[0].z, runs[1].z)
    assert (runs[0].meter.forwards == runs[1].meter.forwards).all()


def test_fab_counts_a_pass_for_each_class_it_looks_at(digits: Any) -> None:
    net, x, y = digits
    for classes, looked in ((3, 3), (10, 9), (100, 9)):
        spent = attacked(net, x[:5], y[:5], "fab", ThreatModel.parse("l2", 0), beyond=True, steps=4, classes=classes).meter
        assert (spent.backwards == 4 * looked).all()
        assert (spent.forwards == 1 + 4 * (looked + 1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_of_fab_differ_and_stay_legal(digits: Any, norm: Norm) -> None:
    net, x, y = (part if isinstance(part, nn.Module) else part[:30] for part in digits)
    threat = ThreatModel.parse(norm, EPS[norm])
    for start in ("clean", "random"):
        runs = [attacked(net, x, y, "fab", threat, seed=seed, start=start, steps=5) for seed in (0, 1)]
        assert torch.equal(runs[0].z, runs[1].z) == (start == "clean")
        assert all(threat.contains(run.z, x).all() for run in runs)


def test_fab_wants_fewer_targets_than_classes(digits: Any) -> None:
    with pytest.raises(BadInput, match="targets = 10: a model of 10 classes has 9"):
        attacked(*digits, "fab", ThreatModel.parse("l2", "0.1"), targets=10)


def test_ddn_in_grey_levels_returns_images_that_a_file_can_hold(digits: Any) -> None:
    net, x, y = digits
    found = attacked(net, x, y, "ddn", ThreatModel.parse("l2", "0.1"), beyond=True, levels=256)
    assert found.wrong.all()
    stored = (found.z * 255).round().to(torch.uint8)
    assert (net(stored.float() / 255).argmax(1) != y).all()
    torch.testing.assert_close(stored.float() / 255, found.z, atol=1e-7, rtol=0)


class Shell(nn.Module):
    """Two classes told apart by the distance from mid-grey of an image cut to 16 grey levels: the gradient is 0 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        score = 0.3 - (torch.floor(x * 16) / 16 - 0.45).flatten(1).norm(dim=1)
        return torch.stack([score, -score], 1) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_ddn_walks_at_random_where_there_is_no_gradient() -> None:
    net, x = Shell(), 0.45 + 0.1 * Rng(0, torch.arange(20)).uniform((1, 4, 4))
    y, threat = torch.zeros(20, dtype=torch.int64), ThreatModel.parse("l2", "0.1")
    assert (net(x).argmax(1) == y).all()
    runs = [attacked(net, x, y, "ddn", threat, seed=seed, beyond=True) for seed in (0, 1)]
    assert all(run.wrong.all() for run in runs)
    assert not torch.equal(runs[0].z, runs[1].z)
    assert not attacked(net, x, y, "fmn", threat, beyond=True).wrong.any()


# The reference


@pytest.fixture(scope="module")
def mnist() -> tuple[nn.Module, Tensor, Tensor]:
    """The published network of Wong et al. (2020) and 500 test images."""
    root = os.environ.get("GAUNTLET_DATA")
    weights = Path(root or "", "..", "models", "wong2020_mnist_fgsm.pth").resolve()
    if not root or not weights.exists():
        pytest.skip("GAUNTLET_DATA is not set, or ../models beside it has no published network")
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False), *load("mnist", "test").first(500).batch(torch.arange(500))


def compare(net: nn.Module, x: Tensor, y: Tensor, norm: Norm, eps: str, targets: int, steps: int) -> None:
    """Robust accuracy from the distances of one run within half a point of the reference, which runs at this eps."""
    threat = ThreatModel.parse(norm, eps)
    judge, name = Judge(net, threat), {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
    options = {"n_restarts": 1, "n_iter": steps, "eps": threat.radius, "targeted": targets > 0, "device": "cpu"}
    with isolated(0):
        theirs = FABAttack_PT(net, norm=name, n_target_classes=targets or 9, **options).perturb(x, y)
    right = judge.correct(x, y)[0]
    reached = right & ~judge.verdict(theirs, x, y).fooled
    ours = attacked(net, x, y, "fab", threat, beyond=True, targets=targets, steps=steps)
    left = right & ~(ours.radius <= threat.radius)
    assert abs(int(left.sum()) - int(reached.sum())) <= 0.005 * len(x)
    assert 0.1 * len(x) < left.sum() < 0.9 * right.sum()


@pytest.mark.slow
def test_fab_t_breaks_as_many_as_the_reference_on_mnist(mnist: Any) -> None:
    compare(*mnist, "linf", "0.36", targets=9, steps=5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 9])
def test_fab_breaks_as_many_as_the_reference_on_digits(digits: Any, norm: Norm, targets: int) -> None:
    compare(*digits, norm, {"linf": "0.18", "l2": "0.7", "l1": "1.4"}[norm], targets=targets, steps=10)
