"""Slices and curves: values known at the centre, on linear classifiers, and where a norm undoes a scale."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.core import ThreatModel, raw_cross_entropy, slopes
from bench.core.rng import isolated
from bench.science.ascent import Ascent
from bench.science.landscape import bernstein, directions, height, input_directions, input_slice, on_curve, roughness
from bench.science.weights import moved, weights_of

from .linear import BALL, EPS, Linear, lead, samples


def test_heights_are_means_over_all_samples_of_the_closed_form() -> None:
    net, (x, y, rng) = Linear(), samples()
    half = torch.arange(12) < 5
    parts = [(x[rows], y[rows], rng[rows]) for rows in (half, ~half)]
    found = height(net, parts, BALL, Ascent(20))
    before = lead(net, x, y)
    after = before - EPS * net.w.detach().abs().sum()
    torch.testing.assert_close(found.clean, F.softplus(-before).mean())
    torch.testing.assert_close(found.adversarial, F.softplus(-after).mean())
    torch.testing.assert_close(found.accuracy, (before > 0).double().mean())
    torch.testing.assert_close(found.robust_accuracy, (after > 0).double().mean())


def with_norm(scale: float = 1.0) -> nn.Module:
    """A convolution in front of a batch norm, so scaled that the network is the same."""
    with isolated(0):
        net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        net(torch.rand(32, 1, 4, 4))
    net = net.double().eval()
    net[1].eps = 0.0
    with torch.no_grad():
        net[0].weight *= scale
        net[1].running_mean *= scale
        net[1].running_var *= scale**2
    return net


def test_a_scale_that_a_norm_undoes_leaves_the_plot_as_it_is() -> None:
    """T36."""
    x, y, rng = samples()
    parts = [(x, y, rng)]
    heights = []
    for scale in (1.0, 7.0):
        net = with_norm(scale)
        weights, along = weights_of(net), directions(net, 2, torch.Generator().manual_seed(0))
        for a, b in ((0.0, 0.0), (0.5, -0.25), (-1.0, 1.0)):
            with moved(net, weights + a * along[0] + b * along[1]):
                heights.append(torch.stack(height(net, parts, BALL, Ascent(5))))
    torch.testing.assert_close(torch.stack(heights[:3]), torch.stack(heights[3:]), rtol=1e-5, atol=1e-9)
    # The centre is the network itself, and elsewhere the loss is another.
    torch.testing.assert_close(heights[0][0], raw_cross_entropy(with_norm()(x), y).mean())
    assert (heights[1] - heights[0]).abs().max() > 1e-2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_slice_through_an_image_of_a_linear_classifier_is_a_softplus(norm: str) -> None:
    net, (x, y, rng) = Linear(), samples()
    threat = ThreatModel.parse(norm, "0.5")
    along = input_directions(slopes(net, x, y, raw_cross_entropy), rng, threat)
    for direction in along:
        torch.testing.assert_close(threat.distance(direction, torch.zeros_like(direction)), torch.ones(12, dtype=torch.float64))
    dual = net.w.detach().abs().sum() if norm == "linf" else net.w.detach().norm()
    across = -(2 * y - 1) * (along[1].flatten(1) @ net.w.detach())
    found = input_slice(net, x, y, along, (2.0, -0.5))
    torch.testing.assert_close(found, F.softplus(-lead(net, x, y) + 2 * dual - 0.5 * across))


def test_roughness_is_the_mean_second_derivative() -> None:
    at = torch.linspace(-1, 1, 21, dtype=torch.float64)
    assert float(roughness(3 * at - 1, 0.1)) < 1e-12
    assert float(roughness(at**2, 0.1)) == pytest.approx(2)
    assert roughness(torch.stack([at, -3 * at**2]), 0.1).tolist() == pytest.approx([0, 6])


def test_a_curve_goes_through_its_ends_and_is_a_line_where_its_points_are_on_one() -> None:
    points = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(on_curve(points, 0.0), points[0])
    assert torch.equal(on_curve(points, 1.0), points[-1])
    assert bernstein(3, 0.5).tolist() == [0.125, 0.375, 0.375, 0.125]
    straight = torch.stack([points[0].lerp(points[1], share) for share in (0, 1 / 3, 2 / 3, 1)])
    torch.testing.assert_close(on_curve(straight, 0.3), points[0].lerp(points[1], 0.3))
    # De Casteljau, which builds a curve by lines alone.
    rows = points
    while len(rows) > 1:
        rows = rows[:-1].lerp(rows[1:], 0.3)
    torch.testing.assert_close(on_curve(points, 0.3), rows[0])
