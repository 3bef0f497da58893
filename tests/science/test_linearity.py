"""Ascent, path and linearity where the answers are known: on linear classifiers, and on a loss that is linear itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import Rng, ThreatModel
from bench.science.ascent import Ascent, losses
from bench.science.linearity import linearity, worst_error
from bench.science.path import path

from .linear import BALL, EPS, Linear, lead, samples


def test_an_ascent_ends_in_the_corner_of_a_linear_classifier() -> None:
    net, (x, y, rng) = Linear(), samples()
    z = Ascent(20).end(net, x, y, BALL, rng)
    away = -EPS * (2 * y - 1).view(-1, 1, 1, 1) * net.w.detach().sign().view(1, 1, 4, 4)
    torch.testing.assert_close(z, x + away)
    torch.testing.assert_close(losses(net, z, y), F.softplus(EPS * net.w.detach().abs().sum() - lead(net, x, y)))
    assert Ascent(20).end(net, x, y, ThreatModel.parse("linf", "0"), rng) is x


def test_every_step_of_a_path_moves_the_margin_of_a_linear_classifier_by_as_much() -> None:
    """From the clean image: step * eps * |w|_1 each, until the ball ends; the loss is the softplus of the margin."""
    net, (x, y, rng) = Linear(), samples()
    found = path(net, x, y, BALL, rng, Ascent(8, 0.25, "clean"))
    reach = torch.tensor([0, 0, 1, 2, 3, 4, 4, 4, 4, 4]) / 4 * EPS
    expected = reach[:, None] * net.w.detach().abs().sum() - lead(net, x, y)
    torch.testing.assert_close(found.margin, expected)
    torch.testing.assert_close(found.loss, F.softplus(expected))
    assert not found.falls.any()


def test_a_path_counts_the_steps_that_fall() -> None:
    """A step longer than the ball swings between the two ends of a parabola's far side."""

    class Ridge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            high = -((x.flatten(1) - 0.5).abs()).sum(1)
            return torch.stack([high, torch.zeros_like(high)], 1)

    x = torch.full((1, 1, 1, 1), 0.49)
    found = path(
        Ridge(),
        x,
        torch.ones(1, dtype=torch.int64),
        ThreatModel.parse("linf", "0.2"),
        Rng(0, torch.zeros(1).long()),
        Ascent(4, 0.2, "clean"),
    )
    # From 0.49 to 0.53, 0.49, 0.53, 0.49: two fall, onto the farther side.
    assert float(found.falls) == pytest.approx(0.5)


def test_the_error_of_a_linear_classifier_is_that_of_a_softplus() -> None:
    net, (x, y, rng) = Linear(), samples()
    z = Ascent(20).end(net, x, y, BALL, rng)
    found = linearity(net, x, y, z)
    before, step = -lead(net, x, y), EPS * net.w.detach().abs().sum()
    change, slope = F.softplus(before + step) - F.softplus(before), torch.sigmoid(before) * step
    torch.testing.assert_close(found.length, torch.full_like(before, EPS * 16**0.5))
    torch.testing.assert_close(found.change, change)
    torch.testing.assert_close(found.predicted, slope)
    torch.testing.assert_close(found.error, (change - slope) / change)
    # The gradients of two classes differ by a factor, so they point the same way.
    torch.testing.assert_close(found.cosine, torch.ones_like(before))
    # A softplus lies above its tangents, so the worst error is at a corner; both have to be tried for the larger.
    sides = torch.stack([F.softplus(before + s) - F.softplus(before) - torch.sigmoid(before) * s for s in (step, -step)])
    worst = worst_error(net, x, y, BALL, rng, Ascent(20))
    assert ((worst <= sides.amax(0) + 1e-12) & (worst >= sides.amin(0) - 1e-12)).all()


def test_the_error_vanishes_with_the_radius_in_float64() -> None:
    """It is of the order of the radius; in float32 it would grow again."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x, y, rng = samples()
    errors = []
    for eps in ("0.01", "0.0001", "0.000001"):
        z = Ascent(10).end(net, x, y, ThreatModel.parse("linf", eps), rng)
        errors.append(float(linearity(net, x, y, z).error.median()))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.3)
