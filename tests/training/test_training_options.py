"""The options of the training loop: each against a direct computation, and each across a kill."""

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import train
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.defenses.pgd_at import PGDTraining
from bench.errors import BadInput, GauntletError
from bench.files.progress import Reporter
from bench.models import batchnorm, build, resolve
from bench.models.checkpoint import load_weights
from bench.plugins.contract import Context, Defense
from bench.plugins.registry import defense_names, make_defense
from bench.plugins.schedules import budget_factor, position_in_period
from bench.training import awp
from bench.training.averages import EMA, SWA
from bench.training.job import Job
from bench.training.loop import Trainer
from bench.training.network import Crafting, TrainingNet
from bench.training.recipe import configure
from bench.training.request import TrainingRequest
from bench.training.validation import validate

CPU = torch.device("cpu")
RESNET = "resnet18?width=4"
TARGET = ThreatModel.parse("linf", "0.2")
State = dict[str, Tensor]


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 85 digits: 62 to train on, in two batches of 32 and 30, 6 held out, and 17 to test."""
    digits = load("digits", "train").first(85)
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, x=digits.x.permute(0, 2, 3, 1).numpy(), y=digits.y.numpy())
    return path


class Watched(Reporter):
    """Keeps the weights, the online and the written ones, of every epoch; and leaves after one of them, as a kill does."""

    def __init__(self, leave_after: int = 0) -> None:
        super().__init__("test", 1, quiet=True)
        self.leave_after = leave_after
        self.online: list[State] = []
        self.written: list[State] = []

    def watch(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def advance(self, amount: float, note: str = "", *, milestone: bool = False) -> None:
        if milestone and " loss " in note:
            self.online.append(copy.deepcopy(self.trainer.net.net.state_dict()))
            self.written.append(load_weights(self.trainer.folder / "last.safetensors")[0])
            if self.trainer.done.epoch == self.leave_after:
                raise KeyboardInterrupt


def planned(few: Path, name: str, model: str, settings: dict[str, Any]) -> Job:
    chosen = {"epochs": 1, "batch_size": 32, **settings}
    settings = {key: json.dumps(value) for key, value in chosen.items()}
    return TrainingRequest(defense=name, dataset=str(few), model=model, eps="0.2", settings=settings).job()


def trainer(job: Job, folder: Path, leave_after: int = 0) -> tuple[Trainer, Watched]:
    watched = Watched(leave_after)
    made = Trainer(job, folder, CPU, watched)
    watched.watch(made)
    return made, watched


def trained(
    few: Path, folder: Path, name: str = "fast_at", model: str = "digits_cnn?width=4", **settings: Any
) -> tuple[Trainer, Watched]:
    made, watched = trainer(planned(few, name, model, {"precision": "float32", **settings}), folder)
    made.run()
    return made, watched


def cost(folder: Path) -> tuple[float, float]:
    training = json.loads((folder / "train.json").read_text())["training"]
    return training["forwards_per_sample"], training["backwards_per_sample"]


def same(first: State, second: State, atol: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], atol=atol, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def norms(net: nn.Module) -> list[Any]:
    return list(batchnorm.layers(net).values())


# --- adversarial weight perturbation -------------------------------------------------------------------------------------


def test_awp_moves_each_matrix_by_gamma_of_its_norm_uphill_and_nothing_else() -> None:
    """T19: the ratio of every layer, its direction, biases and batch norms untouched, and the way back."""
    with isolated(0):
        net = build(RESNET, (1, 8, 8), 10)
    x, y = load("digits").batch(torch.arange(32))
    before = copy.deepcopy(net.state_dict())
    names = [name for name, _ in net.named_parameters()]
    with batchnorm.frozen(net):
        loss = F.cross_entropy(net(x), y)
        gradients = dict(zip(names, torch.autograd.grad(loss, [*net.parameters()], retain_graph=True), strict=True))
        moves = awp.perturb(net, loss, 0.01)
    matrices = {name for name, value in net.named_parameters() if value.dim() > 1}
    assert len(moves) == len(matrices) == 21
    for name, value in net.state_dict().items():
        moved = value - before[name]
        if name not in matrices:
            assert torch.equal(value, before[name]), name
            continue
        assert moved.norm() / before[name].norm() == pytest.approx(0.01, rel=1e-4)
        assert F.cosine_similarity(moved.flatten(), gradients[name].flatten(), 0) > 0.9999
    awp.restore(moves)
    same(net.state_dict(), before, 1e-6)


def test_weights_without_a_gradient_do_not_move() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = copy.deepcopy(net.state_dict())
    moves = awp.perturb(net, 0 * net[0](torch.rand(4, 3)).sum(), 0.1)
    same(net.state_dict(), before)
    awp.restore(moves)
    same(net.state_dict(), before)


@pytest.mark.parametrize(("model", "steps"), [("digits_cnn?width=4", 3), (RESNET, 1)])
@pytest.mark.parametrize("craft", ["train", "eval"])
def test_a_training_with_awp_is_the_published_loop(few: Path, tmp_path: Path, craft: str, model: str, steps: int) -> None:
    """Wu et al.'s loop, with its proxy network and that network's own optimiser, written out: weights and batch norms.

    One step where there are batch norms: on maps of one pixel rounding grows a thousandfold with each.
    """
    settings = {"optimizer": "sgd", "lr": 0.05, "schedule": "constant", "weight_decay": 5e-4, "awp": 0.02, "craft": craft}
    job = planned(few, "fast_at", model, {**settings, "precision": "float32"})
    made, _ = trainer(job, tmp_path)
    net, gamma = copy.deepcopy(made.net.net), 0.02
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for index in [torch.arange(32), torch.arange(30, 62), torch.arange(10, 42)][:steps]:
        made.updates.batch(index, 0, 0.0, 0.1)

        x, y = made.train_data.batch(index)
        ids = made.train_data.ids[index]
        start = job.threat.random_start(x, Rng(0, ids).at("epoch", 0).at("start")).requires_grad_()
        net.train(craft == "train")
        (grad,) = torch.autograd.grad(F.cross_entropy(net(start), y), start)
        z = job.threat.project(start + 1.25 * 0.2 * grad.sign(), x).detach()
        net.train()
        proxy = copy.deepcopy(net)
        proxy_optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
        proxy_optimizer.zero_grad()
        (-F.cross_entropy(proxy(z), y)).backward()
        proxy_optimizer.step()
        moves = {}
        with torch.no_grad():
            for (name, weight), other in zip(net.named_parameters(), proxy.parameters(), strict=True):
                if "weight" in name and weight.dim() > 1:
                    ahead = other - weight
                    moves[weight] = gamma * weight.norm() / (ahead.norm() + 1e-20) * ahead
                    weight.add_(moves[weight])
        optimizer.zero_grad()
        F.cross_entropy(net(z), y).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, move in moves.items():
                weight.sub_(move)
    same(made.net.net.state_dict(), net.state_dict(), 1e-6)


def test_an_update_of_no_length_leaves_the_weights_where_they_were(few: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "lr": 1e-30, "weight_decay": 0.0, "awp": 0.5, "precision": "float32"}
    made, _ = trainer(planned(few, "pgd_at", RESNET, settings), tmp_path)
    before = {name: value.clone() for name, value in made.net.net.named_parameters()}
    made.updates.batch(torch.arange(32), 0, 0.0, 0.1)
    same(dict(made.net.net.named_parameters()), before, 1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", defense_names())
def test_both_takes_of_a_loss_are_on_the_same_examples(name: str) -> None:
    """The second take, at other weights, crafts nothing anew and shows the network what the first one showed it."""
    with isolated(0):
        net = TrainingNet(build("digits_cnn?width=8", (1, 8, 8), 10), CPU, "float32", (1, 8, 8))
    made, digits, index = make_defense(name, {}), load("digits", "train"), torch.arange(24)
    if reason := made.skip("digits", TARGET):
        pytest.skip(reason)
    crafted: list[bool] = []
    shown: list[list[Tensor]] = [[], []]
    inside = False

    class Watched(Crafting):
        def __call__(self, z: Tensor, loss: Callable[[Tensor], Tensor], *, create_graph: bool = False) -> Tensor:
            nonlocal inside
            inside = True
            crafted.append(not create_graph)
            found = super().__call__(z, loss, create_graph=create_graph)
            inside = False
            return found

    ctx = Context(TARGET, TARGET, Rng(0, index), 0.9, 0, Watched(net, "train", True), digits.x, digits.y, index)
    x, y = digits.batch(index)

    def show(_: nn.Module, args: tuple[Any]) -> None:
        # Interval arithmetic shows boxes, which are not crafted.
        if not inside and isinstance(args[0], Tensor):
            shown[take].append(args[0].detach().clone())

    net.register_forward_pre_hook(show)
    take = 0
    moves = awp.perturb(net.net, made.loss(net, x, y, ctx), 0.05)
    of_first = sum(crafted)
    ctx.again()
    take = 1
    made.loss(net, x, y, ctx)
    awp.restore(moves)
    assert sum(crafted) == of_first
    assert len(shown[0]) >= len(shown[1]) > 0
    for first, second in zip(reversed(shown[0]), reversed(shown[1]), strict=False):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "settings", "forwards"),
    [
        ("standard", {"awp": 0.01}, 2),
        ("fast_at", {"awp": 0.01}, 3),
        ("pgd_at", {"awp": 0.01, "steps": 4}, 6),
        ("pgd_at", {"awp": 0.01, "steps": 4, "awp_warmup": 0.5}, 5.5),
        ("pgd_at", {"awp": 0.01, "steps": 4, "clean_first": 0.5}, 3.5),
        ("pgd_at", {"clean_first": 0.5, "steps": 4}, 3),
        ("pgd_at", {"clean_first": 1, "steps": 4}, 1),
        ("noise_fgsm", {"awp": 0.01, "covariance": "gradient"}, 4),
        ("noise_fgsm", {"awp": 0.01, "covariance": "isotropic", "penalty": 1}, 5),
        ("free_at", {"awp": 0.01, "replays": 3}, 6),
    ],
)
def test_the_cost_on_record_is_one_more_pass(
    few: Path, tmp_path: Path, name: str, settings: dict[str, Any], forwards: float
) -> None:
    trained(few, tmp_path, name, epochs=2, **settings)
    assert cost(tmp_path) == pytest.approx((2 * forwards, 2 * forwards))


@pytest.mark.parametrize(
    ("name", "settings", "per_step"),
    [
        ("pgd_at", {"steps": 3}, 4),
        ("pgd_at", {"steps": 3, "craft_updates": False}, 1),
        ("pgd_at", {"steps": 3, "craft": "eval"}, 1),
        ("pgd_at", {"steps": 3, "awp": 0.01}, 4),
        ("pgd_at", {"steps": 3, "awp": 0.01, "craft_updates": False}, 1),
        ("pgd_at", {"steps": 3, "biased_norms": True}, 4),
        ("gradalign", {}, 3),
        ("gradalign", {"awp": 0.01}, 3),
        ("gradalign", {"awp": 0.01, "craft_updates": False}, 1),
    ],
)
def test_what_moves_the_kept_statistics(few: Path, tmp_path: Path, name: str, settings: dict[str, Any], per_step: int) -> None:
    """T28: crafting only where it may; and under AWP once, not twice."""
    made, _ = trained(few, tmp_path, name, RESNET, **settings)
    steps = len(made._batches(0))
    assert {int(norm.num_batches_tracked) for norm in norms(made.net.net)} == {per_step * steps}


# --- averages ------------------------------------------------------------------------------------------------------------


def test_an_average_with_buffers_in_closed_form() -> None:
    """T29, with the statistics of batch norms averaged alike; counters are copied."""
    net = nn.BatchNorm1d(2)
    ema = EMA(net, 0.15, buffers=True)
    expected = torch.zeros(2)
    for step in range(1, 6):
        net.running_mean.fill_(step)  # type: ignore[union-attr]
        net.num_batches_tracked.fill_(10 * step)  # type: ignore[union-attr]
        ema.update(net)
        decay = min(0.15, step / (9 + step))
        expected = decay * expected + (1 - decay) * step
        torch.testing.assert_close(ema.net.running_mean, expected)
        assert ema.net.num_batches_tracked == 10 * step


def test_a_defense_may_choose_the_decay_of_an_update() -> None:
    for decay in (0.5, torch.tensor(0.5)):
        net, online = (nn.Linear(2, 2) for _ in range(2))
        ema = EMA(net, 0.9)
        ema.updates = 10**6
        ema.update(online, decay)
        torch.testing.assert_close(ema.net.weight, (net.weight + online.weight) / 2)
        early = EMA(net, 0.9)
        early.update(online, decay)
        torch.testing.assert_close(early.net.weight, 0.1 * net.weight + 0.9 * online.weight)


def test_the_plain_mean_of_weights() -> None:
    nets = [nn.Linear(3, 3) for _ in range(4)]
    swa = SWA(nets[0])
    for net in nets:
        swa.update(net)
    torch.testing.assert_close(swa.net.weight, torch.stack([net.weight for net in nets]).mean(0))


def direct_statistics(
    made: Trainer, epoch: int, weights: State, clean: bool, biased: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of what reaches every batch norm, over the batches of an epoch, in float64 and from first principles.

    The images are those of fast_at, crafted in train mode by this function, with the budget of the epoch's last batch.
    """
    batches = made._batches(epoch)
    factor = budget_factor(made.job.recipe.eps_schedule) or (lambda _: 1.0)
    threat = made.job.threat.scaled(factor((epoch + 1 - 1 / len(batches)) / made.job.recipe.epochs))
    with isolated(0):
        net = build(RESNET, (1, 8, 8), 10)
    net.load_state_dict(weights)
    net.train()
    sums: dict[Any, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms(net)}
    for index in batches:
        x, y = made.train_data.batch(index)
        if not clean:
            rng = Rng(0, made.train_data.ids[index]).at("epoch", epoch)
            start = threat.random_start(x, rng.at("start")).requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(net(start), y), start)
            x = threat.project(start + 1.25 * threat.radius * grad.sign(), x).detach()

        def note(norm: nn.Module, args: tuple[Tensor]) -> None:
            values = args[0].double().transpose(0, 1).flatten(1)
            sums[norm].append((values.mean(1), values.var(1, correction=0 if biased else 1)))

        hooks = [norm.register_forward_pre_hook(note) for norm in norms(net)]
        net(x)
        for hook in hooks:
            hook.remove()
    return [
        (torch.stack([mean for mean, _ in found]).mean(0), torch.stack([variance for _, variance in found]).mean(0))
        for found in sums.values()
    ]


def assert_statistics(made: Trainer, expected: list[tuple[Tensor, Tensor]]) -> None:
    for norm, (mean, variance) in zip(norms(made.judged.net), expected, strict=True):
        torch.testing.assert_close(norm.running_mean.double(), mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var.double(), variance, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("craft", ["train", "eval"])
def test_swa_is_the_mean_of_epoch_ends_with_recomputed_statistics(few: Path, tmp_path: Path, craft: str) -> None:
    made, watched = trained(few, tmp_path, model=RESNET, epochs=4, swa=0.5, craft=craft)
    weights = [name for name, _ in made.net.net.named_parameters()]
    for epoch in (0, 1):
        same(watched.written[epoch], watched.online[epoch])
    for name in weights:
        assert torch.equal(watched.written[2][name], watched.online[2][name])
        mean = (watched.online[2][name] + watched.online[3][name]) / 2
        torch.testing.assert_close(watched.written[3][name], mean, atol=1e-7, rtol=1e-6)
    assert_statistics(made, direct_statistics(made, 3, watched.written[3], clean=False))
    same(made.judged.net.state_dict(), watched.written[3])
    # What the recomputation costs is on record: as much as crafting and one forward pass, in the last two epochs.
    assert cost(tmp_path) == pytest.approx((4 * 2 + 2 * 2, 4 * 2 + 2 * 1))


@pytest.mark.parametrize("wanted", ["clean", "adversarial"])
@pytest.mark.parametrize("settings", [{"eps_schedule": "linear:0,1"}, {"ema": 0.5}, {"biased_norms": True, "craft": "eval"}])
def test_recomputed_statistics_are_the_mean_over_the_batches(
    few: Path, tmp_path: Path, wanted: str, settings: dict[str, Any]
) -> None:
    made, watched = trained(few, tmp_path, model=RESNET, epochs=2, statistics=wanted, **settings)
    biased = bool(settings.get("biased_norms"))
    assert_statistics(made, direct_statistics(made, 1, watched.written[1], wanted == "clean", biased))
    # Training goes on with statistics of its own.
    assert {int(norm.num_batches_tracked) for norm in norms(made.net.net)} == {(4 if not biased else 2) * len(made._batches(0))}
    others = direct_statistics(made, 1, watched.written[1], wanted != "clean", biased)
    with pytest.raises(AssertionError):
        assert_statistics(made, others)


def test_statistics_of_the_batch_tie_samples_to_each_other(few: Path, tmp_path: Path) -> None:
    x, _ = load("digits").batch(torch.arange(32))
    for wanted in ("running", "batch"):
        made, _ = trained(few, tmp_path / wanted, model=RESNET, epochs=2, statistics=wanted)
        net = made.judged.eval()
        with torch.no_grad():
            together, alone, single = net(x)[:8], net(x[:8]), net(x[:1])
        assert single.isfinite().all()
        assert torch.allclose(together, alone, atol=1e-5) == (wanted == "running")
    # What training validated with is what the written weights give in the mode that evaluation puts them into.
    written = batchnorm.use_batches(resolve(str(tmp_path / "batch") + "?weights=last", (1, 8, 8), 10).net)
    history = json.loads((tmp_path / "batch" / "train.json").read_text())["history"]
    found = validate(written, made.validation, made.job.threat)
    assert found == {key: history[-1][key] for key in ("clean", "fgsm", "pgd")}
    assert not any(isinstance(norm, batchnorm._OfTheBatch) for norm in norms(made.net.net))


# --- batch norms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_biased_variance_is_kept_and_outputs_do_not_change(momentum: float | None, bf16: bool) -> None:
    plain = nn.BatchNorm2d(6, momentum=momentum)
    nn.init.normal_(plain.weight)
    biased = copy.deepcopy(plain)
    batchnorm.keep_biased(biased)
    means, variances = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for step in range(1, 4):
        x = (3 * torch.randn(4, 6, 2, 3) + torch.arange(6).view(6, 1, 1)).to(memory_format=torch.channels_last)
        x = x.bfloat16() if bf16 else x
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = [norm(z) for norm, z in zip((plain, biased), inputs, strict=True)]
        assert torch.equal(*outputs)
        assert outputs[1].is_contiguous(memory_format=torch.channels_last)
        # Another pass before the backward pass, as a loss on clean and adversarial images has it.
        with batchnorm.frozen(biased), batchnorm.frozen(plain):
            biased(x), plain(x)
        for output in outputs:
            output.float().square().sum().backward()
        assert torch.equal(*[z.grad for z in inputs])  # type: ignore[arg-type]
        assert torch.equal(plain.weight.grad, biased.weight.grad)  # type: ignore[arg-type]
        values = x.double().transpose(0, 1).flatten(1)
        rate = 1 / step if momentum is None else momentum
        means = (1 - rate) * means + rate * values.mean(1)
        variances = (1 - rate) * variances + rate * values.var(1, correction=0)
        torch.testing.assert_close(biased.running_mean, means.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(biased.running_var, variances.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(biased.running_mean, plain.running_mean)
        assert biased.num_batches_tracked == step
        assert (plain.running_var > biased.running_var).all()  # type: ignore[operator]
    kept = copy.deepcopy(biased.state_dict())
    biased.eval(), plain.eval()
    plain.load_state_dict(kept)
    assert torch.equal(biased(x.float()), plain(x.float()))
    same(biased.state_dict(), kept)


def test_a_training_keeps_the_biased_variance_in_bf16_and_channels_last() -> None:
    with isolated(0):
        body = build("preact_resnet18?width=4", (3, 16, 16), 10)
    x = torch.rand(8, 3, 16, 16)
    nets = [TrainingNet(copy.deepcopy(body), CPU, "bf16", (3, 16, 16)) for _ in range(2)]
    batchnorm.keep_biased(nets[1].net)
    assert nets[1].layout == torch.channels_last
    logits = [net(x) for net in nets]
    assert torch.equal(*logits)
    m = {1: 8 * 16 * 16, 2: 8 * 8 * 8, 3: 8 * 4 * 4, 4: 8 * 2 * 2}
    for (name, plain), biased in zip(batchnorm.layers(nets[0].net).items(), norms(nets[1].net), strict=True):
        stage = int(name[5]) if name.startswith("layer") else 4
        stage -= name.startswith("layer") and name.endswith(".0.bn1") and stage > 1
        ratio = (biased.running_var - 0.9) / (plain.running_var - 0.9)
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1 - 1 / m[stage]), atol=1e-2 / m[stage] ** 0.5, rtol=0)
    logits[1].sum().backward()
    assert all(parameter.grad is not None for parameter in nets[1].parameters())


def test_statistics_follow_as_before_once_they_are_recomputed() -> None:
    norm = nn.BatchNorm2d(2, momentum=0.25)
    batches = torch.randn(3, 8, 2, 4, 4).unbind(0)
    norm(100 + batches[0])
    with batchnorm.recomputed(norm):
        norm(batches[0]), norm(batches[1])
    kept = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    torch.testing.assert_close(norm.running_mean, kept[:2].mean(0))
    norm(batches[2])
    torch.testing.assert_close(norm.running_mean, 0.75 * kept[:2].mean(0) + 0.25 * kept[2])


def separate() -> TrainingNet:
    with isolated(0):
        return TrainingNet(build(RESNET, (1, 8, 8), 10), CPU, "float32", (1, 8, 8), separate=True)


def test_clean_images_move_the_layers_of_their_own_and_others_the_kept_ones() -> None:
    net = separate()
    x, y = load("digits").batch(torch.arange(32))
    twins = [*net.clean_norms.values()]
    assert len(twins) == len(norms(net.net)) == 20
    reference = copy.deepcopy(net.net)
    net.clean_batch = x

    def snapshot(layers: list[Any]) -> list[State]:
        return [copy.deepcopy(layer.state_dict()) for layer in layers]

    def gradients() -> list[bool]:
        found = [all(p.grad is not None for layer in layers for p in layer.parameters()) for layers in (twins, norms(net.net))]
        net.zero_grad()
        return found

    before = snapshot(norms(net.net))
    logits = net(x)
    assert torch.equal(logits, reference(x))
    for twin, norm in zip(twins, norms(reference), strict=True):
        same(twin.state_dict(), norm.state_dict())
    for kept, old in zip(snapshot(norms(net.net)), before, strict=True):
        same(kept, old)
    F.cross_entropy(logits, y).backward()
    assert gradients() == [True, False]
    assert net.idle_norms() == "adversarial"

    before = snapshot(twins)
    F.cross_entropy(net(x + 0.1), y).backward()
    for kept, old in zip(snapshot(twins), before, strict=True):
        same(kept, old)
    assert {int(norm.num_batches_tracked) for norm in norms(net.net)} == {1}
    assert gradients() == [False, True]
    assert net.idle_norms() == ""
    # Crafting starts at the image and is no clean pass.
    net.gradient("train")(x, lambda logits: F.cross_entropy(logits, y))
    assert {int(norm.num_batches_tracked) for norm in norms(net.net)} == {2}
    for kept, old in zip(snapshot(twins), before, strict=True):
        same(kept, old)


@dataclass(frozen=True)
class Both(PGDTraining):
    """Clean and adversarial images in one loss."""

    steps: int = 2

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(x), y) + ctx.cross_entropy(net(self.perturb(x, y, ctx)), y)


def test_separate_norms_in_a_training(few: Path, tmp_path: Path) -> None:
    """The kept layers never see a clean image, and what is written is the plain architecture."""
    job = planned(few, "pgd_at", RESNET, {"separate_norms": True, "craft": "eval", "epochs": 2, "precision": "float32"})
    made, _ = trainer(replace(job, defense=Both()), tmp_path)
    made.run()
    steps = 2 * len(made._batches(0))
    assert {int(norm.num_batches_tracked) for norm in norms(made.net.net)} == {steps}
    assert {int(norm.num_batches_tracked) for norm in made.net.clean_norms.values()} == {steps}
    for twin, kept in zip(made.net.clean_norms.values(), norms(made.net.net), strict=True):
        assert not torch.equal(twin.weight, kept.weight)
        assert not torch.equal(twin.running_mean, kept.running_mean)
    plain = resolve(f"{tmp_path}?weights=last", (1, 8, 8), 10).net
    same(plain.state_dict(), made.net.net.state_dict())
    x, _ = load("digits").batch(torch.arange(16))
    assert torch.equal(plain(x), made.judged.eval()(x))


@pytest.mark.parametrize(("name", "kind"), [("standard", "adversarial"), ("clean_warmup", "adversarial"), ("fast_at", "clean")])
def test_separate_norms_are_refused_where_one_set_would_stay_idle(few: Path, tmp_path: Path, name: str, kind: str) -> None:
    made, _ = trainer(planned(few, name, RESNET, {"separate_norms": True, "epochs": 10}), tmp_path)
    with pytest.raises(BadInput, match=f"{name}.*no {kind} images.*leave separate_norms out"):
        made.run()


# --- budgets, snapshots, targets, clean beginnings -----------------------------------------------------------------------

RATIOS = (0.0, 0.25, 0.5, math.acos(-1 / 3) / math.pi, 0.8, 1.0)


@pytest.mark.parametrize("kind", ["const", "linear", "cosine"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (0.0, 1.5), (0.25, 1.0)])
@pytest.mark.parametrize("ends", [(1.0,), (0.5, 0.75, 1.0)])
def test_a_budget_schedule_is_that_of_periodic_budget(kind: str, low: float, high: float, ends: tuple[float, ...]) -> None:
    """T25, for any defense: the same fractions of eps to the last bit."""
    made = make_defense("periodic_budget", {"schedule_eps": kind, "eps_min": low, "eps_max": high, "periods": ends})
    factor = budget_factor(f"{kind}:{low},{high}:{','.join(map(str, ends))}")
    assert factor is not None
    starts = (0.0, *ends[:-1])
    for progress in [start + ratio * (end - start) for start, end in zip(starts, ends, strict=True) for ratio in RATIOS]:
        assert TARGET.scaled(factor(progress)) == made.budget(TARGET, progress)
    if ends == (1.0,):
        assert budget_factor(f"{kind}:{low},{high}")(0.3) == factor(0.3)  # type: ignore[misc]


def test_budget_schedules_in_closed_form() -> None:
    reach = math.acos(-1 / 3) / math.pi
    values = {
        "cosine:0,1.5": {0: 0, 0.25: 0.75 * (1 - math.sqrt(0.5)), 0.5: 0.75, reach: 1, 1: 1},
        "linear:0,2:0.5,1": {0: 0, 0.125: 0.5, 0.25: 1, 0.49: 1, 0.5: 0, 0.75: 1},
        "linear:0.2,1": {0: 0.2, 0.5: 0.6, 1: 1},
        "linear:1,0": {0: 1, 0.25: 0.75, 1: 0},
        "const:0,0.5": {0: 0.5, 0.7: 0.5},
    }
    for text, points in values.items():
        factor = budget_factor(text)
        assert factor is not None
        for progress, value in points.items():
            assert factor(progress) == pytest.approx(value, abs=1e-12)
    assert budget_factor("") is None
    assert position_in_period(1.0, (0.5, 1.0)) == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin:0,2", "did you mean 'cosine'"),
        ("cosine", "write KIND:MIN,MAX"),
        ("cosine:2", "write KIND:MIN,MAX"),
        ("cosine:0,1,2", "write KIND:MIN,MAX"),
        ("cosine:0,two", "write KIND:MIN,MAX"),
        ("cosine:0,2:", "write KIND:MIN,MAX"),
        ("cosine:0,2:0.5", "write KIND:MIN,MAX"),
        ("cosine:0,2:0.7,0.5,1", "write KIND:MIN,MAX"),
        ("cosine:0,2:0,1", "write KIND:MIN,MAX"),
        ("cosine:0,2:nan,1", "write KIND:MIN,MAX"),
        ("cosine:0,2:0.5,nan,1", "write KIND:MIN,MAX"),
        ("cosine:0,2:1:1", "write KIND:MIN,MAX"),
        ("cosine:-1,2", "fractions of eps"),
        ("cosine:0,inf", "fractions of eps"),
        ("cosine:nan,1", "fractions of eps"),
    ],
)
def test_bad_budget_schedules_are_told(text: str, message: str) -> None:
    with pytest.raises(GauntletError, match=message):
        configure("fast_at", "digits", "digits", {"eps_schedule": text})


def test_the_budget_schedule_reaches_every_update(few: Path, tmp_path: Path) -> None:
    seen: list[tuple[float, float, float]] = []

    class Asked(PGDTraining):
        def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
            seen.append((ctx.progress, ctx.threat.radius, ctx.target.radius))
            return ctx.cross_entropy(net(x), y)

    job = planned(few, "pgd_at", "digits_cnn?width=4", {"epochs": 2, "eps_schedule": "linear:0,2:0.5,1"})
    made, _ = trainer(replace(job, defense=Asked()), tmp_path)
    made.run()
    steps = 2 * len(made._batches(0))
    assert [progress for progress, _, _ in seen] == pytest.approx([step / steps for step in range(steps)])
    for progress, radius, target in seen:
        assert radius == pytest.approx(0.2 * min(4 * (progress % 0.5), 1))
        assert target == pytest.approx(0.2)


def test_snapshots_of_any_defense_become_an_ensemble(few: Path, tmp_path: Path) -> None:
    """0.28 of 25 epochs is 7 of them, although it is a little more in floating point."""
    _, watched = trained(few, tmp_path, model="digits_cnn?width=1", epochs=25, snapshots=[0.28, 0.6, 1.0])
    for number, epoch in enumerate((7, 15, 25)):
        same(load_weights(tmp_path / f"snapshot-{number + 1}.safetensors")[0], watched.written[epoch - 1])
    ensemble = resolve(str(tmp_path), (1, 8, 8), 10).net
    members = [resolve(f"{tmp_path}?weights=snapshot-{k}", (1, 8, 8), 10).net for k in (1, 2, 3)]
    x, _ = load("digits").batch(torch.arange(16))
    expected = torch.stack([member(x).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(ensemble(x).softmax(1), expected)


def test_smoothed_labels_reach_the_loss_and_not_the_crafting(few: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    job = planned(few, "fast_at", "digits_cnn?width=4", {**settings, "label_smoothing": 0.3, "precision": "float32"})
    made, _ = trainer(job, tmp_path)
    net, index = copy.deepcopy(made.net.net), torch.arange(32)
    made.updates.batch(index, 0, 0.0, 1.0)
    x, y = made.train_data.batch(index)
    start = TARGET.random_start(x, Rng(0, made.train_data.ids[index]).at("epoch", 0).at("start")).requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(net(start), y), start)
    z = TARGET.project(start + 0.25 * grad.sign(), x).detach()
    targets = 0.7 * F.one_hot(y, 10) + 0.03
    (-(targets * net(z).log_softmax(1)).sum(1).mean()).backward()
    for parameter, moved in zip(net.parameters(), made.net.net.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(moved, parameter - 0.1 * parameter.grad, atol=1e-6, rtol=0)


@dataclass(frozen=True)
class Own(Defense):
    """A loss of its own."""

    name = "own"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return F.cross_entropy(net(x), y)


def test_label_smoothing_is_refused_where_it_would_do_nothing(few: Path, tmp_path: Path) -> None:
    job = planned(few, "fast_at", "digits_cnn?width=4", {"label_smoothing": 0.1})
    made, _ = trainer(replace(job, defense=Own()), tmp_path)
    with pytest.raises(BadInput, match=r"'own' does not use ctx\.cross_entropy.*label_smoothing.*leave it out"):
        made.run()


def test_clean_first_is_natural_training_first(few: Path, tmp_path: Path) -> None:
    """Until the defense begins, the weights are those of natural training, to the bit; then they are not."""
    settings = {"epochs": 4, "label_smoothing": 0.1, "optimizer": "adam", "lr": 0.005}
    _, natural = trained(few, tmp_path / "standard", "standard", **settings)
    _, switched = trained(few, tmp_path / "first", "pgd_at", clean_first=0.5, steps=2, **settings)
    for epoch in (0, 1):
        same(natural.online[epoch], switched.online[epoch])
    assert any(not torch.equal(value, switched.online[2][key]) for key, value in natural.online[2].items())
    assert cost(tmp_path / "first") == pytest.approx((2 + 2 * 3, 2 + 2 * 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": "0.9", "swa": "0.5"}, "ema and swa"),
        ({"separate_norms": "true", "statistics": "clean"}, "leave statistics=clean out"),
        ({"separate_norms": "true", "clean_first": "0.1"}, "leave clean_first out"),
        ({"snapshots": "[0.5, 0.4]"}, "rising"),
        ({"snapshots": "[0, 1]"}, "snapshots = 0"),
        ({"awp": "0"}, "awp = 0"),
        ({"label_smoothing": "1"}, "label_smoothing = 1"),
        ({"statistics": "none"}, "statistics = 'none'"),
        ({"swa": "1"}, "swa = 1"),
    ],
)
def test_options_that_cannot_be_are_told(settings: dict[str, str], message: str) -> None:
    with pytest.raises(GauntletError, match=message):
        configure("fast_at", "digits", "digits", settings)


# --- what a defense is handed --------------------------------------------------------------------------------------------


def context(index: Tensor, memory: dict[str, Tensor]) -> Context:
    digits = load("digits", "train").first(10)

    def gradient(z: Tensor, loss: Callable[[Tensor], Tensor], *, create_graph: bool = False) -> Tensor:
        return z + loss(z)

    return Context(TARGET, TARGET, Rng(0, index), 0.0, 0, gradient, digits.x, digits.y, index, memory)


def test_memory_is_written_once_the_weights_are_updated_and_only_in_the_rows_of_the_batch() -> None:
    memory: dict[str, Tensor] = {}
    ctx = context(torch.tensor([3, 7]), memory)
    assert torch.equal(ctx.rows("prior", (2,), fill=5.0), torch.full((2, 2), 5.0))
    ctx.remember_rows("prior", torch.ones(2, 2, requires_grad=True))
    ctx.remember_rows("fresh", torch.tensor([1.0, 2.0]))
    ctx.remember("mean", torch.tensor(4.0))
    ctx.again()
    ctx.remember_rows("prior", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(ctx.rows("prior", (2,)), torch.full((2, 2), 5.0))
    assert "mean" not in memory
    ctx.commit()
    expected = torch.full((10, 2), 5.0)
    expected[3], expected[7] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert torch.equal(memory["prior"], expected)
    assert memory["fresh"].nonzero().flatten().tolist() == [3, 7]
    assert memory["mean"] == 4
    assert torch.equal(context(torch.tensor([7, 0]), memory).rows("prior", (2,)), torch.tensor([[3.0, 4.0], [5.0, 5.0]]))
    memory["mean"] = torch.tensor(0.0)
    ctx.commit()
    assert memory["mean"] == 0


def test_what_was_computed_once_comes_back() -> None:
    ctx = context(torch.tensor([0]), {})
    asked = [ctx.ascent(torch.tensor([[float(k)]]), lambda logits: logits.sum()) for k in (1, 2)]
    found = ctx.once("found", lambda: torch.rand(3))
    ctx.again()
    again = [ctx.ascent(torch.tensor([[float(k)]]), lambda logits: logits.sum()) for k in (8, 9, 3)]
    assert [float(value) for value in asked] == [2, 4]
    assert [float(value) for value in again] == [2, 4, 6]
    assert ctx.once("found", lambda: torch.rand(3)) is found


# --- across a kill -------------------------------------------------------------------------------------------------------

COMBINATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("fast_at", RESNET, {"ema": 0.9, "ema_buffers": True}),
    ("fast_at", RESNET, {"swa": 0.2, "craft": "eval"}),
    ("fast_at", RESNET, {"swa": 0.5, "statistics": "clean", "optimizer": "sgd"}),
    ("pgd_at", RESNET, {"steps": 2, "awp": 0.01, "awp_warmup": 0.4, "craft_updates": False}),
    ("noise_fgsm", RESNET, {"awp": 0.01, "covariance": "data", "biased_norms": True, "ema": 0.8}),
    ("periodic_budget", "digits_cnn?width=4", {"steps": 2, "awp": 0.01}),
    ("fast_at", "digits_cnn?width=4", {"snapshots": [0.3, 1.0], "eps_schedule": "cosine:0,2", "label_smoothing": 0.1}),
    ("pgd_at", RESNET, {"steps": 2, "clean_first": 0.4, "statistics": "adversarial", "augment": "crop_flip"}),
    ("fast_at", RESNET, {"statistics": "batch", "biased_norms": True, "snapshots": [0.5, 1.0]}),
    ("free_at", RESNET, {"replays": 2, "ema": 0.9, "awp": 0.01}),
    ("both", RESNET, {"separate_norms": True, "ema": 0.9, "biased_norms": True}),
    ("both", RESNET, {"separate_norms": True, "swa": 0.0, "awp": 0.005, "craft_updates": False}),
    ("both", "wide_resnet?depth=10&width=1&dropout=0.3", {"statistics": "adversarial", "precision": "bf16"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "settings"), COMBINATIONS)
def test_a_training_that_was_cut_after_any_epoch_ends_with_the_same_bytes(
    few: Path, tmp_path: Path, name: str, model: str, settings: dict[str, Any]
) -> None:
    job = planned(few, "pgd_at" if name == "both" else name, model, {"epochs": 3, **settings})
    job = replace(job, defense=Both()) if name == "both" else job
    trainer(job, tmp_path / "whole")[0].run()
    for leave_after in (1, 2):
        made, _ = trainer(job, tmp_path / "cut", leave_after)
        with pytest.raises(KeyboardInterrupt):
            made.run()
    trainer(job, tmp_path / "cut")[0].run()
    whole, cut = (
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / run).glob("*.safetensors")}
        for run in ("whole", "cut")
    )
    assert whole == cut
    assert len(whole) == 2 + (len(job.recipe.snapshots or job.defense.snapshots()) or -1) + 1
    assert cost(tmp_path / "whole") == cost(tmp_path / "cut")


@pytest.mark.parametrize("option", ["separate_norms=true", "biased_norms=true", "statistics=clean", "craft_updates=false"])
def test_what_concerns_batch_norms_is_refused_where_there_are_none(tmp_path: Path, option: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(BadInput, match=f"digits_cnn has no batch norms, so {key} would do nothing"):
        train("fast_at", settings={"epochs": "1", key: value}, results=tmp_path, quiet=True)
