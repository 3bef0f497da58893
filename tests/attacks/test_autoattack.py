"""The AutoAttack adapter: the reference's own results in every version, its flags, and nothing left behind."""

import random
import sys
from types import FrameType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench.compat.autoattack import run_autoattack
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.errors import AttackWarning, BadInput
from bench.plugins.registry import get_attack

BATCH = 4
Trained = tuple[nn.Module, Tensor, Tensor]


def _trained(classes: int, points: int) -> Trained:
    digits = load_digits(n_class=classes)
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    with isolated(0, "digits"):
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, classes))
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            rows = torch.randint(len(x), (128,))
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        optimizer.zero_grad()
    return net.eval(), x[:points], y[:points]


@pytest.fixture(scope="module")
def digits() -> Trained:
    return _trained(10, 40)


@pytest.fixture
def broken(digits: Trained) -> Trained:
    """Every label is wrong, so the reference checks the model and has nothing left to attack."""
    net, x, _ = digits
    return net, x, (net(x).argmax(1) + 1) % 10


def _run(trained: Trained, norm: str = "linf", eps: str = "0.1", version: str = "standard") -> tuple[Tensor, list[str]]:
    net, x, y = trained
    threat = ThreatModel.parse(norm, eps)
    return run_autoattack(net, x, y, threat, version=version, seed=7, batch_size=BATCH)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "norm", "eps", "own", "own_norm", "broken"),
    [
        ("standard", "linf", "0.16", "standard", "Linf", 5),
        ("standard", "l2", "1.2", "standard", "L2", 6),
        ("plus", "linf", "0.2", "plus", "Linf", 6),
        ("rand", "linf", "0.1", "rand", "Linf", 2),
        ("l1", "l1", "2.5", "standard", "L1", 6),
        ("standard", "l1", "2.5", "standard", "L1", 6),
    ],
)
def test_candidates_equal_the_reference_bit_for_bit(
    digits: Trained, version: str, norm: str, eps: str, own: str, own_norm: str, broken: int
) -> None:
    """In two batches; where a point stands to the end, every attack of the version has been compared on it."""
    net, x, y = (part[:6] if isinstance(part, Tensor) else part for part in digits)
    with isolated(1, "direct"):
        alone = AutoAttack(net, norm=own_norm, eps=float(eps), seed=7, version=own)
        expected, _ = alone.run_standard_evaluation(x, y, batch_size=BATCH)
    got, notes = _run((net, x, y), norm, eps, version)
    assert torch.equal(got, expected)
    assert int((net(got).argmax(1) != y).sum()) == broken
    assert notes == []


def test_the_l1_version_is_for_l1(digits: Trained) -> None:
    for norm in ("linf", "l2"):
        with pytest.raises(BadInput, match=f"version 'l1' is for l1, and the threat is {norm} 0.1; use 'standard'"):
            _run(digits, norm, "0.1", "l1")


def test_versions_without_settings_for_l1_say_so(broken: Trained) -> None:
    for version in ("plus", "rand"):
        assert _run(broken, "l1", "1", version)[1] == [
            f"AutoAttack {version} is not made for l1; version 'l1' searches larger balls first"
        ]


def test_channels_last_images_give_the_same(digits: Trained) -> None:
    net, x, _ = digits
    colour = nn.Sequential(nn.Conv2d(3, 1, 1), *net)
    x = x[:8].expand(-1, 3, -1, -1)
    plain, _ = _run((colour, x.contiguous(), colour(x).argmax(1)), eps="0.3")
    last, _ = _run((colour, x.contiguous(memory_format=torch.channels_last), colour(x).argmax(1)), eps="0.3")
    assert torch.equal(plain, last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "version", "ran"),
    [
        (2, "standard", "apgd-ce, fab, square"),
        (3, "standard", "apgd-ce, apgd-dlr, fab, square"),
        (3, "plus", "apgd-ce, apgd-dlr, fab, square"),
        (2, "rand", "apgd-ce"),
    ],
)
def test_few_classes_run_what_exists_and_say_so(classes: int, version: str, ran: str) -> None:
    net, x, y = _trained(classes, 12)
    candidates, notes = _run((net, x, y), eps="0.3", version=version)
    assert ThreatModel.parse("linf", "0.3").contains(candidates, x).all()
    assert (net(candidates).argmax(1) != y).any()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert any(note.endswith(f"it ran {ran} instead") for note in notes)


def test_five_classes_have_four_targets() -> None:
    net, x, y = _trained(5, 12)
    _, notes = _run((net, x, y), eps="0.3")
    assert not any("target classes" in note for note in notes)


def test_nothing_outside_is_touched(broken: Trained, capfd: pytest.CaptureFixture[str]) -> None:
    def trace(frame: FrameType, event: str, argument: object) -> None:
        return None

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        candidates, notes = _run(broken)
        kept = sys.gettrace()
    finally:
        sys.settrace(previous)
    assert kept is trace
    assert notes == []
    assert torch.equal(candidates, broken[1])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert capfd.readouterr() == ("", "")


class _Dynamic(nn.Module):
    """A defense that takes gradients while it predicts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            (step,) = torch.autograd.grad(self.net(z).sum(), z)
        return self.net(x + 0 * step)


class _Noisy(nn.Module):
    def __init__(self, net: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.scale * torch.rand_like(x))


def test_no_points_no_work(digits: Trained) -> None:
    net, x, y = digits
    assert len(_run((net, x[:0], y[:0]))[0]) == 0


def test_the_attack_warns_and_counts(broken: Trained) -> None:
    net, x, y = broken
    attack, meter = get_attack("autoattack"), Meter(len(x), x.device)
    view = VIEWS[attack.access](nn.Sequential(net, nn.Softmax(1)), meter)
    with pytest.warns(AttackWarning, match="probability distribution"):
        z = attack.run(view, x, y, ThreatModel.parse("linf", "0.1"), Rng(0, torch.arange(len(x))), **attack.configure({}))
    assert torch.equal(z, x)
    # 1 for the number of classes, 5 + 1 + 1 full passes of checks, 1 for the clean labels.
    assert meter.forwards.sum() == 1 + 8 * len(x)


class _Rounded(nn.Module):
    """Rounds its input to the 16 grey levels of the digits: no gradient, and nothing moves below half a level."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 16).round() / 16)


class _Misled(nn.Module):
    """The same answers with a gradient that belongs to the opposite pixels, which misleads all but Square."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        still = x.detach()
        return self.net(still + (x - still).flip(2, 3))


def test_flags_of_the_model_do_not_taint_the_next(broken: Trained) -> None:
    """T16: three flaws that the reference sees before it attacks; a sound model raises no flag, before or after."""
    net, x, y = broken
    for flawed, flag in [
        (nn.Sequential(net, nn.Softmax(1)), "probability distribution"),
        (_Dynamic(net), "dynamic defense"),
        (_Noisy(net), "randomized defense"),
    ]:
        assert [flag in note for note in _run((flawed, x, y))[1]] == [True]
        assert _run(broken)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flaw", "eps", "flag"),
    [(_Rounded, "0.03", "4 points with zero gradient"), (_Misled, "0.2", "Square Attack has decreased the robust accuracy")],
)
def test_flags_of_the_attacks(digits: Trained, flaw: type[nn.Module], eps: str, flag: str) -> None:
    """T16: two flaws that show only under attack, each raising its own flag alone; the sound model raises none."""
    net, x, y = digits
    flawed, x, y = flaw(net), x[:4], y[:4]
    assert torch.equal(flawed(x), net(x))
    assert [flag in note for note in _run((flawed, x, y), eps=eps)[1]] == [True]
    assert _run((net, x, y), eps="0.2")[1] == []


@pytest.mark.slow
def test_rand_averages_twenty_gradients_of_a_noisy_model(digits: Trained) -> None:
    """Its loss is that of the noise, so the flag of randomness is not raised, and the same seed gives the same."""
    net, x, y = digits
    noisy, meter = _Noisy(net, 0.05), Meter(4, x.device)
    view = VIEWS["module"](noisy, meter)
    threat = ThreatModel.parse("linf", "0.002")
    settings = get_attack("autoattack").configure({"version": "rand"})
    z = get_attack("autoattack").run(view, x[:4], y[:4], threat, Rng(7, torch.arange(4)), **settings)
    assert torch.equal(z, x[:4])
    # Nobody is broken: 1 row for the number of classes, 2 checks, the clean labels; then twice (CE and DLR) the labels
    # before and after, and 20 passes at the start and after each of 100 steps.
    assert meter.forwards.sum() == 1 + 4 * (2 + 1 + 2 * (2 + 20 * 101))
    assert meter.backwards.sum() == 4 * 2 * 20 * 101
    runs = [_run((noisy, x[:8], y[:8]), eps="0.2", version="rand") for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == []
    assert (runs[0][0] != x[:8]).flatten(1).any(1).sum() >= 6
