"""The AutoAttack adapter: the reference's own results, and nothing left behind."""

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
from bench.errors import AttackWarning
from bench.registry import get_attack
from bench.rng import Rng, isolated
from bench.threat import ThreatModel
from bench.views import VIEWS, Meter

BATCH = 16
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


@pytest.mark.parametrize(("norm", "reference", "eps"), [("linf", "Linf", 0.1), ("l2", "L2", 0.5), ("l1", "L1", 2.0)])
def test_candidates_equal_the_reference_bit_for_bit(digits: Trained, norm: str, reference: str, eps: float) -> None:
    net, x, y = digits
    with isolated(1, "direct"):
        alone = AutoAttack(net, norm=reference, eps=eps, seed=7)
        expected, _ = alone.run_standard_evaluation(x, y, batch_size=BATCH)
    got, _ = _run(digits, norm, str(eps))
    assert torch.equal(got, expected)
    assert 0 < (net(got).argmax(1) != y).sum() <= len(y)


def test_channels_last_images_give_the_same(digits: Trained) -> None:
    net, x, _ = digits
    colour = nn.Sequential(nn.Conv2d(3, 1, 1), *net)
    x = x[:8].expand(-1, 3, -1, -1)
    plain, _ = _run((colour, x.contiguous(), colour(x).argmax(1)), eps="0.3")
    last, _ = _run((colour, x.contiguous(memory_format=torch.channels_last), colour(x).argmax(1)), eps="0.3")
    assert torch.equal(plain, last)


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
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + torch.rand_like(x))


def test_warnings_are_collected_and_do_not_taint_the_next_model(broken: Trained) -> None:
    net, x, y = broken
    for flawed, text in [
        (nn.Sequential(net, nn.Softmax(1)), "probability distribution"),
        (_Dynamic(net), "dynamic defense"),
        (_Noisy(net), "randomized defense"),
    ]:
        assert [text in note for note in _run((flawed, x, y))[1]] == [True]
    assert _run(broken)[1] == []


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
    """Rounds its input, so that no gradient comes through."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 4).round() / 4)


def test_a_masked_model_raises_the_flags_of_zero_gradients_and_of_square(digits: Trained) -> None:
    """T16, the two flags that need attacks to run; a sound model raises none in the same run."""
    net, x, y = digits
    notes = _run((_Rounded(net), x[:12], y[:12]), eps="0.2")[1]
    assert any("zero gradient" in note for note in notes)
    assert any("Square Attack has decreased the robust accuracy" in note for note in notes)
    assert _run((net, x[:12], y[:12]), eps="0.05")[1] == []
