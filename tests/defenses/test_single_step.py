"""Single-step defenses: each against its closed form, its published constants or an independent computation."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from bench import train
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.defenses.gradalign import misalignment
from bench.errors import BadInput
from bench.files.progress import Reporter
from bench.models import build
from bench.plugins.contract import Context, Defense
from bench.plugins.registry import make_defense
from bench.results.collapse import GAP
from bench.training.loop import Trainer
from bench.training.network import TrainingNet
from bench.training.recipe import configure
from bench.training.request import TrainingRequest

NAMES = ["fgsm_at", "n_fgsm", "free_at", "gradalign", "zerograd", "multigrad"]
TARGET = ThreatModel.parse("linf", "0.2")
DATA = load("digits", "train")
X, Y = DATA.batch(torch.arange(32))


def network(spec: str = "digits_cnn?width=8", precision: str = "float32") -> TrainingNet:
    with isolated(0):
        return TrainingNet(build(spec, (1, 8, 8), 10), torch.device("cpu"), precision, (1, 8, 8))


def context(net: TrainingNet, threat: ThreatModel = TARGET, seed: int = 0) -> Context:
    index = torch.arange(32)
    return Context(threat, TARGET, Rng(seed, index), 0.5, 0, net.gradient("train"), DATA.x, DATA.y, index)


def handed(defense: Defense, ctx: Context, net: TrainingNet) -> list[Tensor]:
    """Everything that the network is shown while the loss is taken."""
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    defense.loss(net, X, Y, ctx)
    hook.remove()
    return seen


def perturbed(name: str, ctx: Context, **settings: Any) -> Tensor:
    defense: Any = make_defense(name, settings)
    z: Tensor = defense.perturb(X, Y, ctx)
    return z


def gradient(net: nn.Module, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    F.cross_entropy(net(z), Y, reduction="sum").backward()
    assert z.grad is not None
    return z.grad


def trainer(folder: Path, defense: str, **settings: str) -> Trainer:
    job = TrainingRequest(defense=defense, settings={"precision": "float32", **settings}).job()
    return Trainer(job, folder, torch.device("cpu"), Reporter("test", 1, quiet=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dataset", "family"),
    [("digits", "digits"), ("mnist", "mnist"), ("cifar10", "cifar"), ("cifar100", "cifar"), ("svhn", "cifar")],
)
def test_every_preset_is_a_recipe(name: str, dataset: str, family: str) -> None:
    configure(name, dataset, family, {})


def test_fgsm_takes_one_full_step_from_the_image() -> None:
    net = network()
    expected = (X + 0.2 * gradient(net, X).sign()).clamp(0, 1)
    for seed, step in ((0, 1.0), (1, 1.25)):
        z = perturbed("fgsm_at", context(net, seed=seed), step=step)
        torch.testing.assert_close(z, expected, atol=1e-6, rtol=0)
    half = perturbed("fgsm_at", context(net), step=0.5)
    torch.testing.assert_close(half, (X + 0.1 * gradient(net, X).sign()).clamp(0, 1), atol=1e-6, rtol=0)


def test_n_fgsm_leaves_the_ball_and_does_not_when_clipped() -> None:
    """T21."""
    for norm in ("linf", "l2", "l1"):
        threat = ThreatModel.parse(norm, "0.2")
        net = network()
        ctx = context(net, threat)
        z = perturbed("n_fgsm", ctx)
        assert (threat.distance(z, X) > threat.radius + 1e-3).any()
        assert (threat.distance(z, X) <= 3 * threat.radius + 1e-5).all()
        assert ((z >= 0) & (z <= 1)).all()
        assert threat.contains(perturbed("n_fgsm", context(net, threat), clip=True), X).all()


def test_n_fgsm_is_a_cell_of_noise_fgsm() -> None:
    for k, step in ((2.0, 1.0), (3.0, 0.75), (0.5, 1.0)):
        net = network()
        cell = {"placement": "pre", "covariance": "isotropic", "noise": "uniform", "sigma": k / math.sqrt(3), "step": step}
        ours, theirs = (
            perturbed("n_fgsm", context(net), k=k, step=step),
            handed(make_defense("noise_fgsm", cell), context(net), net)[-1],
        )
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_n_fgsm_without_noise_is_fgsm() -> None:
    net = network()
    assert torch.equal(perturbed("n_fgsm", context(net), k=0.0), perturbed("fgsm_at", context(net)))


@given(st.integers(0, 63), st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**31))
def test_zerograd_cuts_at_the_quantile(share: int, size: int, levels: int, seed: int) -> None:
    """T23, with ties: what lies strictly below the interpolated quantile of a sample goes, the rest is untouched."""
    q = share / 64
    rng = Rng(seed, torch.arange(3))
    defense: Any = make_defense("zerograd", {"q": q})
    tied = (rng.integers(2 * levels + 1, (1, 1, size)) - levels).float()
    distinct = (1.0 + rng.permutation(size).float()).view(3, 1, 1, size) * torch.where(
        rng.at("s").uniform((1, 1, size)) < 0.5, -1, 1
    )
    for grad in (tied, distinct):
        threshold = torch.quantile(grad.abs().double().flatten(1), q, dim=1).view(3, 1, 1, 1)
        # Interpolation between equal values may round up past them.
        expected = torch.where(grad.abs() < threshold - 1e-9, 0.0, grad)
        assert torch.equal(defense.filtered(grad), expected)
    gone = (defense.filtered(distinct) == 0).flatten(1).float().mean(1)
    assert ((gone - q).abs() <= 1 / size + 1e-6).all()


def test_zerograd_moves_from_its_start_what_it_keeps() -> None:
    net = network()
    ctx = context(net)
    start = TARGET.random_start(X, ctx.rng.at("start"))
    grad = gradient(net, start)
    low = grad.abs() < torch.quantile(grad.abs().flatten(1), 0.35, dim=1).view(-1, 1, 1, 1)
    z = perturbed("zerograd", ctx)
    assert torch.equal(z[low], start[low])
    expected = TARGET.project(start + 0.4 * grad.sign(), X)
    torch.testing.assert_close(z[~low], expected[~low], atol=1e-6, rtol=0)
    assert (z[~low] != start[~low]).any()


def test_zerograd_of_nothing_is_fast_at_with_its_step() -> None:
    net = network()
    z = handed(make_defense("fast_at", {"step": 2.0}), context(net), net)[-1]
    assert torch.equal(perturbed("zerograd", context(net), q=0.0), z)


def test_multigrad_counts_the_signs() -> None:
    signs = torch.tensor([[1, 1, 1, -1, 1, 0], [1, 1, -1, -1, 0, 0], [1, -1, -1, -1, 1, 0]]).float()
    for agreement, expected in ((None, [1, 0, 0, -1, 0, 0]), (2, [1, 1, -1, -1, 1, 0])):
        defense: Any = make_defense("multigrad", {"agreement": agreement})
        assert defense.consensus(signs).sign().tolist() == expected
    with pytest.raises(BadInput, match="4 of 3 points"):
        make_defense("multigrad", {"agreement": 4})


def test_multigrad_steps_from_the_image_where_all_gradients_agree() -> None:
    net = network()
    shown = handed(make_defense("multigrad", {}), context(net), net)
    *starts, z = shown
    assert len(starts) == 3
    assert all(TARGET.contains(start, X).all() for start in starts)
    assert not torch.equal(starts[0], starts[1])
    signs = torch.stack([gradient(net, start).sign() for start in starts])
    agreed = (signs == signs[0]).all(0) & (signs[0] != 0)
    assert agreed.any()
    assert not agreed.all()
    assert torch.equal(z[~agreed], X[~agreed])
    torch.testing.assert_close(z[agreed], (X + 0.2 * signs[0]).clamp(0, 1)[agreed], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["zerograd", "multigrad"])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_what_repairs_signs_says_that_other_norms_have_none(name: str, norm: str) -> None:
    assert norm in (make_defense(name, {}).skip("digits", ThreatModel.parse(norm, "0.2")) or "")
    assert make_defense(name, {}).skip("digits", TARGET) is None


def test_gradalign_weighs_by_the_published_law() -> None:
    """The values in the source's scripts, to their three decimals."""
    tables = {
        "cifar10": {1: 0.027, 2: 0.036, 4: 0.063, 8: 0.2, 12: 0.632, 16: 2.0},
        "svhn": {1: 1.657, 4: 1.976, 8: 2.5, 12: 3.162},
    }
    for dataset, table in tables.items():
        defense: Any = configure("gradalign", dataset, "cifar", {})[0]
        for eps, weight in table.items():
            assert defense.strength(ThreatModel.parse("linf", f"{eps}/255")) == pytest.approx(weight, abs=5e-4)
        assert defense.strength(ThreatModel.parse("l2", "0.5")) == defense.weight


def test_gradalign_leaves_a_linear_model_alone() -> None:
    """T24: with two classes the direction of a linear model's gradient is the same everywhere (with more it is not)."""
    with isolated(0):
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    net, y = TrainingNet(body, torch.device("cpu"), "float32", (1, 8, 8)), Y % 2
    losses = []
    for name in ("gradalign", "fgsm_at"):
        losses.append(
            make_defense(name, {"weight": 1e3, "growth": 1.0} if name == "gradalign" else {}).loss(net, X, y, context(net))
        )
    assert (losses[0] - losses[1]).item() == pytest.approx(0, abs=1e3 * 1e-6)


def test_gradalign_is_differentiated_as_written() -> None:
    """Loss and gradient of the weights against torch.func, which shares no code with the training step."""
    net = network()
    ctx = context(net)
    defense = make_defense("gradalign", {"weight": 0.7, "growth": 1.0})
    loss = defense.loss(net, X, Y, ctx)
    loss.backward()
    near = TARGET.random_start(X, ctx.rng.at("near"), box=False)
    weights = {name: parameter.detach() for name, parameter in net.net.named_parameters()}

    def logits(values: dict[str, Tensor], z: Tensor) -> Tensor:
        out: Tensor = functional_call(net.net, values, (z,))
        return out

    def input_gradient(values: dict[str, Tensor], z: Tensor) -> Tensor:
        ce: Callable[[Tensor, Tensor], Tensor] = lambda one, label: F.cross_entropy(logits(values, one[None])[0], label)  # noqa: E731
        grads: Tensor = torch.func.vmap(torch.func.grad(ce))(z, Y)
        return grads

    here = input_gradient(weights, X)

    def total(values: dict[str, Tensor]) -> Tensor:
        cos = F.cosine_similarity(here.flatten(1), input_gradient(values, near).flatten(1), eps=1e-20)
        return F.cross_entropy(logits(values, (X + 0.2 * here.sign()).clamp(0, 1)), Y) + 0.7 * (1 - cos.mean())

    expected, value = torch.func.grad_and_value(total)(weights)
    torch.testing.assert_close(loss.detach(), value, atol=1e-5, rtol=1e-5)
    for name, parameter in net.net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3)


def test_gradalign_counts_only_samples_with_a_gradient() -> None:
    rng = Rng(3, torch.arange(5))
    here, there = rng.at("a").normal((1, 4, 4)), rng.at("b").normal((1, 4, 4))
    expected = 1 - F.cosine_similarity(here[2:].flatten(1), there[2:].flatten(1)).mean()
    here[0], there[1] = 0, 0
    # A confident sample's gradient is tiny, and its direction counts as much as any.
    scale = torch.tensor([1, 1, 1e-12, 1e6, 1]).view(-1, 1, 1, 1)
    there = (scale * there).requires_grad_()
    apart = misalignment(here, there)
    torch.testing.assert_close(apart, expected)
    apart.backward()
    assert there.grad is not None
    assert there.grad.isfinite().all()
    assert (there.grad[:2] == 0).all()
    assert (there.grad[2:] != 0).flatten(1).any(1).all()
    assert misalignment(torch.zeros_like(here), there) == 0


def test_gradalign_looks_around_in_the_whole_ball() -> None:
    """Where a schedule holds the step's budget down, and beyond the box."""
    net, small = network(), ThreatModel.parse("linf", "0.02")
    image, z, near = handed(make_defense("gradalign", {"growth": 1.0}), context(net, small), net)
    assert torch.equal(image, X)
    assert (small.distance(z, X) <= small.radius + 1e-6).all()
    assert (TARGET.distance(near, X) > 0.9 * TARGET.radius).all()
    assert (TARGET.distance(near, X) <= TARGET.radius + 1e-6).all()
    assert (near < 0).any()


def with_batch_norms() -> nn.Module:
    with isolated(0):
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip


def test_gradalign_goes_twice_through_batch_norms_in_bf16() -> None:
    """Every weight gets a finite gradient, and following it aligns the gradients that float32 sees; without it they part."""
    near, apart = TARGET.random_start(X, Rng(9, torch.arange(32)), box=False), {}
    for weight in (0.0, 5.0):
        net = TrainingNet(with_batch_norms(), torch.device("cpu"), "bf16", (1, 8, 8))
        exact = TrainingNet(net.net, torch.device("cpu"), "float32", (1, 8, 8))
        before = misalignment(gradient(exact, X), gradient(exact, near))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            make_defense("gradalign", {"weight": weight, "growth": 1.0}).loss(net, X, Y, context(net)).backward()
            assert all(part.grad is not None and part.grad.isfinite().all() for part in net.parameters())
            optimizer.step()
        apart[weight] = misalignment(gradient(exact, X), gradient(exact, near))
    assert apart[5.0] < before < apart[0.0]


@pytest.mark.parametrize(("awp", "forwards", "backwards"), [({}, 3, 4), ({"awp": "0.01"}, 5, 7)])
def test_the_cost_of_gradalign(tmp_path: Path, awp: dict[str, str], forwards: int, backwards: int) -> None:
    """Two gradients and a training pass, with one of the gradients differentiated; all but the first twice under AWP."""
    made = trainer(tmp_path, "gradalign", **awp)
    loss = made.updates.batch(torch.arange(64), 0, 0.5, 0.1)
    assert loss.isfinite()
    assert (made.net.forwards, made.net.backwards) == (64 * forwards, 64 * backwards)


def plain_free(net: nn.Module, batches: list[Tensor], replays: int, size: int, lr: float) -> Tensor:
    """Free adversarial training from its description, on raw tensors; the perturbation of `size` places."""
    delta = torch.zeros(size, 1, 8, 8)
    for index in batches:
        x, y = DATA.batch(index)
        for _ in range(replays):
            z = (x + delta[: len(x)]).clamp(0, 1).requires_grad_()
            net.zero_grad()
            F.cross_entropy(net(z), y).backward()
            assert z.grad is not None
            moved = (delta[: len(x)] + 0.2 * z.grad.sign()).clamp(-0.2, 0.2)
            delta[: len(x)] = (x + moved).clamp(0, 1) - x
            with torch.no_grad():
                for parameter in net.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(lr * parameter.grad)
    return delta


def test_free_follows_its_description(tmp_path: Path) -> None:
    """The weights move on the perturbation as it was, which goes on to the next minibatch, also past a short one."""
    made = trainer(
        tmp_path, "free_at", replays="3", optimizer="sgd", lr="0.05", momentum="0", weight_decay="0", schedule="constant"
    )
    batches = [torch.arange(0, 20), torch.arange(20, 27), torch.arange(27, 47)]
    twin = build("digits_cnn", (1, 8, 8), 10)
    twin.load_state_dict(made.net.net.state_dict())
    made.train_data = made.updates.samples = DATA
    for index in batches:
        made.updates.batch(index, 0, 0.0, 0.01)
    delta = plain_free(twin, batches, 3, 20, 0.05)
    torch.testing.assert_close(made.updates.memory["delta"], delta, atol=1e-6, rtol=0)
    assert (delta.abs() > 0.1).any()
    for ours, theirs in zip(made.net.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_free_updates_once_per_replay_and_counts_one_pass_for_it(tmp_path: Path) -> None:
    """T20: updates = epochs x replays x batches, each for one forward and one backward pass; also under AWP's second one."""
    updates = []
    made = trainer(tmp_path, "free_at", epochs="2", replays="3", batch_size="256")
    made.updates.optimizer.register_step_post_hook(lambda *_: updates.append(made.updates.optimizer.param_groups[0]["lr"]))
    made.run()
    size, batches = len(made.train_data), -(-len(made.train_data) // 256)
    assert len(updates) == 2 * 3 * batches
    assert len(set(updates)) == len(updates)
    assert made.net.forwards == made.net.backwards == 2 * 3 * size
    assert TARGET.contains(made.updates.memory["delta"] + 0.5, torch.full((256, 1, 8, 8), 0.5)).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_free_keeps_the_places_it_has_and_the_budget(norm: str) -> None:
    """A larger batch than any before, a schedule that shrinks the budget, and a loss that no update follows."""
    net, threat = network(), ThreatModel.parse(norm, "0.2")
    ctx = context(net, threat)
    kept = threat.scaled(2).random_start(X[:5], Rng(1, torch.arange(5)), corner=True) - X[:5]
    ctx.memory["delta"] = kept
    defense = make_defense("free_at", {})
    (z,) = handed(defense, ctx, net)
    assert threat.contains(z, X).all()
    assert (z[:5] != X[:5]).flatten(1).any(1).all()
    assert torch.equal(z[5:], X[5:])
    ctx.commit()
    assert ctx.memory["delta"] is kept
    defense.loss(net, X, Y, ctx).backward()
    assert ctx.memory["delta"] is kept
    ctx.commit()
    assert len(ctx.memory["delta"]) == 32
    assert threat.contains(X + ctx.memory["delta"], X).all()
    assert (threat.distance(X + ctx.memory["delta"], X) > 0).all()


@pytest.mark.slow
@pytest.mark.skipif("GAUNTLET_DATA" not in os.environ, reason="needs MNIST: set GAUNTLET_DATA")
def test_fgsm_collapses_where_n_fgsm_does_not(tmp_path: Path) -> None:
    """1500 images of MNIST at eps 0.3: FGSM training withstands FGSM and nothing else; noise and no projection cure it."""
    mnist = load("mnist", "train").first(1500)
    np.savez(tmp_path / "mnist.npz", x=mnist.x.permute(0, 2, 3, 1).numpy(), y=mnist.y.numpy())
    settings = {"epochs": "15", "batch_size": "50", "eps_schedule": "linear:0,2", "precision": "float32"}
    last = {}
    for name in ("fgsm_at", "n_fgsm"):
        folder = train(
            name, dataset=f"{tmp_path}/mnist.npz", eps="0.3", settings=settings, results=tmp_path, device_name="cpu", quiet=True
        )
        last[name] = json.loads((folder / "train.json").read_text())["history"][-1]
    assert last["fgsm_at"]["fgsm"] - last["fgsm_at"]["pgd"] > GAP > last["n_fgsm"]["fgsm"] - last["n_fgsm"]["pgd"]
    assert last["n_fgsm"]["pgd"] > 2 * last["fgsm_at"]["pgd"]
