"""PGD's losses, starts, decays and momentum against their definitions; leaving cycles costs nothing but passes; Live."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.iterates import Live
from bench.core.losses import LOSSES, margin, probability_margin
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Gradient, Meter
from bench.data.datasets import load
from bench.models import resolve
from bench.plugins.registry import get_attack

EPS = {"linf": "0.2", "l2": "0.6", "l1": "3"}
NORMS = ("linf", "l2", "l1")


class Recorder(nn.Module):
    """Keeps every batch it was shown."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.net(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def digits(fast_run: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that stands on some images and falls on others."""
    data = load("digits", "test").first(96)
    return resolve(str(fast_run / "best.safetensors"), data.shape, 10).net, *data.batch(torch.arange(96))


def small(x: Tensor, classes: int = 5) -> nn.Module:
    with isolated(classes, "network"):
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(8 * x[0].numel(), classes))
    net[-1].bias.data -= net(x).mean(0)
    return net.eval().requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    """In the middle of the box, which then plays no part in small balls."""
    return 0.4 + 0.2 * Rng(0, torch.arange(16)).uniform((1, 6, 6))


def attacked(
    name: str, net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, known: Tensor | None = None, **parameters: Any
) -> tuple[Tensor, Meter]:
    attack, meter = get_attack(name), Meter(len(x), x.device)
    view = VIEWS[attack.access](net, meter, known)
    z = attack.run(view, x, y, threat, Rng(0, torch.arange(len(x))), **attack.configure(parameters))
    assert threat.contains(z, x).all()
    return z, meter


@pytest.mark.parametrize(("norm", "step"), [*itertools.product(NORMS, (0.1, 0.5, 1.0, 2.0))])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_cycles_change_the_cost_and_nothing_else(digits: Any, norm: str, step: float, loss: str) -> None:
    """T13: bit for bit the same candidates, and never more passes."""
    net, x, y = digits
    threat = ThreatModel.parse(norm, EPS[norm])
    options = {"steps": 60, "step": step, "loss": loss}
    plain, cost = attacked("pgd", net, x, y, threat, cycles=False, **options)
    found, less = attacked("pgd", net, x, y, threat, cycles=True, **options)
    assert torch.equal(found, plain)
    assert (less.forwards <= cost.forwards).all()
    standing = net(plain).argmax(1) == y
    assert standing.any()
    assert (cost.forwards[standing] == 61).all()
    if norm == "linf" and step >= 0.5:
        # Steps of a constant length between the faces of a cube: some samples soon go round in circles.
        assert (less.forwards < cost.forwards)[standing].any()


def test_a_cycle_is_left_as_soon_as_it_must_be(images: Tensor) -> None:
    """On a linear network the first long step ends in a corner and stays: Brent's anchor is there after two more."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    y = net(images).argmax(1)
    net[1].bias.data += 100 * torch.where(torch.arange(2) == y[0], 1.0, 0.0)
    rows = y == y[0]
    threat = ThreatModel.parse("linf", "0.1")
    _, meter = attacked("pgd", net, images[rows], y[rows], threat, steps=1000, step=2.0, loss="margin")
    assert (meter.forwards <= 4).all()


@pytest.mark.parametrize("extra", [{"decay": "cosine"}, {"decay": "halving"}, {"momentum": 1.0}])
def test_where_iterates_may_repeat_without_a_cycle_none_is_looked_for(digits: Any, extra: dict[str, Any]) -> None:
    net, x, y = digits
    threat = ThreatModel.parse("linf", EPS["linf"])
    with_, without = (
        attacked("pgd", net, x, y, threat, steps=20, step=2.0, cycles=cycles, **extra) for cycles in (True, False)
    )
    assert torch.equal(with_[0], without[0])
    assert torch.equal(with_[1].forwards, without[1].forwards)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_gradient_of_the_probability_margin(classes: int) -> None:
    """T15: p_y grad CE_y - p_m grad CE_m, m the best wrong class: d p_k = p_k d log p_k and CE_k = -log p_k."""
    logits = Rng(classes, torch.arange(64)).normal((classes,)).double().mul(2)
    y = torch.arange(64) % classes
    wrong = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    p = logits.softmax(1)
    one = torch.eye(classes, dtype=torch.float64)
    # The gradient of CE_k in the logits is p - e_k.
    expected = p.gather(1, y[:, None]) * (p - one[y]) - p.gather(1, wrong[:, None]) * (p - one[wrong])
    logits.requires_grad_()
    value = probability_margin(logits, y)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(grad, expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(value.detach(), (p.gather(1, wrong[:, None]) - p.gather(1, y[:, None])).squeeze(1))
    single = probability_margin(logits.float(), y)
    (rounded,) = torch.autograd.grad(single.sum(), logits)
    torch.testing.assert_close(rounded, expected, atol=1e-5, rtol=0)
    assert torch.equal(value > 0, margin(logits, y) > 0)


@pytest.mark.parametrize("loss", ["ce", "pm"])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
def test_confidence_does_not_take_the_gradient_away(loss: str, scale: float) -> None:
    """A sample that leads by more than 10 is seen as leading by 10: the direction is that of the scaled logits."""
    y, logits = torch.zeros(8, dtype=torch.int64), Rng(0, torch.arange(8)).normal((5,)) + 20 * torch.eye(5)[0]

    def direction(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad(LOSSES[loss](at, y).sum(), at)
        assert (grad.abs().amax(1) > 0).all()
        return grad / grad.norm(dim=1, keepdim=True)

    torch.testing.assert_close(direction(scale * logits), direction(logits), atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_corner_start_is_on_the_far_points_of_the_ball(images: Tensor, norm: str) -> None:
    threat = ThreatModel.parse(norm, {"linf": "0.1", "l2": "0.5", "l1": "0.5"}[norm])
    net = Recorder(small(images))
    attacked("pgd", net, images, net.net(images).argmax(1), threat, steps=1, start="corner")
    delta = net.seen[0] - images
    torch.testing.assert_close(threat.distance(net.seen[0], images), torch.full((16,), threat.radius), atol=3e-6, rtol=0)
    if norm == "linf":
        torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1), atol=1e-6, rtol=0)
        # Every corner alike: signs are fair coins, within five standard deviations.
        assert abs((delta > 0).double().mean() - 0.5) < 5 * 0.5 / delta.numel() ** 0.5
    else:
        # Not a single pixel, and no two samples alike.
        assert (delta.flatten(1).abs().amax(1) < 0.9 * threat.radius).all()
    assert len(delta.flatten(1).unique(dim=0)) == 16


@pytest.mark.parametrize("norm", NORMS)
def test_the_corner_start_stays_in_the_box(norm: str) -> None:
    x = Rng(0, torch.arange(16)).uniform((1, 6, 6)).round()
    threat = ThreatModel.parse(norm, EPS[norm])
    net = Recorder(small(x))
    attacked("pgd", net, x, net.net(x).argmax(1), threat, steps=1, start="corner")
    start = net.seen[0]
    assert ((start >= 0) & (start <= 1)).all()
    assert threat.contains(start, x).all()
    if norm == "linf":
        # At a wall a pixel either stays or goes all the way.
        length = (start - x).abs()
        assert ((length < 1e-6) | ((length - threat.radius).abs() < 1e-6)).all()


@pytest.mark.parametrize(("name", "parameters"), [("pgd", {"steps": 3}), ("square", {"queries": 5, "first": 500})])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_known_start_is_the_closest_candidate_so_far(
    images: Tensor, name: str, parameters: dict[str, Any], norm: str
) -> None:
    threat = ThreatModel.parse(norm, "0.05")
    known = threat.random_start(images, Rng(9, torch.arange(16)))
    net = Recorder(small(images))
    y = net.net(images).argmax(1)
    attacked(name, net, images, y, threat, known, start="known", **parameters)
    assert torch.equal(net.seen[0], known)
    net.seen.clear()
    attacked(name, net, images, y, threat, None, start="known", **parameters)
    assert torch.equal(net.seen[0], images)
    before = known.clone()
    found, _ = attacked("pgd", net, images, y, threat, known, start="known", steps=1, step=1e-9)
    assert torch.equal(known, before)
    # Never worse than where it began.
    assert (margin(net.net(found), y) >= margin(net.net(known), y) - 1e-6).all()


def test_the_known_candidates_follow_their_samples(images: Tensor) -> None:
    known = images + 0.01
    view = Gradient(small(images), Meter(16, images.device), known)
    kept = torch.tensor([14, 3, 8])
    assert torch.equal(view[kept].known(images[kept]), known[kept])
    mask = torch.arange(3) != 1
    assert torch.equal(view[kept][mask].known(images[kept][mask]), known[kept][mask])
    own = Gradient(small(images), Meter(16, images.device)).known(images)
    assert torch.equal(own, images)
    assert own.data_ptr() != images.data_ptr()


def test_the_clean_start_is_the_image(images: Tensor) -> None:
    net, threat = Recorder(small(images)), ThreatModel.parse("linf", "0.05")
    attacked("pgd", net, images, net.net(images).argmax(1), threat, steps=2, start="clean")
    assert torch.equal(net.seen[0], images)
    assert not torch.equal(net.seen[1], images)


def _ahead(images: Tensor, lead: float) -> tuple[nn.Module, Tensor]:
    """A linear network of two classes that class 0 leads by far."""
    with isolated(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).requires_grad_(False)
    net[1].bias += torch.tensor([lead, 0.0])
    return net, torch.zeros(len(images), dtype=torch.int64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("decay", "length"),
    [("none", Fraction(20)), ("cosine", Fraction(21, 2)), ("halving", 4 * sum(Fraction(1, 2**k) for k in range(5)))],
)
def test_the_steps_add_up_to_what_the_decay_says(images: Tensor, norm: str, decay: str, length: Fraction) -> None:
    """Where the gradient is the same everywhere and no wall is met, 20 steps go straight: 20, 10.5 and 7.75 of them."""
    net, y = _ahead(images, 100.0)
    threat = ThreatModel.parse(norm, "0.2")
    z, _ = attacked("pgd", net, images, y, threat, steps=20, step=0.01, loss="margin", start="clean", decay=decay)
    uphill = (net[1].weight[1] - net[1].weight[0]).view(1, 1, 6, 6).expand_as(images)
    torch.testing.assert_close(z, images + float(length) * 0.01 * 0.2 * threat.steepest(uphill), atol=2e-6, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_the_iterates_are_those_of_the_definition(images: Tensor, norm: str, momentum: float) -> None:
    """v <- momentum v + g / |g|_1, z <- project(z + step steepest(v)), from the start that the same noise gives."""
    recorder, steps = Recorder(small(images).double()), 12
    x = images.double()
    threat = ThreatModel.parse(norm, {"linf": "0.05", "l2": "0.4", "l1": "2"}[norm])
    y = recorder.net(x).argmax(1)
    recorder.net[-1].bias.data += 50 * torch.eye(5, dtype=torch.float64)[y[0]]
    rows = y == y[0]
    x, y = x[rows], y[rows]
    attacked("pgd", recorder, x, y, threat, steps=steps, loss="margin", momentum=momentum, cycles=False)
    path = [seen[: len(x)] for seen in recorder.seen]
    assert len(path) == steps + 1
    z, velocity = path[0], torch.zeros_like(x)
    for following in path[1:]:
        at = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(margin(recorder.net(at), y).sum(), at)
        velocity = momentum * velocity + grad / grad.abs().sum((1, 2, 3), keepdim=True)
        z = threat.project(z + 0.25 * threat.radius * threat.steepest(velocity if momentum else grad, z), x)
        torch.testing.assert_close(following, z, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_each_choice_makes_a_path_of_its_own(digits: Any, norm: str) -> None:
    net, x, y = digits
    threat = ThreatModel.parse(norm, EPS[norm])
    choices: list[dict[str, Any]] = [{}, {"momentum": 1.0}, {"decay": "cosine"}, {"decay": "halving"}, {"start": "corner"}]
    choices += [{"start": "clean"}, {"loss": "margin"}, {"loss": "pm"}, {"loss": "dlr"}]
    ends = [attacked("pgd", net, x, y, threat, steps=15, step=0.3, **choice)[0] for choice in choices]
    for one, other in itertools.combinations(ends, 2):
        assert not torch.equal(one, other)


def iterate(value: float, n: int) -> Tensor:
    return torch.full((n, 1, 1, 1), value)


def flags(*rows: int, n: int = 4) -> Tensor:
    return torch.isin(torch.arange(n), torch.tensor(rows, dtype=torch.int64))


def test_live_keeps_the_best_and_never_replaces_the_first_success() -> None:
    live = Live(iterate(0.0, 3))
    live.keep(iterate(0.1, 3), torch.tensor([1.0, 5.0, 1.0]), flags(2, n=3))
    live.keep(iterate(0.2, 3), torch.tensor([2.0, 4.0, 9.0]), flags(n=3))
    live.keep(iterate(0.3, 3), torch.tensor([2.0, 0.0, 9.0]), flags(1, 2, n=3))
    torch.testing.assert_close(live.result.flatten(), torch.tensor([0.2, 0.3, 0.1]))
    assert live.fooled.tolist() == [False, True, True]


def test_what_is_stopped_keeps_what_it_has_and_is_dropped() -> None:
    live = Live(iterate(0.0, 4))
    live.keep(iterate(0.1, 4), torch.ones(4), flags(0))
    live.stop(flags(1))
    (ids, none) = live.drop(torch.arange(4), None)
    assert (ids.tolist(), none, len(live)) == ([2, 3], None, 2)
    torch.testing.assert_close(live.best.flatten(), torch.tensor([0.1, 0.1]))
    live.keep(iterate(0.2, 2), torch.tensor([2.0, 0.0]), flags(1, n=2))
    assert live.fooled.tolist() == [True, False, False, True]
    torch.testing.assert_close(live.result.flatten(), torch.tensor([0.1, 0.1, 0.2, 0.2]))
    live.stop(flags(0, 1, n=2))
    assert [len(part) for part in live.drop(ids, live.best)] == [0, 0]
    assert len(live) == 0
    assert live.fooled.tolist() == [True, False, False, True]


def test_what_is_stopped_keeps_what_it_has_also_before_it_is_dropped() -> None:
    live = Live(iterate(0.0, 2))
    live.keep(iterate(0.1, 2), torch.ones(2), flags(n=2))
    live.stop(flags(0, n=2))
    live.keep(iterate(0.2, 2), torch.full((2,), 2.0), flags(0, 1, n=2))
    assert live.fooled.tolist() == [False, True]
    torch.testing.assert_close(live.result.flatten(), torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("patience", [1, 3, 8])
def test_looking_at_the_outcome_halfway_changes_nothing(patience: int) -> None:
    """`result` and `fooled` are true at every moment, however late finished samples are dropped."""
    noise = Rng(0, torch.arange(20))
    peeked, blind = Live(iterate(0.0, 20)), Live(iterate(0.0, 20))
    peeked._patience = patience
    best, fooled, value = torch.full((20,), -torch.inf), torch.zeros(20, dtype=torch.bool), torch.zeros(20)
    watched = unwatched = torch.arange(20)
    for step in range(25):
        loss, hit = noise.at("loss", step).normal(()), noise.at("hit", step).uniform(()) < 0.08
        z = (step + torch.arange(20) / 100).view(-1, 1, 1, 1)
        better = ~fooled & (hit | (loss > best))
        value, best, fooled = torch.where(better, z.flatten(), value), torch.where(better, loss, best), fooled | hit
        peeked.keep(z[watched], loss[watched], hit[watched])
        blind.keep(z[unwatched], loss[unwatched], hit[unwatched])
        torch.testing.assert_close(peeked.result.flatten(), value)
        assert torch.equal(peeked.fooled, fooled)
        (watched,), (unwatched,) = peeked.drop(watched), blind.drop(unwatched)
        assert torch.equal(unwatched, (~fooled).nonzero().squeeze(1))
        assert set(unwatched.tolist()) <= set(watched.tolist())
    assert 0 < len(unwatched) < 20
    assert torch.equal(blind.result, peeked.result)
    assert torch.equal(blind.fooled, peeked.fooled)
