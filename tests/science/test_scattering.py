"""Gradient scattering where it can be worked out: the robust loss of a linear classifier."""

import math

import pytest
import torch

from bench.core import ThreatModel
from bench.science.ascent import Ascent
from bench.science.scattering import Scattering, plateau, scattering
from bench.science.weights import weights_of

from .linear import BALL, EPS, Linear, samples


def by_hand(net: Linear, eps: float) -> torch.Tensor:
    """The gradient of mean softplus(-(s (w.x + b) - eps |w|_1)) for w and b, at the worst perturbation."""
    x, y, _ = samples()
    sign, w = (2 * y - 1).double(), net.w.detach()
    push = torch.sigmoid(-(sign * (x.flatten(1) @ w + net.b.detach()) - eps * w.abs().sum()))
    for_w = (push[:, None] * (eps * w.sign() - sign[:, None] * x.flatten(1))).mean(0)
    return torch.cat([for_w, -(push * sign).mean().view(1)])


def measured(net: Linear, v: torch.Tensor, threat: ThreatModel = BALL) -> Scattering:
    x, y, rng = samples()
    parts = [(x[:5], y[:5], rng[torch.arange(5)]), (x[5:], y[5:], rng[torch.arange(5, 12)])]
    return scattering(net, parts, v, threat, Ascent(20))


def test_the_gradients_are_those_of_the_closed_form() -> None:
    net = Linear()
    v = 0.01 * torch.randn(17, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found, before = measured(net, v), weights_of(net)
    one = by_hand(net, EPS)
    with torch.no_grad():
        net.w += v[:16]
        net.b += v[16]
    other = by_hand(net, EPS)
    torch.testing.assert_close(found.gradient, one.norm())
    torch.testing.assert_close(found.change, (other - one).norm())
    torch.testing.assert_close(found.cosine, torch.nn.functional.cosine_similarity(one, other, dim=0))
    torch.testing.assert_close(found.length, v.norm())
    assert torch.equal(weights_of(net), before + v)


def test_where_no_sign_changes_perturbations_are_the_same_and_the_change_vanishes() -> None:
    net = Linear()
    changes = []
    for size in (1e-3, 1e-5):
        v = size * torch.ones(17, dtype=torch.float64)
        found = measured(net, v)
        changes.append(float(found.change))
        torch.testing.assert_close(found.deltas, torch.ones(12, dtype=torch.float64))
        assert float(found.by_perturbations) == 0
    assert changes[0] / changes[1] == pytest.approx(100, rel=0.01)


def test_where_a_sign_changes_the_change_does_not_vanish_and_is_of_the_order_of_eps() -> None:
    """The tight case: weights of nearly 0, on the one side of it and on the other."""
    changes = []
    for eps in ("0.05", "0.1"):
        net = Linear()
        with torch.no_grad():
            net.w[:4] = 1e-6
        v = torch.zeros(17, dtype=torch.float64)
        v[:4] = -2e-6
        found = measured(net, v, ThreatModel.parse("linf", eps))
        assert float(found.by_weights) < 1e-4
        assert float(found.by_perturbations) == pytest.approx(float(found.change), rel=1e-3)
        # Of 16 signs four differ.
        torch.testing.assert_close(found.signs, torch.full((12,), 0.5, dtype=torch.float64))
        push = float(by_hand(net, float(eps))[:4].abs().mean())
        assert push > 0
        changes.append(float(found.change) / float(eps))
    # In units of eps it is as large: 2 eps times the mean push, which a larger eps only raises.
    assert changes[1] > changes[0] > 0.1


def test_without_a_ball_there_are_no_perturbations() -> None:
    found = measured(Linear(), torch.full((17,), 0.1, dtype=torch.float64), ThreatModel.parse("linf", "0"))
    assert torch.isnan(found.deltas).all()
    assert float(found.by_perturbations) == 0
    assert float(found.change) == float(found.by_weights) > 0


@pytest.mark.parametrize(
    ("losses", "epochs"), [([2.31, 2.3, 2.1, 1.0], 2), ([1.0, 2.3], 0), ([2.3, 2.3], 2), ([math.log(10) * 0.96] * 3, 3)]
)
def test_a_plateau_is_as_long_as_the_loss_is_that_of_a_constant_answer(losses: list[float], epochs: int) -> None:
    assert plateau(losses, 10) == epochs
