"""Interval bounds, votes under noise and projected last layers: what is said to be certain is, and closed forms are met."""

import copy
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom, binomtest, norm
from torch import Tensor, nn

from bench import train
from bench.core.judge import Judge
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.data.datasets import load
from bench.errors import BadInput
from bench.models import batchnorm, build, resolve
from bench.models.ensemble import SnapshotEnsemble
from bench.models.layers import Normalize
from bench.plugins.contract import Context, out_of_reach
from bench.plugins.registry import get_attack, make_defense
from bench.proofs import smoothed
from bench.proofs.bounds import bounds, verified, verified_radii
from bench.proofs.intervals import FLOAT32, Interval
from bench.proofs.smoothed import Smoothed, lower_bound
from bench.training.network import TrainingNet

ARCHITECTURES = (
    "digits_cnn?width=8", "mnist_fast", "lenet?width=2", "vgg16?width=2", "resnet18?width=2", "preact_resnet18?width=2",
    "wide_resnet?depth=10&width=1&dropout=0.3",
)  # fmt: skip


def shifted(layer: nn.Linear) -> nn.Linear:
    layer.weight.detach().mul_(1e-4)
    layer.bias.detach().add_(30)
    return layer


EXACT = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Hardtanh)
"""Layers that choose and do not compute."""
STATISTICS = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
SHAPE = (3, 12, 12)
TRAIN, TEST = load("digits", "train"), load("digits", "test")


def network(spec: str) -> nn.Module:
    """With batch norms that have seen images and have factors of either sign, in eval mode."""
    with isolated(0):
        net = build(spec, SHAPE, 10, STATISTICS)
        for layer in batchnorm.layers(net).values():
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
        for _ in range(3):
            net.train()(torch.rand(64, *SHAPE))
    return net.eval().requires_grad_(False)


def pixels(n: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return Rng(1, torch.arange(n)).at("pixels").uniform(shape)


def points(net: nn.Module, x: Tensor, reach: float) -> Tensor:
    """Ten thousand points around an image, half of them corners, and the corners that lie uphill and downhill of each logit."""
    with torch.enable_grad():
        z = x.clone().requires_grad_()
        uphill = torch.stack([torch.autograd.grad(logit, z, retain_graph=True)[0].sign()[0] for logit in net(z)[0]])
    share = 2 * pixels(10_000) - 1
    share[5000:] = share[5000:].sign()
    return x + reach * torch.cat([share, uphill, -uphill])


@pytest.mark.parametrize("spec", ARCHITECTURES)
def test_bounds_hold_wherever_one_looks_in_the_box(spec: str) -> None:
    """T32."""
    net, x = network(spec), pixels(1)
    for reach in (0.1, 0.001):
        box = bounds(net, x.double() - reach, x.double() + reach, unit=FLOAT32)
        for part in points(net, x, reach).split(1000):
            logits = net(part)
            assert ((logits >= box.lower) & (logits <= box.upper)).all()


@pytest.mark.parametrize("spec", ARCHITECTURES)
def test_bounds_of_a_rising_network_are_its_answers_at_two_corners(spec: str) -> None:
    """With weights of at least 0 nothing can fall, and no layer's bound is loose."""
    net, x = network(spec).double(), pixels(3).double()
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            parameter.abs_()
    box = bounds(net, x - 0.1, x + 0.1)
    torch.testing.assert_close(box.lower, net(x - 0.1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(box.upper, net(x + 0.1), rtol=1e-9, atol=1e-12)
    assert (box.upper - box.lower > 1e-3).any()


def test_bounds_and_margins_of_a_linear_network_are_exact() -> None:
    """T32: the corner that is best for a logit, or for the difference of two, attains the bound."""
    with isolated(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 10)).double().requires_grad_(False)
    x, weight = pixels(4).double(), net[1].weight
    y = torch.tensor([3, 1, 4, 1])
    lower, upper = (x - 0.3).clamp_min(0), (x + 0.3).clamp_max(1)
    box = bounds(net, lower, upper)
    margins = box.margins(y)

    def best(direction: Tensor) -> Tensor:
        """The corner that goes furthest along a direction [N, D]."""
        return torch.where(direction.view_as(x) > 0, upper, lower)

    for j in range(10):
        torch.testing.assert_close(net(best(weight[j].expand(4, -1)))[:, j], box.upper[:, j])
        torch.testing.assert_close(net(best(-weight[j].expand(4, -1)))[:, j], box.lower[:, j])
        logits = net(best(weight[j] - weight[y]))
        torch.testing.assert_close(logits[:, j] - logits.gather(1, y[:, None])[:, 0], margins[:, j])
    loose = box.upper - box.lower.gather(1, y[:, None])
    assert (margins <= loose.scatter(1, y[:, None], 0) + 1e-12).all()
    assert (margins < loose - 0.1).any()


def negative_and_positive(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        assert tensor is not None
        tensor.detach().copy_(torch.tensor([-2.0, 0.5, 1.7]))
    return layer


def kind(layer: nn.Module) -> str:
    return type(layer).__name__


with isolated(0):
    LAYERS = (
        nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.Conv2d(3, 6, 3, groups=3, padding="same"),
        nn.Linear(12, 7, bias=False), shifted(nn.Linear(12, 7)),
        negative_and_positive(nn.BatchNorm2d(3)), Normalize(*STATISTICS), nn.AvgPool2d(3, padding=1), nn.AdaptiveAvgPool2d(5),
        nn.AvgPool2d(2, divisor_override=-3), nn.MaxPool2d(3, 1), nn.AdaptiveMaxPool2d(4), nn.Hardtanh(-0.5, 0.2), nn.ReLU6(),
        nn.LeakyReLU(0.3), nn.ELU(), nn.CELU(), nn.SELU(), nn.Softplus(), nn.Sigmoid(), nn.Tanh(),
    )  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=kind)
def test_bounds_of_one_layer_are_attained(layer: nn.Module) -> None:
    layer = copy.deepcopy(layer).double().eval().requires_grad_(False)
    x = 4 * pixels(5).double() - 2
    lower, upper = x - 0.3 * pixels(5).double().flip(0), x + 0.2
    box = bounds(layer, lower, upper)
    if isinstance(layer, nn.Conv2d | nn.Linear):
        falling = copy.deepcopy(layer)
        falling.weight.copy_(layer.weight.clamp_max(0))
        rising = copy.deepcopy(layer)
        rising.weight.copy_(layer.weight.clamp_min(0))
        bias = 0 if layer.bias is None else falling(torch.zeros_like(lower))
        ends = [rising(lower) + falling(upper) - bias, rising(upper) + falling(lower) - bias]
    else:
        ends = [torch.minimum(layer(lower), layer(upper)), torch.maximum(layer(lower), layer(upper))]
    torch.testing.assert_close([box.lower, box.upper], ends, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if not isinstance(layer, EXACT)], ids=kind)
def test_bounds_of_one_layer_hold_what_float32_makes_of_it(layer: nn.Module) -> None:
    """A box without extent: in exact arithmetic one point, which rounding misses, and which the allowance for it holds."""
    x = 20 * pixels(100) - 10
    with torch.no_grad():
        given = copy.deepcopy(layer).eval()(x)
        exact, allowed = (bounds(layer.eval(), x.double(), x.double(), unit=unit) for unit in (0.0, FLOAT32))
    assert ((given < exact.lower) | (given > exact.upper)).any()
    assert ((given >= allowed.lower) & (given <= allowed.upper)).all()
    torch.testing.assert_close(allowed.upper.float(), given, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec", ["", *ARCHITECTURES])
def test_margins_hold_what_float32_makes_of_a_single_image(spec: str) -> None:
    x = pixels(200)
    with isolated(0):
        net = network(spec) if spec else nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 10, bias=False))
    with torch.no_grad():
        logits = net(x)
        y, exactly = logits.argmax(1), logits.double()
        behind = exactly - exactly.gather(1, y[:, None])
        assert (behind > bounds(net, x.double(), x.double()).margins(y)).any()
        assert (behind <= bounds(net, x.double(), x.double(), unit=FLOAT32).margins(y)).all()


def test_what_rounding_may_turn_round_is_not_verified() -> None:
    """10000.0003 is 10000 in float32, and the first of two equal logits wins."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False)
    net[1].weight.copy_(torch.tensor([[0.0], [0.001]]))
    net[1].bias.fill_(10_000)
    x, y = torch.full((1, 1, 1, 1), 0.3), torch.ones(1, dtype=torch.int64)
    assert net(x).argmax(1).tolist() == [0]
    assert bounds(net, x.double() - 0.1, x.double() + 0.1).margins(y)[0, 0] < 0
    assert not verified(net, x, y, 0.1).any()


def test_arithmetic_of_two_intervals_is_that_of_their_ends() -> None:
    """Independent boxes: the range of a sum, difference or product is attained at ends."""
    first, second = (4 * pixels(2000, (2,)) - 2 for _ in range(2))
    second = second.flip(0)
    left, right = (Interval(box.amin(1), box.amax(1)) for box in (first, second))
    constant = torch.linspace(-1, 1, 2000)
    for operate in (operator.add, operator.sub, operator.mul):
        corners = torch.stack([operate(a, b) for a in first.unbind(1) for b in second.unbind(1)])
        box = operate(left, right)
        assert torch.equal(box.lower, corners.amin(0))
        assert torch.equal(box.upper, corners.amax(0))
        for one, other in ((left, constant), (constant, left), (left, -0.7), (1.5, left)):
            box = operate(one, other)
            pairs = [[end if side is left else side for side in (one, other)] for end in (left.lower, left.upper)]
            ends = torch.stack([operate(*pair) for pair in pairs])
            assert torch.equal(box.lower, ends.amin(0))
            assert torch.equal(box.upper, ends.amax(0))
    quotient = left / constant
    assert torch.equal(quotient.upper, torch.maximum(left.lower / constant, left.upper / constant))
    assert torch.equal(quotient.lower, torch.minimum(left.lower / constant, left.upper / constant))


def test_what_counts_as_in_the_ball_is_verified_and_no_less() -> None:
    """The judge lets candidates be TOLERANCE outside."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False)
    net[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    net[1].bias.copy_(torch.tensor([-0.25, 0.25]))
    threat, y = ThreatModel.parse("linf", "0.125"), torch.zeros(2, dtype=torch.int64)
    x = (0.25 + 0.125 + torch.tensor([5e-7, 1e-5])).view(2, 1, 1, 1)
    z = x - threat.radius - 9e-7
    assert threat.contains(z, x).all()
    assert net(z).argmax(1).tolist() == [1, 0]
    assert verified(net, x, y, threat.radius).tolist() == [False, True]
    # Nothing is darker than black: a box that is cut needs no margin beyond it.
    net[1].bias.copy_(torch.tensor([0.01, -0.01]))
    assert verified(net, torch.full((2, 1, 1, 1), 0.1), y, threat.radius).all()


def test_verified_radii_of_a_linear_network_are_its_distances() -> None:
    """In linf that of a hyperplane is the margin over the l1 norm; found to 1/4096 of the range, and never beyond."""
    with isolated(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    x = 0.25 + 0.5 * pixels(50, (1, 4, 4))
    labels, weight = net(x).argmax(1), net[1].weight.double()
    logits = copy.deepcopy(net).double()(x.double())
    behind = logits.gather(1, labels[:, None]) - logits
    distance = (behind / (weight[labels][:, None] - weight).abs().sum(2)).nan_to_num(math.inf).amin(1)
    # Nowhere does the box [0, 1] cut the ball.
    assert (distance < 0.25).all()
    for first in (0.0, 0.03, 0.2, *(distance[:5] - 1e-5).tolist()):
        radii = verified_radii(net, x, labels, first)
        assert (radii <= distance).all()
        assert (radii >= distance - 1 / 4096 - 1e-5).all()
        assert torch.equal(radii >= first, verified(net, x, labels, first))


class InPlace(nn.Module):
    """Changes its logits under another name."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(math.prod(SHAPE), 10), change

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.flatten(1))
        self.change(logits)
        return logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "change", [partial(F.relu, inplace=True), partial(F.elu, inplace=True), lambda z: operator.iadd(z, 5 * z)]
)
def test_a_change_in_place_is_followed(change: Callable[[Tensor], object]) -> None:
    with isolated(0):
        net = InPlace(change).double().eval().requires_grad_(False)
    x = pixels(1).double()
    box, logits = bounds(net, x, x), net(x)
    torch.testing.assert_close(box.upper, logits)
    torch.testing.assert_close(box.margins(torch.tensor([3])), logits - logits[:, 3:4])


class Afterwards(InPlace):
    """Changes what its linear layer has seen, or a view of what it is yet to see."""

    def __init__(self, change: Callable[[Tensor], object], before: bool) -> None:
        super().__init__(change)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.flatten(1) - 0.5
        if self.before:
            self.change(hidden.view(len(x), -1))
        logits = self.linear(hidden)
        if not self.before:
            self.change(hidden)
        return logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("change", [partial(F.relu, inplace=True), lambda z: operator.iadd(z, 10)])
def test_what_is_changed_afterwards_was_seen_as_it_was(change: Callable[[Tensor], object]) -> None:
    with isolated(0):
        net = Afterwards(change, before=False).double().eval().requires_grad_(False)
    x = pixels(3).double()
    logits = net(x)
    torch.testing.assert_close(bounds(net, x, x).margins(torch.tensor([3, 3, 3])), logits - logits[:, 3:4])
    with pytest.raises(BadInput, match="another view"):
        bounds(Afterwards(change, before=True).double(), x, x)


def test_what_overflows_is_not_verified() -> None:
    """Infinite logits are equal, so the network answers with the first class, whatever exact arithmetic says."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)).eval().requires_grad_(False)
    x, y = torch.full((1, 1, 1, 1), 0.4), torch.tensor([1])
    for scale, sure in ((1.0, True), (1e15, False)):
        net[1].weight.fill_(1e20)
        net[2].weight.copy_(scale * torch.tensor([[6e3], [7e3]]))
        assert bool(verified(net, x, y, 0.2)) is sure
    assert net(x + 0.19).argmax(1) == 0


class Arithmetic(nn.Module):
    """A forward of its own, with the operations that one may write."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, groups=1, padding=1, padding_mode="reflect"), nn.Linear(16, 5)
        self.register_buffer("factor", torch.tensor([-1.0, 2.0, 0.5]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (1 - x) * self.factor / 2 + (self.factor - 0.3 * x)
        kept = out = self.conv(x)
        out += F.leaky_relu(self.conv(x) - 0.5, 0.1)
        out = torch.sigmoid(kept) + F.softplus(F.elu(out)) - torch.tanh(kept)
        out = F.max_pool2d(F.pad(out, (1, 1, 1, 1)), 2, stride=1) * F.avg_pool2d(F.pad(out, (1, 1, 1, 1)), 2, stride=1)
        return self.linear(F.adaptive_avg_pool2d(out, 2).view(len(x), -1))  # type: ignore[no-any-return]


def test_a_forward_that_is_written_out_is_bounded_too() -> None:
    with isolated(0):
        net = Arithmetic().eval().requires_grad_(False)
    x = pixels(1)
    for reach in (0.3, 0.01, 1e-4):
        box = bounds(net, x.double() - reach, x.double() + reach, unit=FLOAT32)
        logits = net(points(net, x, reach))
        assert ((logits >= box.lower) & (logits <= box.upper)).all()


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.GELU(), r"'0' \(GELU\).*gelu"),
        (nn.Softmax(1), r"'0' \(Softmax\).*softmax"),
        (nn.LeakyReLU(-0.1), r"'0' \(LeakyReLU\).*negative"),
        (nn.Softplus(threshold=0.5), r"'0' \(Softplus\).*falls"),
        (nn.BatchNorm2d(3).train(), r"'0' \(BatchNorm2d\).*of the batch"),
        (nn.BatchNorm2d(3, track_running_stats=False), r"'0' \(BatchNorm2d\).*of the batch"),
        (nn.Dropout(0.5).train(), r"'0' \(Dropout\).*at random"),
        (nn.MaxPool2d(2, return_indices=True), r"'0' \(MaxPool2d\).*indices"),
    ],
)
def test_what_has_no_bounds_is_named(layer: nn.Module, told: str) -> None:
    net, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(3, 2)), pixels(2)
    with pytest.raises(BadInput, match=told):
        bounds(net, x, x)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (1.0 / x).flatten(1)


@pytest.mark.parametrize("net", [Reciprocal(), SnapshotEnsemble([nn.Flatten(), nn.Flatten()]), Smoothed(nn.Flatten(), 0.1, 2)])
def test_a_forward_without_bounds_is_refused(net: nn.Module) -> None:
    with pytest.raises(BadInput, match=f"no interval bounds for.*{type(net).__name__}"):
        bounds(net, pixels(2), pixels(2))


def ibp_context(net: TrainingNet, progress: float, eps: str = "0.1") -> Context:
    target, index = ThreatModel.parse("linf", eps), torch.arange(32)
    threat = make_defense("ibp", {}).budget(target, progress)
    rng = Rng(0, index)
    return Context(threat, target, rng, progress, 0, net.gradient("train"), TRAIN.x, TRAIN.y, index)


def test_the_box_and_its_weight_grow_together() -> None:
    """Clean for 2000 of 60000 steps, then in 10000 from (0, 0) to (eps, 1 - kappa)."""
    with isolated(0):
        body = build("digits_cnn?width=8", (1, 8, 8), 10)
    net = TrainingNet(body, torch.device("cpu"), "float32", (1, 8, 8))
    x, y = TRAIN.batch(torch.arange(32))
    defense = make_defense("ibp", {"stretch": 1.2, "kappa": 0.4})
    clean = F.cross_entropy(net(x), y)
    assert torch.equal(defense.loss(net, x, y, ibp_context(net, 0.033)), clean)
    for progress, grown in ((7 / 60, 0.5), (0.2, 1.0), (0.9, 1.0)):
        reach = 1.2 * 0.1 * grown
        worst = bounds(body.eval(), (x - reach).clamp(0, 1), (x + reach).clamp(0, 1)).margins(y)
        share = 0.6 * grown
        net.train().forwards = net.backwards = 0
        loss = defense.loss(net, x, y, ibp_context(net, progress))
        torch.testing.assert_close(loss, (1 - share) * clean + share * F.cross_entropy(worst, y))
        loss.backward()
        # The clean images, and what counts as one pass or two: bounds are on the bill.
        assert net.forwards == net.backwards >= 64
        assert net.training


def pgd(net: nn.Module, threat: ThreatModel, n: int, steps: int) -> tuple[Tensor, Tensor]:
    """The first n test images attacked, and which of them are still right."""
    x, y = TEST.batch(torch.arange(n))
    attack = get_attack("pgd")
    view = VIEWS["gradient"](net, Meter(n, x.device))
    z = attack.run(view, x, y, threat, Rng(0, TEST.ids[:n]), **attack.configure({"steps": steps}))
    judge = Judge(net, threat)
    return z, judge.correct(x, y)[0] & judge.correct(z, y)[0]


def trained(run: Path, weights: str = "best") -> nn.Module:
    return resolve(f"{run}?weights={weights}", (1, 8, 8), 10).net


@pytest.mark.slow
def test_training_for_bounds_makes_networks_that_can_be_verified(fast_run: Path, tmp_path: Path) -> None:
    """Verified <= PGD <= clean, sample by sample; a network trained on attacks has hardly anything to verify."""
    threat = ThreatModel.parse("linf", "0.1")
    run = train("ibp", model="digits_cnn?width=16", eps="0.1", settings={"epochs": "15"}, results=tmp_path, quiet=True)
    n = 200
    x, y = TEST.batch(torch.arange(n))
    defense, rng, accuracies = make_defense("ibp", {}), Rng(0, TEST.ids[:n]), []
    for net in (trained(run), trained(fast_run)):
        found = defense.certify(net, x, threat, rng)
        assert found is not None
        labels, radii = found
        assert torch.equal(labels, net(x).argmax(1))
        assert torch.equal(radii >= threat.radius, verified(net, x, labels, threat.radius))
        certain = (radii >= threat.radius) & (labels == y)
        standing = pgd(net, threat, n, 40)[1]
        assert not (certain & ~standing).any()
        # eps is among the radii that are tried, also where it is close to the last that holds.
        close = ThreatModel("linf", Fraction(float(radii.sort().values[n // 2])))
        again = defense.certify(net, x, close, rng)
        assert again is not None
        assert (again[1] >= close.radius)[radii >= close.radius].all()
        assert certain.sum() <= standing.sum() <= (labels == y).sum()
        accuracies.append(float(certain.float().mean()))
        assert defense.certify(net, x, ThreatModel.parse("l2", "0.1"), rng) is None
    assert accuracies[0] > 0.3 > accuracies[1]
    assert torch.equal(verified(trained(run), x, y, 0.0), trained(run)(x).argmax(1) == y)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("n", [10, 100, 1000])
def test_the_lower_bound_is_clopper_and_pearsons_and_covers(n: int, alpha: float) -> None:
    """T31, without sampling: for every probability the counts whose bound lies above it are rarer than alpha."""
    counts = torch.arange(n + 1)
    lowest = lower_bound(counts, n, alpha)
    for count in range(0, n + 1, max(n // 10, 1)):
        interval = binomtest(count, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
        assert float(lowest[count]) == pytest.approx(interval.low, abs=1e-9)
    for p in torch.linspace(0.01, 0.999, 100).tolist():
        misses = binom.pmf(counts.numpy(), n, p)[(lowest > p).numpy()].sum()
        assert misses <= alpha * (1 + 1e-9)


class Halfspaces(nn.Module):
    """Two classes, apart at 0 along a direction of any length; a vote's radius is the distance to the boundary."""

    def forward(self, x: Tensor) -> Tensor:
        score = 3 * x.flatten(1).sum(1)
        return torch.stack([score, -score], 1)


def test_certified_radii_of_half_spaces_are_their_distances() -> None:
    """Cohen et al. 2019, proposition 3: there the certificate is tight, up to the confidence of the counts."""
    sigma, size = 0.5, 16
    distance = torch.tensor([0.0, 0.1, -0.2, 0.5, -1.0, 4.0])
    x = (distance / math.sqrt(size)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    vote, rng = Smoothed(Halfspaces(), sigma, 8), Rng(0, torch.arange(6))
    labels, radii = vote.certify(x, rng, selection=100, n=10_000, alpha=1e-6)
    assert torch.equal(labels[1:], (distance < 0).long()[1:])
    assert (radii <= distance.abs()).all()
    assert radii[0] == -1
    assert (radii[1:5] >= 0).all()
    # The bound's distance from the probability itself is at most 5.5 standard errors.
    for radius, true in zip(radii.tolist()[2:5], distance.abs().tolist()[2:5], strict=True):
        p = norm.cdf(true / sigma)
        assert radius >= sigma * norm.ppf(p - 5.5 * math.sqrt(p * (1 - p) / 10_000) * 2)
    # All votes for one class: alpha^(1/n) is what its probability is at least.
    assert radii[5] == pytest.approx(sigma * norm.ppf(1e-6 ** (1 / 10_000)))
    found = vote.predict(x, rng, n=10_000, alpha=1e-6)
    assert found.tolist() == [-1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("estimation", [3, 100, 10_000])
def test_no_vote_certifies_more_than_all_copies_in_agreement(estimation: int) -> None:
    defense: Any = make_defense("smoothing", {"sigma": 0.5, "estimation": estimation, "alpha": 0.01})
    reach = defense.certifies_up_to(ThreatModel.parse("l2", "2"))
    assert reach == pytest.approx(-1 if estimation == 3 else 0.5 * norm.ppf(0.01 ** (1 / estimation)))
    x = torch.tensor([0.0, 0.05, 0.2, 4.0]).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    vote = Smoothed(Halfspaces(), 0.5, 8)
    _, radii = defense.certify(vote, x, ThreatModel.parse("l2", "2"), Rng(0, torch.arange(4)))
    assert radii.max() == radii[3] == reach
    assert "smoothing: with these settings a certificate reaches" in out_of_reach(defense, ThreatModel.parse("l2", "2"))
    near = ThreatModel("l2", Fraction(max(reach, 0.0)))
    assert bool(out_of_reach(defense, near)) == (reach < 0)
    assert not out_of_reach(defense, ThreatModel.parse("linf", "1"))
    with pytest.raises(BadInput, match="something around them"):
        defense.certify(nn.Sequential(vote), x, ThreatModel.parse("l2", "2"), Rng(0, torch.arange(4)))


def test_votes_depend_on_the_sample_alone(fast_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vote, (x, _) = Smoothed(trained(fast_run), 0.5, 4), TEST.batch(torch.arange(9))
    rng = Rng(0, TEST.ids[:9])
    whole = vote.votes(x, 300, rng)
    assert torch.equal(whole.sum(1), torch.full((9,), 300))
    some = torch.tensor([7, 3, 8])
    assert torch.equal(vote.votes(x[some], 300, rng[some]), whole[some])
    monkeypatch.setattr(smoothed, "ROWS", 1)
    assert torch.equal(vote.votes(x, 300, rng), whole)
    # More draws go on from the fewer, another stream is other noise.
    assert ((vote.votes(x, 512, rng) - vote.votes(x, 256, rng)).sum(1) == 256).all()
    assert not torch.equal(vote.votes(x, 300, rng.at("other")), whole)


def test_a_label_is_chosen_and_bounded_by_different_noise() -> None:
    """The same draws for both would make the winner look surer than it is; at the boundary that shows."""
    n = 400
    x, rng = torch.zeros(n, 1, 4, 4), Rng(0, torch.arange(n))
    vote = Smoothed(Halfspaces(), 0.5, 1)
    labels, radii = vote.certify(x, rng, selection=100, n=100, alpha=0.2)
    # Each holds a class of probability 1/2 for one of more than 1/2 with probability alpha at most; 4.5 deviations above.
    assert (radii > 0).float().mean() < 0.2 + 4.5 * math.sqrt(0.16 / n)
    assert 0.3 < labels.float().mean() < 0.7


def test_the_smoothed_answer_is_the_mean_probability(fast_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, y) = trained(fast_run), TEST.batch(torch.arange(8))
    answers = Smoothed(net, 0.3, 10)
    noise = 0.3 * Rng(0, torch.arange(10)).at("smoothing").normal((1, 8, 8))
    mean = torch.stack([net(x + part).softmax(1) for part in noise]).mean(0)
    torch.testing.assert_close(answers(x).exp(), mean)
    torch.testing.assert_close(answers(x[:3]), answers(x)[:3])
    assert noise.std() == pytest.approx(0.3, rel=0.1)
    grads = []
    for rows in (4096, 16):
        monkeypatch.setattr(smoothed, "ROWS", rows)
        z = x.clone().requires_grad_()
        grads.append(torch.autograd.grad(F.cross_entropy(answers(z), y), z)[0])
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-6)


def test_no_attack_gets_below_what_the_vote_certifies(tmp_path: Path) -> None:
    """T31: at every radius for the network that answers, and sample by sample for the vote, which the certificate is of."""
    where: Any = {"model": "digits_cnn?width=8", "norm": "l2", "eps": "0.5", "results": tmp_path, "quiet": True}
    run = train("smoothing", settings={"epochs": "5"}, **where)
    defense: Any = make_defense("smoothing", {"estimation": 1000, "draws": 32})
    n = 60
    net, (x, y), rng = defense.wrap(trained(run)), TEST.batch(torch.arange(n)), Rng(0, TEST.ids[:n])
    found = defense.certify(net, x, ThreatModel.parse("l2", "0.5"), rng)
    assert found is not None
    labels, radii = found
    assert defense.certify(net, x, ThreatModel.parse("linf", "0.5"), rng) is None
    shares = []
    for eps in ("0", "0.1", "0.25", "0.4"):
        threat = ThreatModel.parse("l2", eps)
        certain = (labels == y) & (radii >= threat.radius)
        z, standing = pgd(net, threat, n, 10)
        assert standing.float().mean() >= certain.float().mean()
        voted = net.predict(z[certain], rng[certain], n=200, alpha=0.001)
        assert ((voted == y[certain]) | (voted == -1)).all()
        shares.append((float(standing.float().mean()), float(certain.float().mean())))
    # The attack does something, and so do the certificates.
    assert shares[-1][0] < shares[0][0]
    assert shares[2][1] > 0.3


def features(net: nn.Module, x: Tensor) -> Tensor:
    return nn.Sequential(*list(net.children())[:-1])(x)  # type: ignore[no-any-return]


def test_rfi_projects_onto_eigenvectors_of_the_covariance(fast_run: Path) -> None:
    """T30, against torch.cov and numpy's order of eigenvectors."""
    net, (x, _) = trained(fast_run), TRAIN.batch(torch.arange(len(TRAIN)))
    seen = features(net, x).double()
    last: Any = net[-1]  # type: ignore[index]
    weight = last.weight.double()
    covariance = torch.cov(seen.T, correction=0)
    variances, vectors = torch.linalg.eigh(covariance)
    for k in (1, 3, 10):
        defense: Any = make_defense("rfi", {"k": k})
        projector = defense.projector(covariance, weight)
        torch.testing.assert_close(projector @ projector, projector)
        torch.testing.assert_close(projector, projector.T)
        chosen = {int(j) for row in weight for j in (variances * (vectors.T @ row) ** 2).argsort(descending=True)[:k]}
        assert torch.linalg.matrix_rank(projector) == len(chosen) == round(float(projector.trace()))
        fitted: Any = defense.fit(net, TRAIN)
        torch.testing.assert_close(fitted[-1].weight.double(), weight @ projector, rtol=1e-4, atol=1e-5)
        # About the mean: the mean features are answered as before.
        mean = seen.mean(0).float()
        torch.testing.assert_close(fitted[-1](mean), last(mean), rtol=1e-4, atol=1e-4)
    hard: Any = make_defense("rfi", {"k": 7, "ranking": "variance"})
    top = vectors[:, variances.argsort(descending=True)[:7]]
    torch.testing.assert_close(hard.projector(covariance, weight), top @ top.T)
    source: Any = make_defense("rfi", {"k": 3, "ranking": "class_squared", "centred": False})
    variances, vectors = torch.linalg.eigh(seen.T @ seen / len(seen))
    scores = (variances[:, None] * (vectors.T @ weight.T)) ** 2
    top = vectors[:, sorted({int(j) for column in scores.T for j in column.argsort(descending=True)[:3]})]
    fitted = source.fit(net, TRAIN)
    torch.testing.assert_close(fitted[-1].weight.double(), weight @ top @ top.T, rtol=1e-4, atol=1e-5)
    assert torch.equal(fitted[-1].bias, last.bias)


@pytest.mark.parametrize("centred", [True, False])
def test_rfi_with_every_direction_changes_nothing(fast_run: Path, centred: bool) -> None:
    """T30."""
    net, (x, _) = trained(fast_run), TEST.batch(torch.arange(len(TEST)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fitted = make_defense("rfi", {"k": 1000, "centred": centred}).fit(net, TRAIN)
    torch.testing.assert_close(fitted(x), net(x), atol=1e-4, rtol=0)
    make_defense("rfi", {"k": 1}).fit(net, TRAIN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_rfi_with_a_direction_for_each_class_keeps_the_clean_accuracy(fast_run: Path) -> None:
    net, (x, y) = trained(fast_run), TEST.batch(torch.arange(len(TEST)))
    fitted = make_defense("rfi", {}).fit(net, TRAIN)
    assert not torch.allclose(fitted(x), net(x), atol=1e-2)
    base, now = (float((model(x).argmax(1) == y).float().mean()) for model in (net, fitted))
    assert now >= base - 0.01


@pytest.mark.parametrize("spec", ["preact_resnet18?width=2", "wide_resnet?depth=10&width=1", "vgg16?width=2"])
def test_rfi_finds_the_last_layer_of_any_architecture(spec: str) -> None:
    with isolated(0):
        net = build(spec, (1, 8, 8), 10, ((0.3,), (0.4,))).eval()
    some, (x, _) = TRAIN.first(100), TRAIN.batch(torch.arange(20))
    fitted = make_defense("rfi", {"k": 1}).fit(net, some)
    changed = {name for name, tensor in fitted.state_dict().items() if not torch.equal(tensor, net.state_dict()[name])}
    assert len({name.rpartition(".")[0] for name in changed}) == 1
    assert next(iter(changed)).endswith((".weight", ".bias"))
    assert not torch.equal(fitted(x), net(x))


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU()), nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())]
)
def test_rfi_refuses_a_network_without_a_last_linear_layer(net: nn.Module) -> None:
    with pytest.raises(BadInput, match=r"rfi projects the last linear layer.*Sequential"):
        make_defense("rfi", {}).fit(net.requires_grad_(False), TRAIN)
