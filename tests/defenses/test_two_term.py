"""TRADES and MART: a loss of two terms, on the clean image and on its worst neighbour."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench import train
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.defenses.mart import doubt, runner_up
from bench.defenses.trades import divergence, near
from bench.models import build
from bench.plugins.contract import Context, Defense
from bench.plugins.registry import make_defense
from bench.training.network import TrainingNet
from bench.training.recipe import configure

LINF = ThreatModel.parse("linf", "0.2")
DATA = load("digits", "train")
INDEX = torch.arange(32)
BOTH = ["trades", "mart"]


def network(arch: str = "digits_cnn?width=8", seed: int = 0) -> TrainingNet:
    with isolated(seed):
        return TrainingNet(build(arch, (1, 8, 8), 10), torch.device("cpu"), "float32", (1, 8, 8))


def decided(arch: str) -> TrainingNet:
    """A network whose answers differ enough that float32 can tell a divergence close to its zero."""
    net = network(arch)
    with torch.no_grad():
        net(DATA.batch(torch.arange(200))[0])
        [*net.parameters()][-2].mul_(90)
    return net


def context(net: TrainingNet, threat: ThreatModel = LINF, mode: Any = "eval", smoothing: float = 0.0) -> Context:
    return Context(
        threat=threat,
        target=threat,
        rng=Rng(0, DATA.ids[INDEX]).at("epoch", 0),
        progress=0.5,
        epoch=0,
        gradient=net.gradient(mode),
        images=DATA.x,
        labels=DATA.y,
        index=INDEX,
        label_smoothing=smoothing,
    )


def visit(defense: Defense, net: TrainingNet, ctx: Context) -> tuple[Tensor, Tensor]:
    """The image that the network was shown last, which is the adversarial one, and the loss."""
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    loss = defense.loss(net, *DATA.batch(INDEX), ctx)
    hook.remove()
    return seen[-1], loss


def gradients(net: TrainingNet, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*net.parameters()], retain_graph=True))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(left, right, strict=True))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Written out in probabilities, [N]."""
    return (p * (p.log() - q.log())).sum(1)


logits = st.integers(0, 2**31).flatmap(
    lambda seed: st.floats(0.01, 30).map(
        lambda scale: scale * torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(seed))
    )
)


@settings(deadline=None)
@given(logits)
def test_divergence_is_that_of_kullback_and_leibler(both: Tensor) -> None:
    """T17: never negative, zero between equals, blind to shifts of the logits."""
    clean, moved = both
    found = divergence(clean, moved)
    p, q = clean.double().softmax(1), moved.double().softmax(1)
    torch.testing.assert_close(found.double(), kl(p, q), atol=1e-4, rtol=1e-4)
    assert (found >= -1e-5).all()
    assert (divergence(clean, clean + 3).abs() < 1e-4).all()


def test_without_beta_trades_is_natural_training() -> None:
    """T17."""
    net, (x, y) = network(), DATA.batch(INDEX)
    _, loss = visit(make_defense("trades", {"beta": 0.0}), net, context(net))
    assert same(gradients(net, loss), gradients(net, F.cross_entropy(net(x), y)))
    _, loss = visit(make_defense("trades", {"beta": 1.0}), net, context(net))
    assert not same(gradients(net, loss), gradients(net, F.cross_entropy(net(x), y)))


def test_the_weights_of_trades_hear_of_both_branches() -> None:
    net, (x, y) = network(), DATA.batch(INDEX)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    z, loss = visit(make_defense("trades", {"beta": 3.0}), net, context(net))
    p, q = net(x).softmax(1), net(z).softmax(1)
    natural, smooth = F.nll_loss(p.log(), y), kl(p, q).mean()
    torch.testing.assert_close(loss, natural + 3 * smooth, atol=1e-5, rtol=1e-5)
    mine = gradients(net, loss)
    assert same(mine, gradients(net, natural + 3 * smooth))
    assert not same(mine, gradients(net, natural + 3 * kl(p.detach(), q).mean()))
    assert not same(mine, gradients(net, natural + 3 * kl(p, q.detach()).mean()))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("norm", "mode"), [("linf", "eval"), ("l2", "eval"), ("l1", "eval"), ("l2", "train")])
def test_the_attack_in_closed_form(name: str, norm: str, mode: str) -> None:
    """Four projected steps from hardly away, up the divergence (TRADES) or the cross-entropy (MART), in the recipe's mode."""
    threat = ThreatModel.parse(norm, {"linf": "0.2", "l2": "1", "l1": "4"}[norm])
    net, (x, y) = decided("resnet18?width=4"), DATA.batch(INDEX)
    ctx = context(net, threat, mode)
    found, _ = visit(make_defense(name, {"steps": 4, "step": 0.4}), net, ctx)
    net = decided("resnet18?width=4").train(mode == "train")
    clean = net(x).log_softmax(1).detach()
    z = x + 0.001 * ctx.rng.at("start").normal((1, 8, 8))
    for _ in range(4):
        z = z.detach().requires_grad_()
        moved = net(z).log_softmax(1)
        objective = (clean.exp() * (clean - moved)).sum() if name == "trades" else F.nll_loss(moved, y, reduction="sum")
        (grad,) = torch.autograd.grad(objective, z)
        z = threat.project(z + 0.4 * threat.radius * threat.steepest(grad, z), x).detach()
    # Close to its zero a divergence is the difference of nearly equal numbers, and in linf a pixel may change its sign.
    assert (found - z).abs().sum() < 0.01 * (z - x).abs().sum()
    assert threat.contains(found, x).all()


def test_the_start_is_small_noise_of_the_sample() -> None:
    net, (x, _) = network(), DATA.batch(INDEX)
    start = near(x, context(net))
    assert float((start - x).std()) == pytest.approx(1e-3, rel=0.05)
    assert not torch.equal((start - x)[0], (start - x)[1])
    part = context(net)
    part.rng = Rng(0, DATA.ids[:7]).at("epoch", 0)
    assert torch.equal(near(x[:7], part), start[:7])


def test_the_attack_of_trades_finds_more_divergence_than_noise_does() -> None:
    net, (x, y) = network(), DATA.batch(INDEX)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    z, _ = visit(make_defense("trades", {}), net, context(net))
    noise = LINF.random_start(x, Rng(1, INDEX), corner=True)
    with torch.no_grad():
        found, random = (divergence(net(x), net(other)).mean() for other in (z, noise))
    assert found > 10 * random, (found, random)


@pytest.mark.parametrize("name", BOTH)
def test_crafting_in_eval_mode_leaves_the_statistics_alone(name: str) -> None:
    """The clean and the adversarial pass move them once each; the mode is train afterwards."""
    net = network("resnet18?width=4")
    visit(make_defense(name, {"steps": 3}), net, context(net))
    counters = {int(buffer) for key, buffer in net.named_buffers() if "num_batches" in key}
    assert counters == {2}
    assert all(part.training for part in net.modules())


@pytest.mark.parametrize("name", BOTH)
def test_where_the_weights_move_too_the_example_stays(name: str) -> None:
    """AWP takes the loss a second time, on other weights: no pass is spent on crafting again."""
    net, defense = network(), make_defense(name, {"steps": 3})
    ctx = context(net)
    first, loss = visit(defense, net, ctx)
    spent = net.forwards
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    ctx.again()
    second, again = visit(defense, net, ctx)
    assert torch.equal(first, second)
    assert net.forwards - spent == 2 * len(INDEX)
    assert not torch.allclose(loss, again)


def test_mart_in_closed_form() -> None:
    net, (x, y) = network(), DATA.batch(INDEX)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    z, loss = visit(make_defense("mart", {"beta": 4.0}), net, context(net))
    p, q = net(x).softmax(1), net(z).softmax(1)
    rows = torch.arange(32)
    wrong = q.masked_fill(F.one_hot(y, 10).bool(), -1).amax(1)
    boosted = -q[rows, y].log() - (1.0001 - wrong).log()
    expected = boosted.mean() + 4 * (kl(p, q) * (1.0000001 - p[rows, y])).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    mine = gradients(net, loss)
    assert same(mine, gradients(net, expected))
    steady = boosted.mean() + 4 * (kl(p, q) * (1.0000001 - p[rows, y].detach())).mean()
    assert not same(mine, gradients(net, steady))


@settings(deadline=None)
@given(logits, st.integers(0, 9))
def test_the_terms_of_mart_stay_in_their_ranges(both: Tensor, label: int) -> None:
    """T18: doubts lie in [1e-7, 1.0000001], and the boost adds to the cross-entropy (but for the 1e-4 in its formula)."""
    y = torch.full((6,), label)
    weights = doubt(both[0], y)
    assert (weights >= 1e-7).all()
    assert (weights <= 1.0000002).all()
    boost = runner_up(both[0], y)
    assert (boost >= -math.log(1.0001) - 1e-6).all()
    assert boost.isfinite().all()
    wrong = both[0].softmax(1).clone()
    wrong[:, label] = 0
    torch.testing.assert_close(boost, -(1.0001 - wrong.amax(1)).log())


def test_saturated_answers_keep_finite_gradients() -> None:
    """Logits a thousand apart, for and against the label."""
    y = torch.tensor([0, 1])
    answers = torch.tensor([[1000.0, 0, 0], [1000.0, 0, 0]], requires_grad=True)
    moved = answers.flip(1)
    total = (divergence(answers, moved) * doubt(answers, y) + runner_up(moved, y)).sum() + F.cross_entropy(moved, y)
    total.backward()
    assert total.isfinite()
    assert answers.grad is not None
    assert answers.grad.isfinite().all()


@pytest.mark.parametrize("name", BOTH)
def test_the_recipes_label_smoothing_reaches_the_cross_entropy(name: str) -> None:
    net = network()
    ctx = context(net, smoothing=0.3)
    z, smoothed = visit(make_defense(name, {}), net, ctx)
    _, plain = visit(make_defense(name, {}), net, context(net))
    assert ctx.smoothed
    x, y = DATA.batch(INDEX)
    on = x if name == "trades" else z
    change = F.cross_entropy(net(on), y, label_smoothing=0.3) - F.cross_entropy(net(on), y)
    torch.testing.assert_close(smoothed - plain, change, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("dataset", "family"), [("digits", "digits"), ("mnist", "mnist"), ("cifar10", "cifar"), ("cifar100", "cifar")]
)
def test_presets_craft_in_eval_mode(dataset: str, family: str) -> None:
    for name in BOTH:
        _, recipe, _ = configure(name, dataset, family, {})
        assert recipe.craft == "eval"


@pytest.mark.parametrize(("name", "forwards", "backwards"), [("trades", 4 + 2 + 1, 4 + 2), ("mart", 4 + 2, 4 + 2)])
def test_the_cost_on_record(tmp_path: Path, name: str, forwards: int, backwards: int) -> None:
    folder = train(name, settings={"epochs": "1", "steps": "4"}, model="digits_cnn?width=8", results=tmp_path, quiet=True)
    cost = json.loads((folder / "train.json").read_text())["training"]
    assert (cost["forwards_per_sample"], cost["backwards_per_sample"]) == (forwards, backwards)


@pytest.mark.slow
def test_they_learn_to_be_robust(tmp_path: Path) -> None:
    """Against PGD-10 on held-out digits, where standard training keeps next to nothing."""
    pgd = {}
    for name, chosen in (("standard", {}), ("trades", {"steps": "4"}), ("mart", {"steps": "4"})):
        folder = train(name, settings={"epochs": "8", **chosen}, results=tmp_path, quiet=True)
        pgd[name] = json.loads((folder / "train.json").read_text())["history"][-1]["pgd"]
    assert pgd["standard"] < 0.1, pgd
    assert all(accuracy > 0.3 for name, accuracy in pgd.items() if name != "standard"), pgd
