"""Auto-PGD: its schedule, its monotonicity, and the reference implementation at equal settings."""

import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from bench.attacks.apgd import windows
from bench.data import load
from bench.errors import BadInput
from bench.judge import Judge
from bench.losses import dlr_targeted
from bench.models import resolve
from bench.registry import get_attack
from bench.rng import Rng, isolated
from bench.threat import ThreatModel
from bench.views import VIEWS, Ascent, Gradient, Meter

DATA = load("digits", "test")
X, Y = DATA.batch(torch.arange(len(DATA)))


def standing(net: nn.Module, threat: ThreatModel, z: Tensor) -> int:
    judge = Judge(net, threat)
    return int((judge.correct(X, Y)[0] & ~judge.verdict(z, X, Y).fooled).sum())


def ours(net: nn.Module, threat: ThreatModel, seed: int = 0, **parameters: object) -> Tensor:
    attack = get_attack("apgd")
    view = VIEWS["gradient"](net, Meter(len(X), X.device))
    z: Tensor = attack.run(view, X, Y, threat, Rng(seed, DATA.ids), **attack.configure(parameters))
    return z


def test_progress_is_checked_where_the_paper_says() -> None:
    """T05: 22, 41, 57, 70, 80, 87, 93, 99 of 100."""
    assert windows(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert windows(1) == [1]
    assert windows(10)[0] == 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_loss_never_falls_and_steps_only_halve(fast_run: Path, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """T05, seen from outside: the iterates of a sample that survives, and the steps between them."""
    net = resolve(str(fast_run), DATA.shape, 10).net
    losses: list[Tensor] = []
    points: list[Tensor] = []
    grad = Gradient.grad

    def recorded(self: Gradient, z: Tensor, loss: object, y: Tensor) -> Ascent:
        found = grad(self, z, loss, y)  # type: ignore[arg-type]
        points.append(z)
        losses.append(found.loss)
        return found

    monkeypatch.setattr(Gradient, "grad", recorded)
    threat = ThreatModel.parse(norm, "0.02")
    chosen = (net(X).argmax(1) == Y).nonzero().squeeze(1)[:20]
    attack = get_attack("apgd")
    view = VIEWS["gradient"](net, Meter(20, X.device))
    z = attack.run(view, X[chosen], Y[chosen], threat, Rng(0, chosen), **attack.configure({"steps": 100}))
    assert len(points) == 101
    whole = [loss for loss in losses if len(loss) == 20]
    assert len(whole) == 101, "an eps so small that nobody falls"
    best = torch.stack(whole).max(0).values
    final = nn.functional.cross_entropy(net(z), Y[chosen], reduction="none")
    torch.testing.assert_close(final, best, atol=1e-5, rtol=1e-5)
    moves = torch.stack([threat.distance(b, a) for a, b in pairwise(points)])
    # Momentum may add a quarter of the last move to three quarters of twice eps.
    assert (moves <= 2 * threat.radius + 1e-6).all()
    assert (moves[-5:].mean(0) < moves[:5].mean(0)).all()


@pytest.mark.parametrize(("norm", "reference", "eps"), [("linf", "Linf", "0.15"), ("l2", "L2", "0.8")])
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted"])
def test_it_breaks_as_many_as_the_reference(fast_run: Path, norm: str, reference: str, eps: str, loss: str) -> None:
    """At equal settings, robust accuracy within half a point; the untargeted ratio is noisy, so the mean of four seeds."""
    net = resolve(str(fast_run), DATA.shape, 10).net
    threat = ThreatModel.parse(norm, eps)
    settings = {"n_restarts": 1, "n_iter": 100, "eps": threat.radius, "norm": reference, "device": "cpu"}
    seeds = range(4 if loss == "dlr" else 1)
    left = reached = 0
    for seed in seeds:
        with isolated(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if loss == "targeted":
                theirs = APGDAttack_targeted(net, n_target_classes=9, seed=seed, **settings).perturb(X, Y)
            else:
                theirs = APGDAttack(net, loss=loss, seed=seed, **settings).perturb(X, Y)
        parameters = {"targets": 9} if loss == "targeted" else {"loss": loss}
        left += standing(net, threat, ours(net, threat, seed=seed, **parameters))
        reached += standing(net, threat, theirs)
    assert abs(left - reached) / len(seeds) <= 0.005 * len(X)
    assert 20 < left / len(seeds) < 330


def test_more_targets_break_at_least_as_many(fast_run: Path) -> None:
    net = resolve(str(fast_run), DATA.shape, 10).net
    threat = ThreatModel.parse("linf", "0.2")
    left = [standing(net, threat, ours(net, threat, targets=targets, steps=20)) for targets in (1, 3, 9)]
    assert left == sorted(left, reverse=True)


def test_the_targeted_ratio_is_blind_to_shift_and_scale() -> None:
    logits = Rng(0, torch.arange(8)).normal((5,))
    y, target = torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64)
    torch.testing.assert_close(dlr_targeted(7 * logits - 3, y, target), dlr_targeted(logits, y, target), atol=1e-5, rtol=1e-5)


def test_too_few_classes_are_told() -> None:
    """T07."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    attack = get_attack("apgd")
    view = VIEWS["gradient"](net, Meter(2, X.device))
    with pytest.raises(BadInput, match="needs 4 classes"):
        attack.run(
            view, X[:2], Y[:2] % 3, ThreatModel.parse("linf", "0.1"), Rng(0, DATA.ids[:2]), **attack.configure({"targets": 2})
        )
