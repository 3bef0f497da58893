"""Orders of target classes, and the attack that goes through them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.judge import Judge
from bench.core.losses import TARGETED, cross_entropy_targeted, margin, margin_targeted
from bench.core.rng import Rng, isolated
from bench.core.targets import Order, wrong_classes
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Gradient, Meter
from bench.data.datasets import load
from bench.models import resolve
from bench.plugins.registry import get_attack
from bench.statistics.proportions import mcnemar

DATA = load("digits", "test")
X, Y = DATA.batch(torch.arange(len(DATA)))
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
every_order = pytest.mark.parametrize("by", ["logits", "malt"])
every_norm = pytest.mark.parametrize("norm", list(DUAL))


def linear(classes: int, pixels: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network whose weights differ in length from class to class, 30 images, and what it says of them."""
    with isolated(classes):
        net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).requires_grad_(False)
    net[1].weight.mul_(Rng(0, torch.arange(classes)).uniform((1,)) + 0.2)
    x = Rng(1, torch.arange(30)).uniform((1, 4, pixels // 4))
    return net, x, net(x).argmax(1)


def view(net: nn.Module, x: Tensor) -> Gradient:
    return Gradient(net, Meter(len(x), x.device))


def attacked(name: str, net: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, rng: Rng, **given: Any) -> Tensor:
    attack = get_attack(name)
    z: Tensor = attack.run(VIEWS[attack.access](net, Meter(len(x), x.device)), x, y, threat, rng, **attack.configure(given))
    assert threat.contains(z, x).all()
    return z


@pytest.fixture(scope="module")
def digits(fast_run: Path) -> nn.Module:
    return resolve(str(fast_run), DATA.shape, 10).net


@every_norm
@every_order
@pytest.mark.parametrize("classes", [2, 3, 10, 150])
def test_it_is_an_order_of_the_wrong_classes(by: Order, classes: int, norm: str) -> None:
    net, x, y = linear(classes)
    threat = ThreatModel.parse(norm, "0.1")
    whole = wrong_classes(view(net, x), x, y, threat, by)
    assert whole.shape == (30, classes - 1)
    assert torch.equal(torch.cat([whole, y[:, None]], 1).sort(1).values, torch.arange(classes).expand(30, -1))
    for count in (1, 4, classes + 5):
        assert torch.equal(wrong_classes(view(net, x), x, y, threat, by, count), whole[:, :count])


def test_by_logits_the_likeliest_comes_first() -> None:
    net, x, y = linear(10)
    chosen = net(x).gather(1, wrong_classes(view(net, x), x, y, ThreatModel.parse("linf", "0.1"), "logits"))
    assert (chosen.diff(dim=1) <= 0).all()


@every_norm
@pytest.mark.parametrize("classes", [3, 10, 50])
def test_malt_sorts_a_linear_network_by_true_distance(norm: str, classes: int) -> None:
    """T14: the boundary to class j is at lead / dual norm of the difference of the weights."""
    net, x, y = linear(classes)
    logits, weight = net(x).double(), net[1].weight.double()
    lead = logits.gather(1, y[:, None]) - logits
    distance = lead / (weight - weight[y].unsqueeze(1)).norm(p=DUAL[norm], dim=2)
    distance = distance.scatter(1, y[:, None], torch.inf)
    found = wrong_classes(view(net, x), x, y, ThreatModel.parse(norm, "0.1"), "malt")
    assert torch.equal(found, distance.argsort(1)[:, :-1])
    assert not torch.equal(found, wrong_classes(view(net, x), x, y, ThreatModel.parse(norm, "0.1"), "logits")) or classes == 2


def test_malt_puts_classes_without_a_gradient_last() -> None:
    """Class 9 moves with every other class in turn: from there it is as far as it ever was."""
    net, x, _ = linear(10)
    y = torch.arange(30) % 9
    for label in range(9):
        net[1].weight[9] = net[1].weight[label]
        rows = y == label
        found = wrong_classes(view(net, x[rows]), x[rows], y[rows], ThreatModel.parse("l2", "0.1"), "malt")
        assert (found[:, -1] == 9).all()


def test_a_masked_network_is_sorted_by_logits() -> None:
    net, x, _ = linear(10)

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(torch.round(x * 4) / 4)

    y = Masked()(x).argmax(1)
    threat = ThreatModel.parse("linf", "0.1")
    found = [wrong_classes(view(Masked(), x), x, y, threat, by) for by in ("logits", "malt")]
    assert torch.equal(*found)


def test_impossible_classes_do_not_let_the_label_in() -> None:
    """Log-probabilities of 0 are -inf, below what any mask on the label could say."""

    net, x, _ = linear(5)

    class Certain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(x).index_fill(1, torch.tensor([0, 3, 4]), -torch.inf)

    y = torch.full((30,), 2)
    found = wrong_classes(view(Certain(), x), x, y, ThreatModel.parse("l2", "0.1"), "logits")
    assert (found[:, 0] == 1).all()
    assert (found != 2).all()


@every_order
def test_what_an_order_costs(by: Order) -> None:
    net, x, y = linear(150)
    spent = Gradient(net, meter := Meter(30, x.device))
    wrong_classes(spent, x, y, ThreatModel.parse("l2", "0.1"), by, 9)
    measured = 100 if by == "malt" else 0
    assert (meter.forwards == 1 + measured).all()
    assert (meter.backwards == measured).all()


@every_order
def test_a_sample_does_not_see_its_batch(digits: nn.Module, by: Order) -> None:
    threat = ThreatModel.parse("l2", "0.5")
    whole = wrong_classes(view(digits, X), X, Y, threat, by)
    for rows in ([7], [3, 200, 11], list(range(40))):
        assert torch.equal(wrong_classes(view(digits, X[rows]), X[rows], Y[rows], threat, by), whole[rows])


def test_malt_finds_the_class_to_aim_at_more_often_than_the_logits(digits: nn.Module) -> None:
    """Melamed et al. 2024, where a single target decides."""
    for norm, eps in (("linf", "0.2"), ("l2", "0.8")):
        threat = ThreatModel.parse(norm, eps)
        first = {
            by: int(
                (
                    digits(attacked("apgd", digits, threat, X, Y, Rng(0, DATA.ids), targets=1, order=by, steps=30)).argmax(1)
                    != Y
                ).sum()
            )
            for by in ("logits", "malt")
        }
        assert first["malt"] > first["logits"]


@pytest.mark.parametrize("name", ["ce", "margin"])
def test_targeted_losses_climb_towards_their_class(name: str) -> None:
    """Larger is nearer: a step along the gradient raises the target over the label."""
    logits = Rng(0, torch.arange(64)).normal((6,)).requires_grad_()
    y, target = torch.arange(64) % 6, (torch.arange(64) + 1 + torch.arange(64) // 13) % 6
    target = torch.where(target == y, (y + 1) % 6, target)
    (grad,) = torch.autograd.grad(TARGETED[name](logits, y, target).sum(), logits)
    assert (margin_targeted(grad, y, target) > 0).all()


def test_the_targeted_cross_entropy_keeps_its_gradient_where_the_plain_one_loses_it() -> None:
    logits = torch.tensor([[0.0, 200.0, 50.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(cross_entropy_targeted(logits, torch.tensor([1]), torch.tensor([2])).sum(), logits)
    torch.testing.assert_close(grad, torch.tensor([[0.0, -1.0, 1.0]]))


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.15"), ("l2", "0.8"), ("l1", "1.5")])
def test_all_targets_break_no_less_than_as_many_restarts_of_the_margin(digits: nn.Module, norm: str, eps: str) -> None:
    """Gowal et al. 2019, at equal steps: nine classes against nine restarts, with no certain difference the other way."""
    x, y, ids, threat = X, Y, DATA.ids, ThreatModel.parse(norm, eps)
    judge = Judge(digits, threat)
    right = judge.correct(x, y)[0]
    z = attacked("multi_targeted", digits, threat, x, y, Rng(0, ids), steps=20)
    left = right & ~judge.verdict(z, x, y).fooled
    stands = right.nonzero().squeeze(1)
    for restart in range(9):
        rng = Rng(0, ids[stands]).at(restart)
        z = attacked("pgd", digits, threat, x[stands], y[stands], rng, steps=20, loss="margin")
        stands = stands[~judge.verdict(z, x[stands], y[stands]).fooled]
    standing = torch.zeros_like(left).index_fill(0, stands, True)
    worse, better = int((left & ~standing).sum()), int((standing & ~left).sum())
    assert left.any()
    assert worse <= better or mcnemar(worse, better) > 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_two_classes_it_is_pgd_on_the_margin(norm: str) -> None:
    net, x, y = linear(2)
    threat, rng = ThreatModel.parse(norm, "0.03"), Rng(4, torch.arange(30))
    found = attacked("multi_targeted", net, threat, x, y, rng, steps=7)
    expected = attacked("pgd", net, threat, x, y, rng.at("start", 0), steps=7, loss="margin")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("decay", ["none", "cosine"])
@every_order
@every_norm
def test_it_reaches_every_class_in_reach(norm: str, by: Order, decay: str) -> None:
    """Closed form: class j of a linear network is in reach if its lead is below eps times the dual norm of the weights."""
    net, x, _ = linear(6)
    net[1].bias.copy_(-net[1].weight.sum(1) / 2)
    x = 0.48 + 0.04 * x
    logits, weight = net(x), net[1].weight
    y = logits.argmax(1)
    distance = (logits.gather(1, y[:, None]) - logits) / (weight - weight[y].unsqueeze(1)).norm(p=DUAL[norm], dim=2)
    nearest = distance.nan_to_num(torch.inf).amin(1)
    threat = ThreatModel.parse(norm, f"{nearest.median():.4f}")
    z = attacked("multi_targeted", net, threat, x, y, Rng(0, torch.arange(30)), order=by, decay=decay)
    clear = (nearest / threat.radius - 1).abs() > 0.01
    assert torch.equal((net(z).argmax(1) != y)[clear], (nearest < threat.radius)[clear])


def test_in_l1_it_is_not_held_up_by_a_pixel_at_the_edge_of_the_box() -> None:
    """The pixel of the largest derivative is white already; the next has to do."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).requires_grad_(False)
    net[1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]]))
    x = torch.tensor([1.0, 0.2, 0.5, 0.5]).view(1, 1, 2, 2)
    net[1].bias = nn.Parameter(torch.tensor([0.0, -3.5]), requires_grad=False)
    y = net(x).argmax(1)
    threat = ThreatModel.parse("l1", "0.4")
    z = attacked("multi_targeted", net, threat, x, y, Rng(0, torch.arange(1)))
    assert y == 0
    assert margin(net(z), y) > 0
