"""The geometry of threat models."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.core.rng import Rng
from bench.core.threat import ThreatModel, unit
from bench.errors import BadInput, UnknownName

NORMS = st.sampled_from(["linf", "l2", "l1"])
EPS = st.fractions(min_value=0, max_value=1, max_denominator=255)


def images(seed: int, n: int = 6, shape: tuple[int, int, int] = (2, 5, 4)) -> Tensor:
    return Rng(seed, torch.arange(n)).uniform(shape)


def far(seed: int) -> Tensor:
    return 3 * Rng(seed, torch.arange(6)).at("far").normal((2, 5, 4))


@given(NORMS, EPS, st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_projection_lands_inside_and_is_idempotent(norm: str, eps: Fraction, seed: int) -> None:
    threat, x = ThreatModel.parse(norm, eps), images(seed)
    z = threat.project(x + far(seed), x)
    assert threat.contains(z, x).all()
    assert ((z >= 0) & (z <= 1)).all()
    torch.testing.assert_close(threat.project(z, x), z, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_rounding_of_many_pixels_does_not_leave_the_ball(norm: str) -> None:
    threat = ThreatModel.parse(norm, {"linf": "8/255", "l2": "0.5", "l1": "12"}[norm])
    x = images(1, 50, (3, 32, 32))
    rng = Rng(0, torch.arange(50))
    z = threat.random_start(x, rng)
    assert threat.contains(z, x).all()
    assert threat.contains(threat.project(z + rng.at("more").normal((3, 32, 32)), x), x).all()


@given(NORMS, EPS, st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_points_inside_do_not_move(norm: str, eps: Fraction, seed: int) -> None:
    threat, x = ThreatModel.parse(norm, eps), images(seed)
    z = threat.random_start(x, Rng(seed, torch.arange(6)))
    assert threat.contains(z, x).all()
    torch.testing.assert_close(threat.project(z, x), z, atol=1e-6, rtol=0)


@given(NORMS, st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_no_point_of_the_ball_is_nearer_than_the_projection(norm: str, seed: int) -> None:
    """The ball alone, far from the box: the projection of each norm is the nearest point in its own geometry."""
    threat, x = ThreatModel.parse(norm, "0.1"), torch.full((6, 2, 5, 4), 0.5)
    point = x + 0.05 * far(seed)
    nearest = threat.project(point, x)
    for other in range(5):
        rival = threat.random_start(x, Rng(other, torch.arange(6)))
        assert ((rival - point).flatten(1).norm(dim=1) >= (nearest - point).flatten(1).norm(dim=1) - 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e-13, 1e13, 1e30])
def test_the_steepest_direction_is_that_of_gradients_of_any_size(norm: str, scale: float) -> None:
    """Squares of float32 are 0 below 1e-23 and infinite above 1e19, and a gradient is no shorter a direction for it."""
    threat, grad = ThreatModel.parse(norm, "0.5"), Rng(0, torch.arange(9)).normal((3, 8, 8))
    torch.testing.assert_close(threat.steepest(grad * scale), threat.steepest(grad), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(threat.dual(grad * scale) / scale, threat.dual(grad), rtol=1e-4, atol=0)
    assert not threat.steepest(0 * grad).any()


def test_the_scale_of_a_gradient_rounds_nothing() -> None:
    grad = Rng(0, torch.arange(99)).normal((3, 8, 8))
    assert torch.equal(unit(grad), grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0), ("l1", torch.inf)])
def test_steepest_direction_has_unit_norm_and_reaches_the_dual_norm(norm: str, dual: float) -> None:
    threat, grad = ThreatModel.parse(norm, "0.1"), far(3)
    direction = threat.steepest(grad)
    zero = torch.zeros_like(direction)
    torch.testing.assert_close(threat.distance(direction, zero), torch.ones(6))
    torch.testing.assert_close((direction * grad).flatten(1).sum(1), grad.flatten(1).norm(p=dual, dim=1))
    assert (threat.steepest(zero) == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_random_starts_fill_the_ball_evenly(norm: str) -> None:
    """For a uniform draw in d dimensions, (distance / eps) ** d is uniform on [0, 1]."""
    threat = ThreatModel.parse(norm, "0.3")
    x = torch.full((4000, 1, 1, 2), 0.5)
    z = threat.random_start(x, Rng(0, torch.arange(4000)))
    volume = (threat.distance(z, x) / 0.3) ** 2
    assert abs(volume.mean() - 0.5) < 0.02
    assert abs((volume < 0.25).float().mean() - 0.25) < 0.03
    assert (z - x).mean(0).abs().max() < 0.01


@pytest.mark.parametrize(
    ("text", "told"),
    [("8/255", "8/255"), ("16/255", "16/255"), ("0.3", "0.3"), ("51/255", "0.2"), ("1/3", "85/255"), ("2", "2")],
)
def test_eps_is_written_as_people_write_it_and_reads_back_exactly(text: str, told: str) -> None:
    threat = ThreatModel.parse("l2", text)
    assert threat.eps_text == told
    assert ThreatModel.parse("l2", threat.eps_text) == threat


@given(EPS)
def test_any_eps_reads_back_exactly(eps: Fraction) -> None:
    assert ThreatModel.parse("l2", ThreatModel("l2", eps).eps_text).eps == eps


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", "8", "did you mean 8/255"),
        ("linf", "-0.1", "negative"),
        ("linf", "eight", "not a number"),
        ("linf", "1/0", "not a number"),
        ("linf", "nan", "not a number"),
        ("linf", "inf", "not a number"),
        ("l3", "0.1", "did you mean"),
    ],
)
def test_what_cannot_be_a_threat_model_is_told(norm: str, eps: str, message: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=message):
        ThreatModel.parse(norm, eps)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_what_rounding_took_out_of_the_ball_is_brought_back(norm: str) -> None:
    """Of photographs a float32 norm comes out short by more than the tolerance, so that projections lie outside."""
    threat = ThreatModel.parse(norm, "8")
    x = 0.3 + 0.4 * torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    length = threat.distance(delta.double(), torch.zeros_like(delta).double())
    near = x + delta * (8 * (1 + 2e-5) / length).view(-1, 1, 1, 1).float()
    assert not threat.contains(near, x).any()
    back = threat.pulled_back(near, x)
    assert threat.contains(back, x).all()
    assert (back - near).abs().max() < 1e-4
    far = x + delta * (8 * 1.01 / length).view(-1, 1, 1, 1).float()
    for unchanged in (far, x + 0.5 * (near - x)):
        assert torch.equal(threat.pulled_back(unchanged, x), unchanged)


def test_a_candidate_that_is_not_finite_is_not_contained() -> None:
    threat, x = ThreatModel.parse("linf", "0.1"), images(0)
    for bad in (torch.nan, torch.inf):
        z = x.clone()
        z[0, 0, 0, 0] = bad
        assert threat.contains(z, x).tolist() == [False] + [True] * 5


@pytest.mark.parametrize(
    ("norm", "eps", "told"),
    [
        ("linf", "8/255", ["0", "2/255", "8/255", "32/255"]),
        ("linf", "0.3", ["0", "0.075", "0.3"]),
        ("linf", "1", ["0", "0.25", "1"]),
        ("linf", "0", ["0"]),
        ("l2", "0.5", ["0", "0.125", "0.5", "2"]),
    ],
)
def test_multiples_of_a_ball_are_those_that_the_box_has_room_for(norm: str, eps: str, told: list[str]) -> None:
    found = ThreatModel.parse(norm, eps).multiples((0, 0.25, 1, 4))
    assert [ball.eps_text for ball in found] == told
