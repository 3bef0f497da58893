"""The lab: linear classifiers against independent minimisers, patches against the theory's own statements (T42)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from bench.errors import BadInput
from bench.science.lab.linear import LOG2, Linear, fit, margins, reach, robust_loss, synthetic, threshold
from bench.science.lab.structured import (
    Course,
    Learner,
    World,
    accuracy,
    activation,
    amounts,
    as_images,
    departure,
    learned,
    train,
)

SEEDS = 5
EPS = 0.125
RADII = (0.0, 0.025, 0.05, 0.075, 0.1, EPS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Linear classifiers


def test_the_robust_loss_is_the_largest_over_the_corners() -> None:
    x, s = synthetic(9, 4, 0.5, generator())
    model = Linear(torch.randn(4, generator=generator(1), dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64))
    corners = 0.2 * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    every = F.softplus(-s[:, None] * ((x[:, None] + corners) @ model.w + model.b))
    torch.testing.assert_close(robust_loss(model, x, s, 0.2), every.amax(1).mean())
    assert torch.equal(
        margins(model, x, s, 0.2) > 0, ((x[:, None] + corners) @ model.w * s[:, None] + s[:, None] * model.b > 0).all(1)
    )


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_the_constant_classifier_is_best_from_the_threshold_on(share: float) -> None:
    """For classes of any sizes; just below it something else is better, by a minimiser that knows nothing of the threshold."""
    x, _ = synthetic(200, 5, 0.4, generator())
    s = torch.where(torch.arange(200) < 200 * share, 1.0, -1.0).double()
    x = x + 0.3 * s[:, None] * torch.tensor([1.0, -0.2, 0.0, 0.1, 0.0], dtype=torch.float64)
    bound = threshold(x, s)
    constant = -(share * torch.tensor(share).log() + (1 - share) * torch.tensor(1 - share).log())
    below, loss_below = fit(x, s, 0.98 * bound)
    above, loss_above = fit(x, s, 1.02 * bound)
    assert below.w.abs().sum() > 1e-4
    assert loss_below < float(constant) - 1e-6
    assert above.w.abs().sum() < 1e-6
    assert loss_above == pytest.approx(float(constant), abs=1e-7)


def test_a_fit_is_the_minimum_of_the_robust_loss() -> None:
    x, s = synthetic(100, 5, 0.6, generator())
    model, loss = fit(x, s, 0.1)
    torch.testing.assert_close(robust_loss(model, x, s, 0.1), torch.tensor(loss, dtype=torch.float64))
    for seed in range(20):
        move = 0.01 * torch.randn(6, generator=generator(seed), dtype=torch.float64)
        assert robust_loss(Linear(model.w + move[:5], model.b + move[5]), x, s, 0.1) >= loss


def test_version_spaces_are_nested_and_end_where_the_loss_is_that_of_0() -> None:
    x, s = synthetic(100, 5, 0.6, generator())
    rays = torch.cat([torch.rand(30, 5, generator=generator(2)), torch.randn(30, 5, generator=generator(3))]).double()
    reaches = torch.stack([reach(rays, x, s, eps) for eps in (0.0, 0.05, 0.1, 0.3, threshold(x, s))])
    assert (reaches.diff(dim=0) <= 1e-9).all()
    assert (reaches[0] > 0).any()
    assert (reaches[-1] == 0).all()
    unit = rays / rays.norm(dim=1, keepdim=True)
    zero = torch.tensor(0.0, dtype=torch.float64)
    for ray, end in zip(unit, reaches[1], strict=True):
        if 0 < end < 100:
            assert float(robust_loss(Linear(end * ray, zero), x, s, 0.05)) == pytest.approx(LOG2, abs=1e-6)
            assert robust_loss(Linear(end / 2 * ray, zero), x, s, 0.05) < LOG2


# Patches


def begun(world: World, learner: Learner, seeds: int, n: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    drawn = [(*world.draw(n, generator(seed)), learner.begin(world, generator(100 + seed))) for seed in range(seeds)]
    x, y, w = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    return x, y, w


def ball(seeds: int, eps: float = EPS) -> Tensor:
    return torch.full((seeds,), eps, dtype=torch.float64)


def share(course: Course) -> Tensor:
    a, b = course.a[-1].mean(1), course.b[-1].mean(1)
    return a / (a + b)


@pytest.fixture(scope="module")
def trainings() -> dict[float, Course]:
    """Standard training, and adversarial training at several radii, of the same samples and weights."""
    world, learner = World(), Learner()
    x, y, w = begun(world, learner, SEEDS, n=4)
    how = {"steps": 1600, "stop": 6.0}
    return {eps: train(learner, world, x, y, w, ball(SEEDS, eps) if eps else None, **how) for eps in RADII}


def test_the_instance_is_one_in_which_the_theory_has_something_to_say() -> None:
    assert all(World().feasible(EPS).values())
    # With few patches and weak features below eps no network could be robust.
    assert not World(patches=16, beta=0.5, robust=2).feasible(0.6)["a robust solution exists"]


def test_standard_training_learns_what_is_many_and_adversarial_training_what_is_strong(trainings: dict[float, Course]) -> None:
    """(i), (ii), (iii): over five seeds, errors on fresh samples at equal eps."""
    world, learner = World(), Learner()
    fresh = [world.draw(40, generator(10**6 + seed)) for seed in range(SEEDS)]
    x, y = (torch.stack(parts) for parts in zip(*fresh, strict=True))
    standard, robust = trainings[0.0], trainings[EPS]
    assert share(standard).median() < 0.3
    assert share(robust).median() > 0.8
    errors = {name: 1 - accuracy(learner, course.w, x, y, ball(SEEDS)) for name, course in (("s", standard), ("r", robust))}
    assert (1 - accuracy(learner, standard.w, x, y)).max() < 0.05
    assert (errors["s"] - errors["r"]).median() > 0.3
    assert learned(standard.w, world, 6.0).all()


def test_the_share_of_robust_features_rises_with_eps(trainings: dict[float, Course]) -> None:
    """(v): of the medians over five seeds."""
    medians = [float(share(course).median()) for course in trainings.values()]
    assert list(trainings) == [0.0, 0.025, 0.05, 0.075, 0.1, 0.125]
    assert spearmanr(list(trainings), medians).statistic > 0.8


def test_with_a_ball_of_radius_0_the_update_is_the_standard_one_bit_for_bit() -> None:
    """(iv), for both inner steps and several of them."""
    world = World(patches=20)
    for inner, steps in (("sign", 1), ("gradient", 1), ("sign", 5)):
        learner = replace(Learner(), inner=inner, inner_steps=steps)
        x, y, w = begun(world, learner, 2)
        one = train(learner, world, x, y, w, None, steps=40, every=1)
        two = train(learner, world, x, y, w, ball(2, 0.0), ball(2, 1.0), steps=40, every=1)
        assert torch.equal(one.w, two.w)
        assert torch.equal(one.b, two.b)
        assert not torch.equal(one.w, train(learner, world, x, y, w, ball(2, 0.1), ball(2, 1.0), steps=40).w)


def test_a_smaller_inner_step_parts_later_from_standard_training() -> None:
    """(vi): in each of three seeds."""
    world, learner = World(), replace(Learner(), inner="gradient")
    x, y, w = begun(world, learner, 3, n=4)
    how = {"steps": 400, "every": 1, "stop": float("inf")}
    plain = train(learner, world, x, y, w, None, **how)
    times = []
    for rate in (300.0, 30.0, 3.0):
        course = train(learner, world, x, y, w, ball(3), torch.full((3,), rate, dtype=torch.float64), **how)
        times.append([departure(course.b.mean(2)[:, seed], plain.b.mean(2)[:, seed], plain.at) for seed in range(3)])
    for fast, middle, slow in zip(*times, strict=True):
        assert fast < middle < slow
    assert torch.tensor(departure(plain.b[:, 0, 0], plain.b[:, 0, 0], plain.at)).isnan()


@pytest.mark.parametrize(("act", "lr"), [("relu", 0.02), ("gelu", 0.05), ("softplus", 0.02)])
def test_other_activations_train_and_k_inner_steps_too(act: str, lr: float) -> None:
    """(vii): the order of the two trainings is the same, by the share of robust features in the mean over seeds."""
    world = World(patches=40)
    learner = replace(Learner(), act=act, lr=lr, inner_steps=3)
    x, y, w = begun(world, learner, 3)
    how = {"steps": 60, "stop": float("inf")}
    standard = train(learner, world, x, y, w, None, **how)
    robust = train(learner, world, x, y, w, ball(3), ball(3) / 2, **how)
    assert robust.w.isfinite().all()
    assert share(robust).mean() > share(standard).mean()


@pytest.mark.parametrize("act", ["smoothed", "relu", "gelu", "softplus"])
def test_slopes_are_those_of_autograd(act: str) -> None:
    z = torch.linspace(-3, 12, 61, dtype=torch.float64).add(0.01).requires_grad_()
    value, slope = activation(act, 3, 8.0)(z)  # type: ignore[arg-type]
    (expected,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(slope, expected)


def test_the_smoothed_activation_is_continuous_with_its_slope() -> None:
    at = torch.tensor([-1.0, 0.0, 8 - 1e-9, 8 + 1e-9, 11.0], dtype=torch.float64)
    value, slope = activation("smoothed", 3, 8.0)(at)
    torch.testing.assert_close(value, torch.tensor([0, 0, 8 / 3, 8 / 3, 11 - 8 * 2 / 3], dtype=torch.float64))
    torch.testing.assert_close(slope, torch.tensor([0, 0, 1, 1, 1], dtype=torch.float64))


def test_a_step_is_that_of_autograd_and_the_attack_follows_the_gradient_within_the_ball() -> None:
    world = World(classes=3, size=9, patches=7)
    learner = replace(Learner(), inner="gradient", filters=2, init=2.0)
    x, y, w = begun(world, learner, 2, n=5)
    free, images = w.clone().requires_grad_(), x.clone().requires_grad_()
    value, _ = activation("smoothed", 3, 8.0)(torch.einsum("snpd,sfd->snpf", images, free))
    logits = value.sum(2).view(2, 5, 3, 2).sum(3)
    torch.testing.assert_close(learner.logits(w, x), logits.detach())
    each = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(2, 5)
    for_w, for_x = torch.autograd.grad(each.mean(1).sum(), [free, images])
    loss, moved = learner.step(w, x, y)
    torch.testing.assert_close(loss, each.mean(1).detach())
    torch.testing.assert_close(moved, w - learner.lr * for_w)
    rate = torch.tensor([0.5, 200.0], dtype=torch.float64)
    expected = (x + rate.view(-1, 1, 1, 1) * for_x * 5).clamp(x - 0.05, x + 0.05)
    torch.testing.assert_close(learner.attack(w, x, y, ball(2, 0.05), rate), expected)


def test_samples_show_the_features_that_they_are_said_to() -> None:
    world = World(classes=3, size=12, patches=11, robust=2, nonrobust=3, noise=0.0)
    u, v = world.features()
    torch.testing.assert_close(torch.cat([u, v.flatten(0, 1)]) @ torch.cat([u, v.flatten(0, 1)]).T, torch.eye(12).double())
    x, y = world.draw(30, generator())
    assert y.bincount().tolist() == [10, 10, 10]
    strong = torch.einsum("npd,nd->np", x, u[y])
    weak = torch.einsum("npd,nmd->npm", x, v[y]).amax(2)
    assert (strong.isclose(torch.tensor(1.0).double()).sum(1) == 2).all()
    assert (weak.isclose(torch.tensor(0.2375).double()).sum(1) == 9).all()
    # Robust-only and non-robust-only samples.
    alone, _ = world.draw(30, generator(), beta=0.0)
    assert (alone.abs().sum(2) > 0).sum(1).tolist() == [2] * 30
    others, _ = world.draw(30, generator(), alpha=0.0)
    assert (others.abs().sum(2) > 0).sum(1).tolist() == [9] * 30


def test_worlds_can_be_made_more_general() -> None:
    u, v = World(cosine=0.6).features()
    torch.testing.assert_close((u[:, None] * v).sum(2), torch.full((2, 1), 0.6).double())
    torch.testing.assert_close(v.norm(dim=2), torch.ones(2, 1).double())
    plain, mixed = (World(noise=0.0, overlap=o).draw(4, generator())[0] for o in (0.0, 0.5))
    assert ((mixed - plain).abs().sum(2) - 0.5 * 0.2375).abs().max() < 1e-12
    noisy, _ = World(noise=0.0, feature_noise=0.1).draw(200, generator())
    off = (noisy - World(noise=0.0).draw(200, generator())[0]).flatten()
    assert float(off.std()) == pytest.approx(0.1, rel=0.02)
    for wrong in ({"size": 3}, {"robust": 170}, {"cosine": 1.0}):
        with pytest.raises(BadInput):
            World(**wrong)


def test_amounts_are_of_the_filter_that_has_most() -> None:
    world = World(classes=2, size=6, nonrobust=2)
    w = torch.zeros(1, 4, 6, dtype=torch.float64)
    w[0, 0, 0], w[0, 1, 0], w[0, 1, 3], w[0, 2, 4] = 2.0, 3.0, 5.0, 7.0
    a, b = amounts(w, world)
    assert a.tolist() == [[3, 0]]
    assert b.tolist() == [[5, 7]]
    assert not learned(w, world, 7.5).any()


def test_images_hold_the_samples_in_the_box() -> None:
    x, _ = World().draw(50, generator())
    images = as_images(x)
    assert images.shape == (50, 1, 170, 4)
    assert images.min() > 0.25
    assert images.max() < 1 - EPS / 4
    torch.testing.assert_close(4 * (images[:, 0].double() - 0.5), x, atol=1e-6, rtol=0)
