"""What every attack owes whatever the model: legal candidates, independence of the batch, honest counts."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.attacks.square import share
from bench.core.losses import dlr, margin
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Decision, Gradient, Meter, Score
from bench.doctor.attack_checks import network
from bench.errors import AccessError, BadInput
from bench.plugins.registry import attack_names, get_attack

EPS = {"linf": "0.06", "l2": "0.5", "l1": "4"}
SMALL: dict[str, Any] = {"queries": 80, "steps": 10}
"""Budgets for those parameters that an attack has."""
NAMES = [name for name in attack_names() if get_attack(name).access != "module"]
CASES = [
    *[(name, norm, {}) for name in NAMES for norm in sorted(get_attack(name).norms)],
    *[("simba", norm, {"basis": "dct", "freq_dims": 4}) for norm in ("linf", "l2")],
    ("square", "linf", {"rescale": True}),
]
every_case = pytest.mark.parametrize(("name", "norm", "extra"), CASES, ids=lambda value: str(value) if value else "")


def _settings(name: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    attack = get_attack(name)
    return attack.configure({key: SMALL[key] for key in SMALL if key in attack.parameters} | dict(extra))


def _attack(
    name: str, threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None = None, **extra: Any
) -> tuple[Tensor, Meter]:
    attack, settings = get_attack(name), _settings(name, extra)
    meter = Meter(len(x), x.device, settings.get("queries"))
    rng = Rng(5, torch.arange(len(x)) if ids is None else ids)
    return attack.run(VIEWS[attack.access](net, meter), x, y, threat, rng, **settings), meter


@pytest.fixture
def images() -> Tensor:
    return Rng(0, torch.arange(24)).uniform((3, 8, 8))


@pytest.fixture(params=[2, 3, 5], ids=lambda classes: f"{classes} classes")
def model(request: pytest.FixtureRequest, images: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    net = network(request.param, images)
    return net, images, net(images).argmax(1)


@pytest.fixture
def five(images: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    net = network(5, images)
    return net, images, net(images).argmax(1)


class Recorder(nn.Module):
    """Keeps the first image and logits of every call; batches are padded with copies of the first row."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []
        self.logits: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        self.seen.append(x[0].detach().clone())
        self.logits.append(logits[0].detach().clone())
        return logits


@every_case
def test_candidates_are_legal(model: Any, name: str, norm: str, extra: dict[str, Any]) -> None:
    net, x, y = model
    threat = ThreatModel.parse(norm, EPS[norm])
    for rows in (slice(None), slice(0, 1)):
        z, _ = _attack(name, threat, net, x[rows], y[rows], **extra)
        assert z.shape == x[rows].shape
        assert z.dtype == x.dtype
        assert threat.contains(z, x[rows]).all()


@every_case
def test_an_empty_batch_is_no_error(five: Any, name: str, norm: str, extra: dict[str, Any]) -> None:
    net, x, y = five
    assert len(_attack(name, ThreatModel.parse(norm, EPS[norm]), net, x[:0], y[:0], **extra)[0]) == 0


@every_case
def test_a_sample_does_not_see_its_batch(five: Any, name: str, norm: str, extra: dict[str, Any]) -> None:
    net, x, y = five
    threat = ThreatModel.parse(norm, EPS[norm])
    whole, _ = _attack(name, threat, net, x, y, **extra)
    for chosen in ([17, 3, 8, 11, 20], [5], list(range(23, -1, -1))):
        rows = torch.tensor(chosen)
        part, _ = _attack(name, threat, net, x[rows], y[rows], rows, **extra)
        assert torch.equal(part, whole[rows])


@every_case
def test_queries_are_counted_sample_by_sample(five: Any, name: str, norm: str, extra: dict[str, Any]) -> None:
    net, x, y = five
    threat = ThreatModel.parse(norm, EPS[norm])
    _, together = _attack(name, threat, net, x, y, **extra)
    for row in range(6):
        counter = Recorder(net)
        _attack(name, threat, counter, x[row : row + 1], y[row : row + 1], torch.tensor([row]), **extra)
        assert len(counter.seen) == together.forwards[row]
    if together.limit is not None:
        assert together.forwards.max() <= together.limit


@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize("name", ["square", "simba"])
def test_the_smallest_budgets_hold(five: Any, name: str, queries: int) -> None:
    net, x, y = five
    _, meter = _attack(name, ThreatModel.parse("linf", "0.001"), net, x, y, queries=queries)
    assert (meter.forwards == queries).all()


@every_case
def test_eps_zero_changes_nothing(five: Any, name: str, norm: str, extra: dict[str, Any]) -> None:
    net, x, y = five
    assert torch.equal(_attack(name, ThreatModel.parse(norm, 0), net, x, y, **extra)[0], x)


@pytest.mark.parametrize(
    ("name", "budget"), [("pgd", {"steps": n}) for n in (2, 20)] + [(n, {"queries": 60}) for n in ("square", "simba")]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_of_the_same_never_loses_a_success(five: Any, name: str, budget: dict[str, int], norm: str) -> None:
    net, x, y = five
    threat = ThreatModel.parse(norm, EPS[norm]).scaled(0.25)
    less, _ = _attack(name, threat, net, x, y, **budget)
    more, _ = _attack(name, threat, net, x, y, **{key: 3 * value for key, value in budget.items()})
    assert (net(more).argmax(1) != y)[net(less).argmax(1) != y].all()


@settings(deadline=None)
@given(shift=st.floats(-100, 100), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_dlr_is_blind_to_shift_and_scale(shift: float, scale: float, seed: int) -> None:
    logits = Rng(seed, torch.arange(8)).normal((6,)).double()
    y = torch.arange(8) % 6
    torch.testing.assert_close(dlr(scale * logits + shift, y), dlr(logits, y), atol=1e-5, rtol=1e-5)


def test_dlr_needs_three_classes() -> None:
    with pytest.raises(BadInput, match="at least 3 classes"):
        dlr(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))


def test_the_window_schedule_of_square() -> None:
    table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2000: 32, 2001: 64}
    table |= {4000: 64, 4001: 128, 6000: 128, 6001: 256, 8000: 256, 8001: 512, 10_000: 512}
    assert {query: 0.8 / share(query, 0.8) for query in table} == table


def _recorded(name: str, norm: str, net: nn.Module, x: Tensor, **extra: Any) -> tuple[Recorder, Tensor]:
    """A run on one image that cannot be fooled, and its result; label 0 stays 50 ahead."""
    recorder = Recorder(net)
    net[-1].bias[0] += 50
    z, _ = _attack(name, ThreatModel.parse(norm, EPS[norm]), recorder, x[:1], torch.zeros(1, dtype=torch.int64), **extra)
    assert len(recorder.seen) == _settings(name, extra)["queries"]
    return recorder, z[0]


def _record_holders(recorder: Recorder, score: Tensor) -> list[int]:
    """The index of the best query so far, before each query but the first."""
    best = list(itertools.accumulate(range(len(score)), lambda a, b: b if score[b] > score[a] else a))
    assert len(set(best)) > 5
    return best


@pytest.mark.parametrize("rescale", [False, True])
def test_square_changes_one_window_of_its_best_image(five: Any, rescale: bool) -> None:
    net, x, _ = five
    recorder, result = _recorded("square", "linf", net, x, queries=300, rescale=rescale)
    margins = margin(torch.stack(recorder.logits), torch.zeros(300, dtype=torch.int64))
    best = _record_holders(recorder, margins)
    assert torch.equal(result, recorder.seen[best[-1]])
    for query in range(299):
        changed = (recorder.seen[query + 1] != recorder.seen[best[query]]).any(0).nonzero()
        side = round((share(query * 10_000 // 300 if rescale else query, 0.8) * 64) ** 0.5)
        if len(changed):
            assert (changed.amax(0) - changed.amin(0)).max() < min(max(side, 1), 7)


def test_square_in_l2_stays_on_the_sphere(five: Any) -> None:
    net, x, _ = five
    inside = 0.4 + 0.2 * x
    recorder, _ = _recorded("square", "l2", net, inside, queries=200)
    lengths = (torch.stack(recorder.seen) - inside[0]).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_simba_moves_one_pixel_of_its_best_image(five: Any, norm: str) -> None:
    net, x, _ = five
    recorder, result = _recorded("simba", norm, net, x, queries=x[0].numel(), step=0.03)
    logits = torch.stack(recorder.logits)
    best = _record_holders(recorder, logits[:, 1:].logsumexp(1) - logits[:, 0])
    assert torch.equal(result, recorder.seen[best[-1]])
    assert (logits[best].double().softmax(1)[:, 0].diff() <= 0).all()
    # The projection onto the l2 ball moves every pixel, but only once the steps have filled the ball.
    full = x[0].numel() if norm == "linf" else int((0.5 / 0.03) ** 2)
    for query, holder in enumerate(best[:-1]):
        accepted = len(set(best[: query + 1])) - 1
        if accepted < full:
            assert (recorder.seen[query + 1] != recorder.seen[holder]).sum() <= 1
            assert (recorder.seen[holder] - x[0]).norm() <= 0.03 * accepted**0.5 + 1e-5


def test_simba_refuses_frequencies_of_pixels(five: Any) -> None:
    with pytest.raises(BadInput, match="freq_dims"):
        _attack("simba", ThreatModel.parse("linf", "0.1"), *five, freq_dims=4)


class Masked(nn.Module):
    """Loud logits of an image cut to 8 grey levels: no gradient survives, the scores still tell."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Rng(1, torch.arange(1)).normal((16,))[0]

    def forward(self, x: Tensor) -> Tensor:
        score = (torch.floor(x * 8) / 8).flatten(1) @ self.weight
        score = score - 0.5 * self.weight.sum()
        return 1e4 * torch.stack([score, -score], 1)


def test_searches_see_through_a_masked_gradient() -> None:
    net, threat = Masked(), ThreatModel.parse("linf", "0.15")
    x = 0.3 + 0.4 * Rng(2, torch.arange(24)).uniform((1, 4, 4))
    y = net(x).argmax(1)
    toward = net.weight.view(1, 4, 4).sign() * torch.where(y == 0, -1, 1).view(-1, 1, 1, 1)
    within_reach = net((x + threat.radius * toward).clamp(0, 1)).argmax(1) != y
    assert within_reach.sum() > 5
    assert torch.equal(_attack("fgsm", threat, net, x, y)[0], x)
    for name, queries in (("square", 1500), ("simba", 33)):
        z, _ = _attack(name, threat, net, x, y, queries=queries)
        assert torch.equal(net(z).argmax(1) != y, within_reach)


def test_loud_logits_do_not_stop_pgd(images: Tensor) -> None:
    """With two classes the direction of the gradient is that of the margin, however loud the logits."""
    quiet = network(2, images)
    y = quiet(images).argmax(1)
    loud = network(2, images)
    loud[-1].weight *= 1e4
    loud[-1].bias *= 1e4
    for eps in ("0.01", "0.02", "0.04"):
        threat = ThreatModel.parse("linf", eps)
        flags = [net(_attack("pgd", threat, net, images, y)[0]).argmax(1) != y for net in (quiet, loud)]
        assert torch.equal(*flags)


def test_a_view_refuses_what_was_not_declared(five: Any) -> None:
    net, x, _ = five
    for view in (Decision, Score):
        with pytest.raises(AccessError, match="asked for grad"):
            view(net, Meter(len(x), x.device)).grad(x, dlr, None)
    with pytest.raises(AccessError, match="asked for logits"):
        Decision(net, Meter(len(x), x.device)).logits(x)
    with pytest.raises(AccessError, match="asked for module"):
        _ = Gradient(net, Meter(len(x), x.device)).module
    limited = Score(net, Meter(len(x), x.device, 1))
    limited.logits(x)
    with pytest.raises(AccessError, match="more than its 1 queries"):
        limited.logits(x)


def test_autoattack_is_legal_too(five: Any) -> None:
    net, x, y = five
    threat, attack = ThreatModel.parse("linf", "0.2"), get_attack("autoattack")
    view = VIEWS[attack.access](net, Meter(4, x.device))
    z = attack.run(view, x[:4], y[:4], threat, Rng(0, torch.arange(4)), **attack.configure({}))
    assert threat.contains(z, x[:4]).all()
    assert (net(z).argmax(1) != y[:4]).all()
