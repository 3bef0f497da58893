"""Attacks on readings of a network: what no attack on its answers finds falls to them, and the network itself is the judge."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import evaluate
from bench.audit import Asked, audited
from bench.core import Gradient, Judge, Meter, Rng, ThreatModel, adaptations
from bench.core.adaptations import MOST
from bench.plans import PLANS, Portfolio
from bench.plugins import get_attack
from bench.results import Card, read_card
from bench.verify import Given, verify_card

THREAT = ThreatModel.parse("linf", "0.1")
N = 64
ATTACKS = {"temperature": ("inner", {"reading": "inner 1"}), "rounded": ("bpda", {"past": "rounding"})}


class Plane(nn.Module):
    """Two classes of 4x4 images; the ball decides which of them can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Rng(1, torch.arange(1)).normal((16,))[0]

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight - 0.5 * self.weight.sum()
        return torch.stack([score, -score, score - 9], 1)


class Temperature(Plane):
    """Its confidence swings with the image, faster than its answer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(3 * torch.sin(40 * x.flatten(1).mean(1, keepdim=True)))


class Rounded(Plane):
    """It sees 32 levels of grey, and shows no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.round(x * 31) / 31)


NETS = {"temperature": Temperature(), "rounded": Rounded()}
X = Rng(2, torch.arange(N)).uniform((1, 4, 4))
Y = Plane()(X).argmax(1)


def attacked(kind: str, rows: Tensor, x: Tensor = X, *, read: bool = True) -> Tensor:
    """The candidates for some samples."""
    net, (name, parameters) = NETS[kind], ATTACKS[kind]
    attack = get_attack(name)
    view = Gradient(net, Meter(len(rows), torch.device("cpu")))
    if read:
        view.readings = lambda: adaptations(net, X, Y, THREAT, 0)
    return attack.run(view, x[rows], Y[rows], THREAT, Rng(0, rows), **attack.configure(parameters))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ATTACKS)
def test_they_break_all_that_the_ball_allows(kind: str) -> None:
    """In closed form: what falls is what the plane behind it loses, but for an image or two that rounding saves."""
    every = torch.arange(N)
    judge = Judge(NETS[kind], THREAT, 1, 0)
    fooled = judge.verdict(attacked(kind, every), X, Y).fooled
    toward = Plane().weight.view(1, 1, 4, 4).sign() * torch.where(Y == 0, -1, 1).view(-1, 1, 1, 1)
    lost = Plane()((X + 0.1 * toward).clamp(0, 1)).argmax(1) != Y
    assert 10 < int(lost.sum()) < N - 10
    assert int((fooled & ~lost).sum()) <= 2
    assert int((lost & ~fooled).sum()) <= (0 if kind == "temperature" else 6)


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_sample_does_not_depend_on_its_batch(kind: str) -> None:
    together = attacked(kind, torch.arange(N))
    parts = torch.cat([attacked(kind, rows) for rows in torch.arange(N).split(7)])
    assert torch.equal(together, parts)


def test_a_network_without_the_reading_is_not_attacked() -> None:
    rows = torch.arange(8)
    assert torch.equal(attacked("temperature", rows, read=False), X[rows])


GATE = """
import torch
from bench.models import resolve

class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = resolve("run:{run}", (1, 8, 8), 10).net

    def forward(self, x):
        return self.net(x) * torch.exp(4 * torch.sin(30 * x.flatten(1).mean(1, keepdim=True)))

def net():
    return Gate()
"""


@pytest.fixture(scope="module")
def gated(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Card, Path]:
    home = tmp_path_factory.mktemp("gate")
    (home / "gate.py").write_text(GATE.replace("{run}", str(fast_run)))
    reference = f"py:{home / 'gate.py'}:net"
    card, path = evaluate(reference, dataset="digits", eps="0.2", n=60, results=home, quiet=True, device_name="cpu")
    return reference, card, path


@pytest.mark.slow
def test_fast_finds_behind_a_swinging_confidence_what_it_finds_without(
    fast_run: Path, gated: tuple[str, Card, Path], tmp_path: Path
) -> None:
    honest, _ = evaluate(str(fast_run), n=60, results=tmp_path, quiet=True, device_name="cpu")
    _, card, _ = gated
    assert abs(card.robust_accuracy - honest.robust_accuracy) <= 1 / 60
    assert {"adaptive"} <= {round.stage for round in card.attacks[0].rounds}
    assert "adaptive" not in {round.stage for round in honest.attacks[0].rounds}


@pytest.mark.slow
def test_what_was_read_is_read_again_by_an_audit(gated: tuple[str, Card, Path]) -> None:
    reference, _, path = gated
    given = Given(model=reference, device="cpu")
    row = verify_card(path, given)
    assert row.verdict == "holds", row.checks
    (again,) = audited([row], Asked(20, 3), given, quiet=True)
    assert again.verdict == "holds", again.checks[-1]
    assert "repeat theirs to the last bit" in again.checks[-1].told[0]
    assert read_card(path).robust_accuracy == row.card.robust_accuracy  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_diagnosis_tells_a_plan_that_did_not_look_inside(gated: tuple[str, Card, Path], tmp_path: Path) -> None:
    reference, _, _ = gated
    found = {}
    for plan in ("smoke", "fast"):
        card, _ = evaluate(
            reference, dataset="digits", eps="0.2", n=60, plan_name=plan, results=tmp_path, quiet=True, device_name="cpu",
            diagnosed=True,
        )  # fmt: skip
        assert card.diagnosis is not None
        found[plan] = next(one for one in card.diagnosis.findings if one.check == "attacks on what is inside")
    assert found["smoke"].verdict == "broken"
    assert "inner 1" in found["smoke"].told
    assert found["fast"].verdict == "ok"


def test_the_portfolio_has_an_arm_for_every_network_inside_that_is_told_apart() -> None:
    (portfolio,) = (spec for spec in PLANS["fast"].attacks if isinstance(spec, Portfolio))
    told = {str(arm.parameters.get("reading")) for arm in portfolio.adaptive if arm.attack == "inner"}
    assert told == {"inner all", *(f"inner {which}" for which in range(1, MOST + 1))}
