"""What each defense does to a batch, and a conformance check over all of them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.doctor import declaration_checks, defense_checks
from bench.errors import BadInput
from bench.models import build
from bench.plugins.contract import Context, Defense
from bench.plugins.registry import defense_names, make_defense
from bench.training.network import TrainingNet

TARGET = ThreatModel.parse("linf", "0.2")
DATA = load("digits", "train")


def network() -> TrainingNet:
    with isolated(0):
        return TrainingNet(build("digits_cnn?width=8", (1, 8, 8), 10), torch.device("cpu"), "float32", (1, 8, 8))


def batch(n: int = 32) -> tuple[Tensor, Tensor]:
    return DATA.batch(torch.arange(n))


def context(net: TrainingNet, progress: float = 0.9, threat: ThreatModel = TARGET, n: int = 32) -> Context:
    rng = Rng(0, torch.arange(n)).at("epoch", 0)
    return Context(threat, TARGET, rng, progress, 0, net.gradient("train"), DATA.x, DATA.y, torch.arange(n))


def crafted(defense: Defense, ctx: Context, net: TrainingNet, n: int = 32) -> Tensor:
    """The last images that the loss is taken on: those the network is handed with gradients for its weights."""
    seen: list[Tensor] = []
    shared: list[Tensor] = []
    """With a gradient for the images too: crafting, or one pass for the weights and for the next example, as in free_at."""

    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(args[0], Tensor):
            (shared if args[0].requires_grad else seen).append(args[0].detach())

    hook = net.register_forward_pre_hook(look)
    defense.loss(net, *batch(n), ctx)
    hook.remove()
    return (seen or shared)[-1]


@pytest.mark.parametrize("name", defense_names())
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_defense_keeps_the_contract(name: str, norm: str) -> None:
    defense, net, threat = make_defense(name, {}), network(), ThreatModel.parse(norm, "0.2")
    if defense.skip("digits", threat):
        pytest.skip(defense.skip("digits", threat) or "")
    before = torch.random.get_rng_state()
    ctx = context(net, threat=threat)
    loss = defense.loss(net, *batch(), ctx)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert net.training
    for progress in (0.0, 0.3, 0.5, 0.999):
        assert 0 <= defense.budget(threat, progress).radius <= threat.radius
    with pytest.raises(Exception, match=r"frozen|cannot assign"):
        defense.name_of_a_field_that_cannot_be_set = 1  # type: ignore[attr-defined]
    assert type(defense).passes
    assert (type(defense).__doc__ or "").strip()


@pytest.mark.parametrize("check", declaration_checks.CHECKS)
@pytest.mark.parametrize("name", defense_names())
def test_what_a_defense_declares(name: str, check: str) -> None:
    declaration_checks.CHECKS[check](name)


@pytest.mark.parametrize("check", defense_checks.CHECKS)
@pytest.mark.parametrize("name", defense_names())
def test_every_defense_passes_the_doctor(name: str, check: str) -> None:
    cases, reason = defense_checks.cases(name)
    if not cases:
        pytest.skip(reason)
    for case in cases.values():
        defense_checks.CHECKS[check](case)


@pytest.mark.parametrize("name", defense_names())
def test_a_defense_draws_per_sample(name: str) -> None:
    """What a sample is turned into does not depend on its neighbours (a network without batch statistics)."""
    defense, net = make_defense(name, {}), network()
    whole = crafted(defense, context(net), net)
    part = crafted(defense, context(net, n=20), net, 20)
    torch.testing.assert_close(whole[:20], part, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["fast_at", "pgd_at", "periodic_budget", "clean_warmup", "fgsm_at", "gradalign", "zerograd", "multigrad"]
)
def test_examples_stay_in_the_budget_of_the_step(name: str) -> None:
    net, (x, _) = network(), batch()
    for eps in ("0.2", "0.05"):
        threat = ThreatModel.parse("linf", eps)
        z = crafted(make_defense(name, {}), context(net, threat=threat), net)
        assert threat.contains(z, x).all()
        assert (threat.distance(z, x) > 0.5 * threat.radius).any()


def test_fast_at_takes_one_projected_step_from_its_start() -> None:
    net, (x, y) = network(), batch()
    ctx = context(net)
    for box in (True, False):
        start = TARGET.random_start(x, ctx.rng.at("start"), box=box)
        z = start.clone().requires_grad_()
        nn.functional.cross_entropy(net(z), y).backward()
        assert z.grad is not None
        expected = TARGET.project(start + 1.25 * 0.2 * z.grad.sign(), x)
        assert torch.equal(crafted(make_defense("fast_at", {"box_start": box}), ctx, net), expected)
        assert ((start < 0).any() or (start > 1).any()) != box


def test_the_step_shrinks_with_the_scheduled_budget() -> None:
    """T25: alpha / eps is constant, and below 1e-6 the images stay clean."""
    net, (x, _) = network(), batch()
    defense = make_defense("periodic_budget", {"steps": 1, "step": 0.25})
    for eps in ("0.2", "0.02"):
        threat = ThreatModel.parse("linf", eps)
        z = crafted(defense, context(net, threat=threat), net)
        # A start within one step, then one step.
        assert (threat.distance(z, x) <= 0.5 * threat.radius + 1e-6).all()
        assert (threat.distance(z, x) > 0.4 * threat.radius).any()
    assert torch.equal(crafted(defense, context(net, threat=ThreatModel.parse("linf", "0.0000009")), net), x)


def test_clean_warmup_is_clean_until_its_switch() -> None:
    net, (x, _) = network(), batch()
    defense = make_defense("clean_warmup", {"warmup": 0.4})
    assert torch.equal(crafted(defense, context(net, progress=0.39), net), x)
    assert not torch.equal(crafted(defense, context(net, progress=0.4), net), x)


N_FGSM = {"placement": "pre", "covariance": "isotropic", "noise": "uniform", "sigma": 2 / math.sqrt(3)}


def test_n_fgsm_leaves_the_ball_and_the_clipped_cell_does_not() -> None:
    """T21: noise of twice eps and no projection; evaluation always projects."""
    net, (x, y) = network(), batch()
    ctx = context(net)
    z = crafted(make_defense("noise_fgsm", N_FGSM), ctx, net)
    reach = TARGET.distance(z, x)
    assert (reach > TARGET.radius + 1e-3).any()
    assert (reach <= 3 * TARGET.radius + 1e-6).all()
    assert ((z >= 0) & (z <= 1)).all()
    noise = 2 * TARGET.radius * (2 * ctx.rng.at("noise", "pre").uniform((1, 8, 8)) - 1)
    start = (x + noise).clamp(0, 1).requires_grad_()
    nn.functional.cross_entropy(net(start), y).backward()
    assert start.grad is not None
    torch.testing.assert_close(z, (start.detach() + 0.2 * start.grad.sign()).clamp(0, 1), atol=1e-6, rtol=0)
    assert TARGET.contains(crafted(make_defense("noise_fgsm", {**N_FGSM, "clip": True}), ctx, net), x).all()


def gradient_at(net: TrainingNet, z: Tensor, y: Tensor) -> Tensor:
    z = z.detach().clone().requires_grad_()
    nn.functional.cross_entropy(net(z), y, reduction="sum").backward()
    assert z.grad is not None
    return z.grad


@pytest.mark.parametrize("placement", ["post", "both", "none"])
def test_where_the_noise_goes(placement: str) -> None:
    """Before the gradient, on the example, or (none) in the penalty alone: KL(p(z) || p(z + noise)), each in the box."""
    net, (x, y) = network(), batch()
    ctx = context(net)

    def noise(use: str) -> Tensor:
        return 0.5 * TARGET.radius * ctx.rng.at("noise", use).normal((1, 8, 8))

    start = (x + noise("pre")).clamp(0, 1) if placement == "both" else x
    z = (start + 0.7 * TARGET.radius * gradient_at(net, start, y).sign()).clamp(0, 1)
    if placement != "none":
        z = (z + noise("post")).clamp(0, 1)
    logits, noisy = (net(images).log_softmax(1) for images in (z, (z + noise("penalty")).clamp(0, 1)))
    expected = nn.functional.nll_loss(logits, y) + 3 * (logits.exp() * (logits - noisy)).sum(1).mean()
    settings = {"placement": placement, "covariance": "isotropic", "sigma": 0.5, "step": 0.7, "penalty": 3.0}
    torch.testing.assert_close(make_defense("noise_fgsm", settings).loss(net, x, y, ctx), expected)


def test_noise_along_principal_directions_stays_in_their_span() -> None:
    net, n = network(), 400
    ctx = context(net, n=n)
    defense: Any = make_defense("noise_fgsm", {"covariance": "spectral"})
    noise = defense._noise(batch(n)[0], None, ctx, "pre").flatten(1).double()
    flat = DATA.x[:1000].flatten(1).double()
    deviations, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[1:]
    along = noise @ directions.T
    torch.testing.assert_close(along[:, 50:], torch.zeros_like(along[:, 50:]), atol=1e-5, rtol=0)
    # Energy as the data's own variance, direction by direction.
    shares = along.square().mean(0)[:10] / along.square().mean(0).sum()
    torch.testing.assert_close(shares, (deviations**2 / (deviations[:50] ** 2).sum())[:10], atol=0.02, rtol=0.3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"placement": "none"}, "set penalty"), ({"covariance": "spectral", "noise": "uniform"}, "leave noise = uniform out")],
)
def test_noise_that_would_do_nothing_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        make_defense("noise_fgsm", settings)


@pytest.mark.parametrize("covariance", ["gradient", "complement"])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_gradient_that_prefers_no_pixel_gives_isotropic_noise(covariance: str, value: float) -> None:
    x, ctx = batch()[0], context(network())
    defense: Any = make_defense("noise_fgsm", {"covariance": covariance})
    energy = defense._energy(x, torch.full_like(x, value), ctx)
    torch.testing.assert_close(energy, torch.ones_like(x))


def test_a_pixel_that_never_changes_has_no_variance_below_zero() -> None:
    """Of 0.9 in float32, the mean of squares and the square of the mean differ by rounding alone."""
    images = torch.rand(692, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, :, 0] = 0.9
    ctx = context(network())
    ctx.images = images
    defense: Any = make_defense("noise_fgsm", {"covariance": "data"})
    assert defense._energy(batch()[0], None, ctx).min() >= 0


@pytest.mark.parametrize("covariance", ["isotropic", "gradient", "complement", "data", "spectral"])
def test_every_covariance_has_the_same_energy(covariance: str) -> None:
    """E|noise|^2 = d sigma^2 whatever the shape of the covariance."""
    net, n = network(), 600
    defense: Any = make_defense("noise_fgsm", {"covariance": covariance, "sigma": 0.5})
    (x, y), ctx = batch(n), context(net, n=n)
    noise = defense._noise(x, defense.gradient(x, y, ctx), ctx, "pre")
    energy = noise.flatten(1).square().sum(1).mean()
    assert energy == pytest.approx(64 * (0.5 * 0.2) ** 2, rel=0.1)


def test_gradient_noise_goes_where_the_gradient_is_and_its_complement_elsewhere() -> None:
    net, (x, y) = network(), batch()
    ctx = context(net)
    here = ctx.grad(x, y)
    size = here.abs().flatten(1)
    shares: dict[str, Any] = {}
    for covariance in ("gradient", "complement"):
        defense: Any = make_defense("noise_fgsm", {"covariance": covariance})
        energy = defense._energy(x, here, ctx).flatten(1)
        torch.testing.assert_close(energy.mean(1), torch.ones(32))
        shares[covariance] = torch.corrcoef(torch.stack([energy.flatten(), (size / size.amax(1, keepdim=True)).flatten()]))[
            0, 1
        ]
    assert shares["gradient"] > 0.7
    assert shares["complement"] < -0.7


def test_statistics_of_the_data_are_computed_once() -> None:
    net = network()
    ctx = context(net)
    make_defense("noise_fgsm", {"covariance": "data"}).loss(net, *batch(), ctx)
    variance = ctx.memory["variance"]
    torch.testing.assert_close(
        variance * DATA.x.double().var(0, correction=0).mean(), DATA.x.double().var(0, correction=0), check_dtype=False
    )
    make_defense("noise_fgsm", {"covariance": "data"}).loss(net, *batch(), ctx)
    assert ctx.memory["variance"] is variance
