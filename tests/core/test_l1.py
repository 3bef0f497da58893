"""The projection onto the l1 ball and the box at once: inside both, and nearest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from bench.core.l1 import project
from bench.core.rng import Rng

RADII = st.sampled_from([0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 20.0])
REACHES = st.sampled_from([0.01, 0.3, 1.0, 5.0, 100.0])
SEEDS = st.integers(0, 9999)


def cases(seed: int, reach: float, shape: tuple[int, ...] = (2, 3, 4), n: int = 4) -> tuple[Tensor, Tensor]:
    """Points at about this distance per pixel, and centres, of which a third of the pixels are black or white."""
    rng = Rng(seed, torch.arange(n))
    x = (1.5 * rng.at("x").uniform(shape) - 0.25).clamp(0, 1)
    return x + reach * rng.at("z").normal(shape), x


def length(z: Tensor, x: Tensor) -> Tensor:
    return (z.double() - x.double()).flatten(1).abs().sum(1)


@given(SEEDS, RADII, REACHES)
@settings(deadline=None, max_examples=60)
def test_the_result_is_in_the_ball_and_in_the_box(seed: int, radius: float, reach: float) -> None:
    z, x = cases(seed, reach)
    p = project(z, x, radius)
    assert p.shape == x.shape
    assert ((p >= 0) & (p <= 1)).all()
    # Half a unit of float32 per pixel that moved, and as much again for the sum that was compared with the radius.
    assert (length(p, x) <= radius * (1 + 1e-6) + 24 * 2.0**-25).all()


@given(SEEDS, RADII, REACHES)
@settings(deadline=None, max_examples=30)
def test_nothing_in_the_ball_and_the_box_is_nearer(seed: int, radius: float, reach: float) -> None:
    """p is the projection of z exactly if no feasible q has <z - p, q - p> above 0; the best q is a linear programme."""
    z, x = cases(seed, reach, (1, 2, 4), n=2)
    p = project(z, x, radius)
    for normal, centre, found in zip(*((t.flatten(1).double().numpy()) for t in (z - p, x, p)), strict=True):
        # q = x + up - down.
        best = linprog(
            np.concatenate([-normal, normal]), A_ub=np.ones((1, 16)), b_ub=[radius],
            bounds=[(0, float(room)) for room in np.concatenate([1 - centre, centre])],
        )  # fmt: skip
        assert best.status == 0
        gain = -best.fun - normal @ (found - centre)
        # The threshold is as fine as float32 is at the largest change, and each unit of it is worth the largest normal.
        largest = abs(normal).max()
        assert gain <= 1e-5 * (1 + largest) + 2.0**-23 * largest**2


@given(SEEDS, REACHES)
@settings(deadline=None, max_examples=60)
def test_no_random_feasible_point_is_nearer(seed: int, reach: float) -> None:
    z, x = cases(seed, reach)
    p = project(z, x, 0.7)
    away = Rng(seed, torch.arange(4)).at("rival").normal(x.shape[1:])
    away = 0.7 * away / away.flatten(1).abs().sum(1).view(-1, 1, 1, 1)
    for share in (0.1, 0.5, 1.0):
        rival = (x + share * away).clamp(0, 1)
        assert ((rival - z).flatten(1).norm(dim=1) >= (p - z).flatten(1).norm(dim=1) - 1e-5).all()


@given(SEEDS, RADII)
@settings(deadline=None, max_examples=60)
def test_a_point_inside_both_stays_and_one_inside_the_ball_is_clipped(seed: int, radius: float) -> None:
    z, x = cases(seed, 1.0)
    p = project(z, x, radius)
    torch.testing.assert_close(project(p, x, radius), p, atol=1e-6, rtol=0)
    near = x + (z - x) * (0.99 * radius / length(z, x).clamp_min(1e-9)).clamp_max(1).float().view(-1, 1, 1, 1)
    torch.testing.assert_close(project(near, x, radius), near.clamp(0, 1), atol=1e-7, rtol=0)


def test_a_radius_of_zero_gives_the_centre() -> None:
    z, x = cases(0, 1.0)
    assert torch.equal(project(z, x, 0.0), x)


def test_the_whole_radius_is_used_although_the_box_is_near() -> None:
    """Where clipping the projection onto the ball would stop short (Croce & Hein 2021)."""
    z, x = cases(3, 2.0, (3, 16, 16))
    torch.testing.assert_close(length(project(z, x, 10.0), x), torch.full((4,), 10.0).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("reach", [0.1, 1.0, 30.0])
def test_rounding_of_many_pixels_stays_below_what_it_can_add_up_to(reach: float) -> None:
    z, x = cases(4, reach, (3, 32, 32), n=20)
    assert (length(project(z, x, 12 - z[0].numel() * 2.0**-25), x) <= 12 + 1e-6).all()


def test_a_row_does_not_see_the_others() -> None:
    z, x = cases(1, 1.0, (3, 8, 8), n=9)
    whole = project(z, x, 2.0)
    for rows in ([4], [8, 1, 2], []):
        assert torch.equal(project(z[rows], x[rows], 2.0), whole[rows])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_point_that_is_not_finite_stays_visible_or_becomes_legal(bad: float) -> None:
    z, x = cases(2, 0.1)
    z[0, 0, 0, 0] = bad
    p = project(z, x, 0.5)
    assert torch.equal(p[1:], project(z[1:], x[1:], 0.5))
    assert p[0].isnan().any() or length(p, x)[0] <= 0.5 + 1e-6
