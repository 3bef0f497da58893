"""The black-box attacks: what they ask, what they may claim, and the closed forms that they have to reach."""

from itertools import pairwise
from math import prod, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.nes import estimate
from bench.attacks.spsa import signs
from bench.core.losses import margin
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Decision, Meter, Score
from bench.data.datasets import load
from bench.errors import AccessError
from bench.models import resolve
from bench.plugins.registry import get_attack

Problem = tuple[nn.Module, Tensor, Tensor]
CASES = [
    *[(name, norm) for name in ("nes", "spsa", "hop_skip_jump") for norm in ("linf", "l2")],
    ("rays", "linf"),
    *[("random_noise", norm) for norm in ("linf", "l2", "l1")],
]
WALKS = [("rays", "linf"), ("hop_skip_jump", "linf"), ("hop_skip_jump", "l2")]
"""The attacks that look for the closest adversarial example, wherever it is."""
every_case = pytest.mark.parametrize(("name", "norm"), CASES, ids=str)
every_walk = pytest.mark.parametrize(("name", "norm"), WALKS, ids=str)


def attacked(
    name: str, problem: Problem, threat: ThreatModel, ids: Tensor | None = None, **parameters: Any
) -> tuple[Tensor, Meter]:
    net, x, y = problem
    attack = get_attack(name)
    settings = attack.configure(parameters)
    meter = Meter(len(x), x.device, settings["queries"])
    rng = Rng(3, torch.arange(len(x)) if ids is None else ids)
    return attack.run(VIEWS[attack.access](net, meter), x, y, threat, rng, **settings), meter


def network(classes: int, x: Tensor) -> nn.Module:
    """A small untrained network whose classes share the images evenly."""
    with isolated(classes, "network"):
        net = nn.Sequential(nn.Conv2d(x.shape[1], 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, classes))
    net.eval().requires_grad_(False)
    net[-1].bias -= net(x).mean(0)
    return net


@pytest.fixture(scope="module")
def bent() -> Problem:
    """Images well inside the box and a network that bends."""
    x = 0.4 + 0.2 * Rng(0, torch.arange(12)).uniform((1, 8, 8))
    net = network(4, x)
    return net, x, net(x).argmax(1)


def linear(classes: int, *shape: int) -> Problem:
    """A linear network with random weights, and images around the middle of the box."""
    x = 0.4 + 0.2 * Rng(1, torch.arange(12)).uniform(shape)
    with isolated(classes, "linear"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes)).requires_grad_(False)
    net[1].bias.copy_(-(x.flatten(1) @ net[1].weight.T).median(0).values)
    return net, x, net(x).argmax(1)


def nearest(problem: Problem, norm: str) -> Tensor:
    """The distance from each image to the nearest boundary of a linear network."""
    net, x, y = problem
    logits, weight = net(x), net[1].weight
    gaps = logits.gather(1, y[:, None]) - logits
    dual = (weight[y].unsqueeze(1) - weight).norm(p=1 if norm == "linf" else 2, dim=2)
    return (gaps / dual).scatter(1, y[:, None], torch.inf).amin(1)


class Recorder(nn.Module):
    """Keeps the first image of every call and its label; small batches are padded with copies of the first row."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.images: list[Tensor] = []
        self.labels: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        self.images.append(x[0].clone())
        self.labels.append(int(logits[0].argmax()))
        return logits


def recorded(name: str, problem: Problem, norm: str, row: int, **parameters: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A run on one sample that looks everywhere: result, images asked about, which were misclassified, their distances."""
    net, x, y = problem
    recorder, threat = Recorder(net), ThreatModel.parse(norm, 0)
    here = (recorder, x[row : row + 1], y[row : row + 1])
    z, _ = attacked(name, here, threat, torch.tensor([row]), beyond=True, **parameters)
    images = torch.stack(recorder.images)
    return z, images, torch.tensor(recorder.labels) != y[row], threat.distance(images, x[row])


@every_case
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 10, 57])
def test_queries_are_what_a_wrapper_counts_and_never_too_many(bent: Problem, name: str, norm: str, queries: int) -> None:
    """T10: a batch out of reach spends what each sample spends alone, and the search spends all that it may."""
    net, x, y = bent
    threat = ThreatModel.parse(norm, "0.0001")
    _, meter = attacked(name, bent, threat, queries=queries)
    for row in (0, 5):
        counter = Recorder(net)
        attacked(name, (counter, x[row : row + 1], y[row : row + 1]), threat, torch.tensor([row]), queries=queries)
        assert len(counter.images) == meter.forwards[row] <= queries
    if name in ("rays", "hop_skip_jump", "random_noise"):
        assert (meter.forwards == queries).all()
    elif queries >= 4:
        assert (meter.forwards >= 4).all()


@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_an_estimate_is_only_paid_for_where_its_step_can_be_judged(bent: Problem, name: str) -> None:
    """A step of 3 pairs costs 7 with its judgement; where there is not enough for one, it is made of fewer pairs."""
    for queries, spent in ((1, 1), (3, 1), (4, 4), (7, 6), (8, 8), (14, 8), (15, 15), (20, 15)):
        _, meter = attacked(name, bent, ThreatModel.parse("linf", "0.0001"), queries=queries, pairs=3)
        assert (meter.forwards == spent).all()


@every_case
def test_more_queries_never_lose_a_success(bent: Problem, name: str, norm: str) -> None:
    """T03, and that each budget adds some."""
    net, _, y = bent
    threat = ThreatModel.parse(norm, {"linf": "0.03", "l2": "0.15", "l1": "3"}[norm])
    steps = {"pairs": 10} if name in ("nes", "spsa") else {}
    before = torch.zeros_like(y, dtype=torch.bool)
    for queries in (1, 64, 400):
        z, _ = attacked(name, bent, threat, queries=queries, **steps)
        fooled = net(z).argmax(1) != y
        assert fooled[before].all()
        before = fooled
    assert before.any()


@every_walk
def test_the_distance_never_grows(bent: Problem, name: str, norm: str) -> None:
    """T10: a longer walk begins like a shorter one, and what it returns is never farther."""
    net, x, y = bent
    threat = ThreatModel.parse(norm, 0)
    before = torch.full((len(x),), torch.inf)
    for queries in (1, 30, 100, 400):
        z, _ = attacked(name, bent, threat, queries=queries, beyond=True)
        wrong, distance = net(z).argmax(1) != y, threat.distance(z, x)
        assert torch.equal(z[~wrong], x[~wrong])
        assert (distance[wrong] <= before[wrong]).all()
        assert wrong[before.isfinite()].all()
        before = torch.where(wrong, distance, torch.inf)
    assert before.isfinite().all()


@every_walk
def test_only_what_was_asked_about_is_claimed(bent: Problem, name: str, norm: str) -> None:
    for row in range(2):
        z, images, wrong, distance = recorded(name, bent, norm, row, queries=250)
        best = torch.where(wrong, distance, torch.inf).argmin()
        assert wrong[best]
        assert torch.equal(z[0], images[best])


@every_walk
def test_a_walk_ends_at_its_first_example_in_the_ball(bent: Problem, name: str, norm: str) -> None:
    net, x, y = bent
    threat = ThreatModel.parse(norm, {"linf": "0.007", "l2": "0.06"}[norm])
    whole, meter = attacked(name, bent, threat, queries=300)
    fooled = net(whole).argmax(1) != y
    assert 0 < fooled.sum() < len(x)
    # One may fall to its last query.
    assert fooled[meter.forwards < 300].all()
    assert (meter.forwards[~fooled] == 300).all()
    assert (meter.forwards[fooled] < 300).any()
    assert threat.contains(whole, x).all()
    for row in fooled.nonzero().flatten().tolist()[:2]:
        _, images, wrong, distance = recorded(name, bent, norm, row, queries=300)
        first = int((wrong & threat.contains(images, x[row].expand_as(images))).nonzero()[0])
        assert meter.forwards[row] == first + 1
        assert torch.equal(whole[row], images[first])
        assert distance[first] <= threat.radius + 1e-6


@every_walk
def test_labels_are_all_that_a_walk_needs(bent: Problem, name: str, norm: str) -> None:
    """The same bits from a network that tells nothing but its label."""

    class Labels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(net(x).argmax(1), 4).float()

    net, x, y = bent
    threat = ThreatModel.parse(norm, 0)
    with_logits, _ = attacked(name, bent, threat, queries=300, beyond=True)
    with_labels, _ = attacked(name, (Labels(), x, y), threat, queries=300, beyond=True)
    assert torch.equal(with_logits, with_labels)


@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_estimates_need_more_than_labels(bent: Problem, name: str) -> None:
    net, x, y = bent
    attack = get_attack(name)
    with pytest.raises(AccessError, match="asked for logits"):
        attack.run(
            Decision(net, Meter(len(x), x.device)), x, y, ThreatModel.parse("linf", "0.1"), Rng(0, y), **attack.configure({})
        )


def plain_rays(net: nn.Module, x: Tensor, label: int, queries: int) -> list[Tensor]:
    """RayS on one image, written as the paper tells it; returns all that it asks about."""
    asked: list[Tensor] = []

    def fooled(sign: Tensor, radius: float) -> bool:
        asked.append((x + radius * sign).clamp(0, 1))
        return int(net(asked[-1][None].expand(16, -1, -1, -1))[0].argmax()) != label

    def blocks() -> Any:
        yield slice(0, 0)
        count = 1
        while True:
            edges = [-(-k * x.numel() // count) for k in range(count + 1)]
            yield from (slice(*pair) for pair in pairwise(edges))
            count = min(2 * count, x.numel())

    sign, radius = torch.ones(x.numel()), 1.0
    for block in blocks():
        flipped = sign.clone()
        flipped[block] *= -1
        if fooled(flipped.view_as(x), radius):
            low, high = 0.0, radius
            while high - low > 1e-3 / sqrt(x.numel()):
                middle = (low + high) / 2
                low, high = (low, middle) if fooled(flipped.view_as(x), middle) else (middle, high)
            if high < radius:
                sign, radius = flipped, high
        if len(asked) >= queries:
            return asked[:queries]
    raise AssertionError


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 3)], ids=str)
def test_rays_asks_what_the_paper_asks(shape: tuple[int, ...]) -> None:
    """Query by query, also where the blocks do not come out even."""
    problem = linear(3, *shape)
    for row in range(2):
        _, images, wrong, distance = recorded("rays", problem, "linf", row, queries=700)
        torch.testing.assert_close(images, torch.stack(plain_rays(problem[0], problem[1][row], int(problem[2][row]), 700)))
        # Beyond 0.4 the box cuts the ray, so that distances say nothing of radii.
        radii = distance[wrong].clamp_max(0.4)
        assert (radii.diff() <= 1e-6).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5)], ids=str)
def test_rays_reaches_the_boundary_of_a_linear_network(shape: tuple[int, ...]) -> None:
    """margin / |w|_1, and no farther off than what its bisections cannot see.

    A sign stays wrong only where that costs less than the tolerance; all such signs of the network together bound the rest.
    """
    problem, tolerance = linear(2, *shape), 1e-4
    net, x, _ = problem
    exact, seen = nearest(problem, "linf"), tolerance / sqrt(prod(shape))
    z, _ = attacked("rays", problem, ThreatModel.parse("linf", 0), queries=3000, tolerance=tolerance, beyond=True)
    size = (net[1].weight[0] - net[1].weight[1]).abs()
    gap = (exact * size.sum()).unsqueeze(1)
    unseen = gap / size.sum() - gap / (size.sum() + 2 * size) <= seen
    worst = gap.squeeze(1) / (size.sum() - 2 * (unseen * size).sum(1)) + seen
    distance, clear = (z - x).flatten(1).abs().amax(1), exact > 0.002
    assert clear.sum() >= 8
    assert (distance >= exact - 1e-6).all()
    assert (distance <= worst + 1e-6)[clear].all()
    assert (worst <= 1.05 * exact)[clear].all()


class Slab(nn.Module):
    """Class 1 between two parallel planes, 0.3 apart, around the centre of the box: a leap may go too far."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.normal = nn.functional.normalize(Rng(5, torch.arange(1)).normal((pixels,))[0], dim=0)

    def forward(self, x: Tensor) -> Tensor:
        inside = 0.15 - ((x.flatten(1) - 0.5) @ self.normal).abs()
        return torch.stack([-inside, inside], 1)


def beside_a_slab() -> Problem:
    """Images half a unit and more in front of the slab."""
    net = Slab(36)
    away = (0.65 + 0.3 * torch.linspace(0, 1, 6).unsqueeze(1)) * net.normal
    x = (0.5 + away).view(6, 1, 6, 6)
    assert ((x > 0) & (x < 1)).all()
    return net, x, torch.zeros(6, dtype=torch.int64)


def follow_hop_skip_jump(images: Tensor, wrong: list[bool], x: Tensor, threat: ThreatModel) -> list[int]:
    """Check that each query is the one that the paper asks after the answers before it; returns the length of each stage."""
    images, x, pixels = images.double(), x.double(), x.numel()
    theta = 1 / pixels ** (2 if threat.norm == "linf" else 1.5)
    at, stages = wrong.index(True), [wrong.index(True) + 1]
    for turn in range(1, 1000):
        far, edge, span = images[at], images[at], float(threat.distance(images[at : at + 1], x))
        at += 1
        low, high, began = 0.0, span, at
        while high - low > theta * span and at < len(wrong):
            middle = (low + high) / 2
            ray = x + middle / span * (far - x) if threat.norm == "l2" else torch.clamp(far, x - middle, x + middle)
            torch.testing.assert_close(images[at], ray, atol=1e-5, rtol=0)
            low, high, edge = (low, middle, images[at]) if wrong[at] else (middle, high, edge)
            at += 1
        probe, count = 0.1 if turn == 1 else span / pixels, int(100 * sqrt(turn))
        gone = (images[at : at + count] - edge) / probe
        cut = ((images[at : at + count] == 0) | (images[at : at + count] == 1)).flatten(1).any(1)
        torch.testing.assert_close(gone.flatten(1).norm(dim=1)[~cut], torch.ones_like(cut[~cut]).double(), atol=1e-3, rtol=0)
        sides = 2 * torch.tensor(wrong[at : at + count]).double() - 1
        stages += [at - began, len(gone)]
        at, began = at + count, at + count
        weight = sides - (0 if sides.abs().sum() == sides.sum().abs() else sides.mean())
        normal = (weight.view(-1, 1, 1, 1) * gone).sum(0)
        sure = normal.abs() > 1e-3 * normal.abs().max()
        normal = normal.sign() if threat.norm == "linf" else normal / normal.norm()
        leap = high / sqrt(turn)
        while at < len(wrong):
            torch.testing.assert_close(images[at][sure], (edge + leap * normal).clamp(0, 1)[sure], atol=1e-4, rtol=0)
            if wrong[at]:
                break
            leap, at = leap / 2, at + 1
        if at >= len(wrong):
            return stages
        stages.append(at + 1 - began)
    raise AssertionError


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hop_skip_jump_asks_what_the_paper_asks(norm: str) -> None:
    """Query by query, also where leaps fall short or go too far."""
    leaps = []
    for problem in (linear(3, 1, 6, 6), beside_a_slab()):
        _, images, wrong, _ = recorded("hop_skip_jump", problem, norm, 0, queries=800)
        leaps += follow_hop_skip_jump(images, wrong.tolist(), problem[1][0], ThreatModel.parse(norm, 0))[3::3]
    assert len(leaps) >= 6
    assert max(leaps) > 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hop_skip_jump_comes_close_to_the_boundary_of_a_linear_network(norm: str) -> None:
    problem, threat = linear(2, 1, 8, 8), ThreatModel.parse(norm, 0)
    z, _ = attacked("hop_skip_jump", problem, threat, queries=1500, beyond=True)
    ratio = threat.distance(z, problem[1]) / nearest(problem, norm)
    assert (ratio >= 1 - 1e-3).all()
    assert (ratio <= 1.2).all()


@every_walk
def test_no_walk_passes_the_nearest_of_many_boundaries(name: str, norm: str) -> None:
    problem, threat = linear(10, 1, 6, 6), ThreatModel.parse(norm, 0)
    z, _ = attacked(name, problem, threat, queries=600, beyond=True)
    distance = threat.distance(z, problem[1])
    assert (distance >= nearest(problem, norm) - 1e-6).all()
    assert (problem[0](z).argmax(1) != problem[2]).all()


class Rough(nn.Module):
    """Class 0 wherever neighbouring pixels differ much: fine noise is class 0, large patches are class 1."""

    def forward(self, x: Tensor) -> Tensor:
        roughness = x.diff(dim=2).abs().mean((1, 2, 3)) - 0.15
        return torch.stack([roughness, -roughness], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hop_skip_jump_starts_where_noise_has_one_label(norm: str) -> None:
    x = Rng(0, torch.arange(12)).uniform((1, 16, 16))
    net, y = Rough(), torch.zeros(12, dtype=torch.int64)
    fine = Rng(1, torch.arange(500)).uniform((1, 16, 16))
    assert (net(torch.cat([x, fine])).argmax(1) == 0).all()
    z, _ = attacked("hop_skip_jump", (net, x, y), ThreatModel.parse(norm, 0), queries=20, beyond=True)
    assert (net(z).argmax(1) == 1).all()


def one_answer() -> nn.Module:
    """A network for which every image is class 0."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    net[1].weight.zero_()
    net[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    return net


@every_walk
def test_a_network_with_one_answer_leaves_the_image_alone(bent: Problem, name: str, norm: str) -> None:
    _, x, _ = bent
    problem = (one_answer(), x, torch.zeros(len(x), dtype=torch.int64))
    assert torch.equal(attacked(name, problem, ThreatModel.parse(norm, "0.1"), queries=60, beyond=True)[0], x)


DIRECTIONS = {"nes": lambda rng, x: rng.normal(x.shape[1:]), "spsa": signs}
"""How each attack draws one, and by how much the square of an estimate's relative error exceeds pixels / directions."""


def estimates(name: str, net: nn.Module, x: Tensor, y: Tensor, rows: int, pairs: int) -> Tensor:
    """Independent estimates of the gradient at one image, [rows, C, H, W], each from this many pairs of probes."""
    many, rng = x[:1].expand(rows, -1, -1, -1), Rng(2, torch.arange(rows))
    probes = (DIRECTIONS[name](rng.at("probe", pair), many) for pair in range(pairs))
    return estimate(Score(net, Meter(rows, x.device)), many, y[:1].expand(rows), probes, 0.01)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_mean_of_many_estimates_is_the_gradient(name: str) -> None:
    """T12: 10^4 estimates on a smooth network, within 5 % of autograd."""
    with isolated(4):
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 2))
    x, y = 0.1 + 0.8 * Rng(0, torch.arange(1)).uniform((3, 4, 4)), torch.zeros(1, dtype=torch.int64)
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(margin(net(z), y).sum(), z)
    mean = estimates(name, net, x, y, 10_000, 8).mean(0)
    assert (mean - grad[0]).norm() <= 0.05 * grad.norm()


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("pairs", [3, 48])
def test_the_error_of_an_estimate_is_what_theory_says(name: str, pairs: int) -> None:
    """On a linear network the squared relative error is (d + 1) / n for Gaussian directions and (d - 1) / n for signs."""
    net, x, y = linear(2, 3, 4, 4)
    grad = (net[1].weight[1 - y[0]] - net[1].weight[y[0]]).view(3, 4, 4)
    error = (estimates(name, net, x, y, 4000, pairs) - grad).square().flatten(1).sum(1) / grad.square().sum()
    expected = (48 + (1 if name == "nes" else -1)) / pairs
    assert abs(error.mean() - expected) <= 5 * error.std() / sqrt(4000)
    assert error.std() / sqrt(4000) < 0.02 * expected


def test_probes_are_images() -> None:
    """Also at pixels on the faces of the box, where the estimate still sees the slope."""
    net, _, _ = linear(2, 1, 4, 4)
    x = (Rng(0, torch.arange(1)).uniform((1, 4, 4)) < 0.5).float()
    y, recorder = net(x).argmax(1), Recorder(net)
    rng = Rng(1, torch.arange(1))
    probes = [signs(rng.at(pair), x) for pair in range(200)]
    found = estimate(Score(recorder, Meter(1, x.device)), x, y, probes, 0.01)
    asked = torch.stack(recorder.images)
    assert len(asked) == 400
    assert (asked >= 0).all()
    assert (asked <= 1).all()
    exact = (torch.stack(probes) * (torch.stack(probes) * (net[1].weight[1 - y] - net[1].weight[y]).view_as(x)).sum(
        (2, 3, 4), keepdim=True
    )).mean(0)  # fmt: skip
    torch.testing.assert_close(found, exact, atol=1e-3, rtol=0)


class Masked(nn.Module):
    """Loud logits of an image cut to 8 grey levels: no gradient survives, the scores and the labels still tell."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Rng(1, torch.arange(1)).normal((16,))[0]

    def forward(self, x: Tensor) -> Tensor:
        score = (torch.floor(x * 8) / 8).flatten(1) @ self.weight
        score = score - 0.5 * self.weight.sum()
        return 1e4 * torch.stack([score, -score], 1)


@pytest.mark.parametrize(("name", "parameters"), [("nes", {"size": 0.05}), ("spsa", {"size": 0.05}), ("rays", {})], ids=str)
def test_black_boxes_see_through_a_masked_gradient(name: str, parameters: dict[str, Any]) -> None:
    """They fool exactly the images that can be fooled: rising levels make a corner of the ball the worst point in it."""
    net, threat = Masked(), ThreatModel.parse("linf", "0.05")
    x = 0.3 + 0.4 * Rng(2, torch.arange(24)).uniform((1, 4, 4))
    y = net(x).argmax(1)
    toward = net.weight.view(1, 4, 4).sign() * torch.where(y == 0, -1, 1).view(-1, 1, 1, 1)
    reach = net((x + threat.radius * toward).clamp(0, 1)).argmax(1) != y
    assert 5 < reach.sum() < 20
    fgsm = get_attack("fgsm")
    blind = fgsm.run(VIEWS["gradient"](net, Meter(24, x.device)), x, y, threat, Rng(0, y), **fgsm.configure({}))
    assert torch.equal(blind, x)
    z, _ = attacked(name, (net, x, y), threat, queries=1500, **parameters)
    assert torch.equal(net(z).argmax(1) != y, reach)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.2"), ("l2", "0.5")])
def test_noise_estimates_and_gradients_rank_as_they_should(fast_run: Path, norm: str, eps: str) -> None:
    """On a trained network that hides nothing: random noise, then estimated gradients, then true ones."""
    digits, threat = load("digits", "test"), ThreatModel.parse(norm, eps)
    net = resolve(str(fast_run), digits.shape, digits.classes).net
    x, y = digits.batch(torch.arange(80))
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    pgd = get_attack("pgd")
    view = VIEWS["gradient"](net, Meter(len(x), x.device))
    z = pgd.run(view, x, y, threat, Rng(0, torch.arange(len(x))), **pgd.configure({"loss": "margin"}))
    white = int((net(z).argmax(1) != y).sum())
    fooled = {}
    for name in ("random_noise", "nes", "spsa"):
        z, _ = attacked(name, (net, x, y), threat, queries=600)
        fooled[name] = int((net(z).argmax(1) != y).sum())
    for name in ("nes", "spsa"):
        assert 0 < fooled["random_noise"] < fooled[name] <= white


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.05"), ("l2", "0.5"), ("l1", "1")])
def test_noise_comes_from_the_corners_as_often_as_asked(bent: Problem, norm: str, eps: str) -> None:
    _, x, _ = bent
    threat, counter, y = ThreatModel.parse(norm, eps), Recorder(one_answer()), torch.zeros(1, dtype=torch.int64)
    for corners in (0.0, 0.25, 1.0):
        counter.images.clear()
        attacked("random_noise", (counter, x[:1], y), threat, queries=80, corners=corners)
        images = torch.stack(counter.images)
        assert len(images) == 80
        assert threat.contains(images, x[:1].expand_as(images)).all()
        least = (images - x[0]).flatten(1).abs().amin(1) if norm == "linf" else threat.distance(images, x[0])
        assert int((least > threat.radius - 1e-5).sum()) == 80 * corners


@pytest.mark.parametrize("shape", [(1, 1, 64), (1, 64, 1), (3, 1, 1)])
def test_square_moves_on_images_of_one_row_or_column(shape: tuple[int, int, int]) -> None:
    """Windows of no pixel asked about the same image thousands of times."""
    asked = []

    class Line(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.detach().clone())
            score = x.flatten(1).mean(1)
            return torch.stack([score, 0.5 - score * 0], 1)

    x, threat = torch.full((2, *shape), 0.6), ThreatModel.parse("linf", "0.05")
    view = Score(Line(), Meter(2, x.device, 60), x)
    get_attack("square").run(view, x, torch.zeros(2).long(), threat, Rng(0, torch.arange(2)), queries=60)
    assert len({part.numpy().tobytes() for part in torch.cat(asked)}) > 5
