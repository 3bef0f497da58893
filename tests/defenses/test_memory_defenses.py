"""Defenses that remember their samples: FGSM-PGI and PGK, and temporal ensembling."""

import hashlib
import json
import math
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import train
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.errors import BadInput
from bench.files.progress import Reporter
from bench.models import build
from bench.plugins.contract import Context, Defense
from bench.plugins.registry import defense_names, make_defense
from bench.training.averages import EMA
from bench.training.loop import Trainer
from bench.training.network import TrainingNet
from bench.training.recipe import configure
from bench.training.request import TrainingRequest, job_folder

LINF = ThreatModel.parse("linf", "0.2")
DATA = load("digits", "train")
BATCH = torch.arange(40, 72)
SMALL = "digits_cnn?width=8"
OTHERS = torch.cat([torch.arange(40), torch.arange(72, len(DATA))])


def network(arch: str = SMALL, seed: int = 0) -> TrainingNet:
    with isolated(seed):
        return TrainingNet(build(arch, (1, 8, 8), 10), torch.device("cpu"), "float32", (1, 8, 8))


def context(
    net: TrainingNet,
    epoch: int,
    memory: MutableMapping[str, Tensor],
    *,
    index: Tensor = BATCH,
    threat: ThreatModel = LINF,
    progress: float = 0.9,
) -> Context:
    return Context(
        threat=threat,
        target=threat,
        rng=Rng(0, DATA.ids[index]).at("epoch", epoch),
        progress=progress,
        epoch=epoch,
        gradient=net.gradient("eval"),
        images=DATA.x,
        labels=DATA.y,
        index=index,
        memory=memory,
    )


def visit(defense: Defense, net: TrainingNet, ctx: Context) -> tuple[list[Tensor], Tensor]:
    """What the network was shown, in order, and the loss; the memory is committed."""
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    loss = defense.loss(net, *DATA.batch(ctx.index), ctx)
    hook.remove()
    ctx.commit()
    return seen, loss


def soft_cross_entropy(logits: Tensor, y: Tensor, confidence: float) -> Tensor:
    """Written out: the true class has this probability, the others share the rest."""
    targets = torch.full_like(logits, (1 - confidence) / (logits.shape[1] - 1))
    targets.scatter_(1, y[:, None], confidence)
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def gradient(net: TrainingNet, z: Tensor, y: Tensor, confidence: float) -> Tensor:
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(soft_cross_entropy(net(z), y, confidence), z)
    return grad


def near(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


def test_mep_in_closed_form_over_two_epochs() -> None:
    """d starts at random corners; delta steps along the gradient, the next d along the momentum."""
    net, (x, y), memory = network(), DATA.batch(BATCH), dict[str, Tensor]()
    defense = make_defense("fgsm_pgi", {})
    momentum, start = torch.zeros_like(x), None
    for epoch in range(3):
        ctx = context(net, epoch, memory)
        (first, second), _ = visit(defense, net, ctx)
        if start is None:
            start = LINF.random_start(x, ctx.rng.at("start"), corner=True, box=False)
            near((start - x).abs(), torch.full_like(x, 0.2))
            assert not LINF.in_box(start).any()
        near(first, start)
        grad = gradient(net, start, y, 0.6)
        near(second, LINF.project(start + 0.2 * grad.sign(), x))
        momentum = 0.3 * momentum + grad / grad.abs().sum()
        start = LINF.project(start + 0.2 * momentum.sign(), x)
        torch.testing.assert_close(memory["momentum"][BATCH], momentum, atol=1e-9, rtol=1e-4)
        near(memory["perturbation"][BATCH], start - x)
    moved = LINF.project(start + 0.2 * grad.sign(), x)
    assert not torch.allclose(moved - x, memory["perturbation"][BATCH], atol=1e-3)


def test_ep_starts_from_its_own_last_example() -> None:
    net, (x, _), memory = network(), DATA.batch(BATCH), dict[str, Tensor]()
    defense = make_defense("fgsm_pgi", {"prior": "epoch", "step": 0.3})
    (_, first), _ = visit(defense, net, context(net, 0, memory))
    near(memory["perturbation"][BATCH], first - x)
    (start, _), _ = visit(defense, net, context(net, 1, memory))
    near(start, first)
    assert set(memory) == {"perturbation"}


def test_bp_starts_from_the_batch_before_and_a_short_batch_leaves_the_rest() -> None:
    net, memory, defense = network(), dict[str, Tensor](), make_defense("fgsm_pgi", {"prior": "batch"})
    parts = [torch.arange(0, 32), torch.arange(100, 132), torch.arange(200, 210), torch.arange(300, 332)]
    x = [DATA.batch(part)[0] for part in parts]
    z = []
    for epoch, part in enumerate(parts):
        (start, example), _ = visit(defense, net, context(net, epoch, memory, index=part))
        z.append(example)
        if epoch == 1:
            near(start - x[1], z[0] - x[0])
        if epoch == 2:
            near(start - x[2], (z[1] - x[1])[:10])
        if epoch == 3:
            near((start - x[3])[:10], z[2] - x[2])
            near((start - x[3])[10:], (z[1] - x[1])[10:])
    assert memory["perturbation"].shape == (32, 1, 8, 8)


@pytest.mark.parametrize("name", ["fgsm_pgi", "fgsm_pgk", "temporal_ensembling"])
def test_only_rows_of_the_batch_change_and_only_once_the_weights_are_updated(name: str) -> None:
    """T22, exactly."""
    net, memory, defense = network(), dict[str, Tensor](), make_defense(name, {})
    visit(defense, net, context(net, 1, memory, index=torch.arange(len(DATA))))
    before = {key: rows.clone() for key, rows in memory.items()}
    ctx = context(net, 2, memory)
    defense.loss(net, *DATA.batch(BATCH), ctx)
    assert all(torch.equal(memory[key], rows) for key, rows in before.items())
    ctx.commit()
    for key, rows in before.items():
        assert rows.isfinite().all()
        assert torch.equal(memory[key][OTHERS], rows[OTHERS])
        assert (memory[key][BATCH] != rows[BATCH]).flatten(1).any(1).all()


@pytest.mark.parametrize(("prior", "epochs"), [("epoch", range(2, 8)), ("momentum", range(2, 8))])
def test_samples_forget_on_schedule(prior: str, epochs: range) -> None:
    """T22: in an epoch that the period divides, what was remembered plays no part; in the others it does."""
    defense = make_defense("fgsm_pgi", {"prior": prior, "reset": 3})
    for epoch in epochs:
        net, x, memory = network(), DATA.batch(BATCH)[0], dict[str, Tensor]()
        visit(defense, net, context(net, 1, memory))
        past = {key: rows[BATCH] for key, rows in memory.items()}
        ctx = context(net, epoch, memory)
        (start, _), _ = visit(defense, net, ctx)
        fresh = LINF.random_start(x, ctx.rng.at("start"), corner=True, box=False)
        assert torch.equal(start, fresh if epoch % 3 == 0 else x + past["perturbation"])
        if prior == "momentum":
            unit = gradient(net, start, DATA.batch(BATCH)[1], 0.6)
            unit = unit / unit.abs().sum()
            expected = unit if epoch % 3 == 0 else unit + 0.3 * past["momentum"]
            torch.testing.assert_close(memory["momentum"][BATCH], expected, atol=1e-9, rtol=1e-4)


def test_a_sample_without_a_past_starts_anew() -> None:
    net, memory, defense = network(), dict[str, Tensor](), make_defense("fgsm_pgi", {})
    visit(defense, net, context(net, 1, memory))
    both = torch.cat([BATCH[:5], torch.arange(5)])
    kept, ctx = memory["perturbation"].clone(), context(net, 2, memory, index=both)
    (start, example), loss = visit(defense, net, ctx)
    x = DATA.batch(both)[0]
    assert torch.equal(start[:5], x[:5] + kept[BATCH[:5]])
    assert torch.equal(start[5:], LINF.random_start(x, ctx.rng.at("start"), corner=True, box=False)[5:])
    assert loss.isfinite()
    assert LINF.contains(example, x).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("prior", ["batch", "epoch", "momentum"])
def test_other_norms_keep_the_ball_and_climb(norm: str, prior: str) -> None:
    threat = ThreatModel.parse(norm, {"l2": "1", "l1": "4"}[norm])
    net, (x, y), memory = network(), DATA.batch(BATCH), dict[str, Tensor]()
    defense = make_defense("fgsm_pgi", {"prior": prior})
    for epoch in range(3):
        (_, example), _ = visit(defense, net, context(net, epoch, memory, threat=threat))
        assert threat.contains(example, x).all()
        kept = memory["perturbation"] if prior == "batch" else memory["perturbation"][BATCH]
        assert threat.contains(x + kept, x).all()
    with torch.no_grad():
        assert soft_cross_entropy(net(example), y, 0.6) > soft_cross_entropy(net(x), y, 0.6)


@pytest.mark.parametrize(("name", "confidence", "penalty"), [("fgsm_pgi", 0.6, 10.0), ("fgsm_pgk", 0.5, 5.6)])
def test_the_weights_hear_of_both_passes(name: str, confidence: float, penalty: float) -> None:
    """Smoothed cross-entropy after the step plus the mean squared difference of logits, differentiated through both."""
    net, (_, y) = network(), DATA.batch(BATCH)
    (start, example), loss = visit(make_defense(name, {}), net, context(net, 0, {}))
    loss.backward()
    given = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()
    before, after = net(start), net(example)
    expected = soft_cross_entropy(after, y, confidence) + penalty * ((after - before) ** 2).sum() / (32 * 10)
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for mine, parameter in zip(given, net.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)
    assert torch.autograd.grad(net(start).sum(), next(net.parameters()))[0].abs().sum() > 0


def test_targets_of_its_own_leave_no_room_for_the_recipes_smoothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="label_smoothing would do nothing"):
        train("fgsm_pgi", settings={"epochs": "1", "label_smoothing": "0.1"}, results=tmp_path, quiet=True)


@pytest.mark.parametrize("name", ["fgsm_pgi", "fgsm_pgk", "temporal_ensembling"])
def test_where_the_weights_move_too_the_examples_and_the_memory_stay(name: str) -> None:
    """AWP takes the loss a second time, on other weights."""
    defense, x, y = make_defense(name, {}), *DATA.batch(BATCH)
    alone, twice = dict[str, Tensor](), dict[str, Tensor]()
    net = network()
    seen, first = visit(defense, net, context(net, 1, alone))
    net, shown = network(), list[Tensor]()
    ctx = context(net, 1, twice)
    defense.loss(net, x, y, ctx)
    decay, spent = ctx.ema_decay, net.backwards
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    ctx.again()
    net.register_forward_pre_hook(lambda _, args: shown.append(args[0].detach().clone()))
    second = defense.loss(net, x, y, ctx)
    ctx.commit()
    assert torch.equal(shown[-1], seen[-1])
    assert net.backwards == spent
    assert not torch.allclose(first, second)
    assert all(torch.equal(twice[key][BATCH], alone[key][BATCH]) for key in alone)
    assert ctx.ema_decay is decay


def logits_right_on(count: int, y: Tensor) -> Tensor:
    """Logits that are right on the first `count` samples and wrong on the others."""
    answer = torch.where(torch.arange(len(y)) < count, y, (y + 1) % 10)
    return F.one_hot(answer, 10).float()


@pytest.mark.parametrize(
    ("before", "after", "share", "decay"),
    [
        (20, 10, 1.5, 0.999),
        (20, 16, 1.2, 0.999),
        (20, 17, 1.15, min(1.0, 0.99999 * 0.85 / 0.82)),
        (10, 20, 0.0, 1.0),
        (0, 0, 2.0, 0.999),
        (0, 3, -1.0, 1.0),
    ],
)
def test_pgk_listens_to_how_well_the_step_worked(before: int, after: int, share: float, decay: float) -> None:
    y = DATA.y[BATCH]
    defense: Any = make_defense("fgsm_pgk", {})
    ctx = context(network(), 0, {})
    ctx.ema_decay = 0.999
    assert float(defense.share(logits_right_on(before, y), logits_right_on(after, y), y, ctx)) == pytest.approx(share)
    assert isinstance(ctx.ema_decay, Tensor)
    assert float(ctx.ema_decay) == pytest.approx(decay, abs=1e-7)
    slower: Any = make_defense("fgsm_pgk", {"threshold": 0.9})
    slower.share(logits_right_on(20, y), logits_right_on(18, y), y, ctx)
    assert float(ctx.ema_decay) == pytest.approx(0.99999, abs=1e-7)


def test_pgk_weighs_its_momentum_and_its_average() -> None:
    net, (_, y), memory = network(), DATA.batch(BATCH), dict[str, Tensor]()
    ctx = context(net, 0, memory)
    ctx.ema_decay = 0.99
    (start, example), _ = visit(make_defense("fgsm_pgk", {}), net, ctx)
    right = [int((net(z).argmax(1) == y).sum()) for z in (start, example)]
    grad = gradient(net, start, y, 0.5)
    share = 2 - right[1] / max(right[0], 1)
    assert share != 1
    torch.testing.assert_close(memory["momentum"][BATCH], share * grad / grad.abs().sum(), atol=1e-9, rtol=1e-4)
    ema = EMA(network(seed=1), 0.5, buffers=True)
    ema.updates = 10**6
    old = next(ema.net.parameters()).clone()
    ema.update(net, ctx.ema_decay)
    torch.testing.assert_close(next(ema.net.parameters()), old.lerp(next(net.parameters()), 0.01))


@pytest.mark.parametrize("name", ["fgsm_pgi", "fgsm_pgk"])
def test_a_confidence_that_prefers_no_class_is_refused(name: str) -> None:
    """Half of two classes are targets that say nothing."""
    defense: Any = make_defense(name, {"confidence": 0.5})
    y = torch.tensor([0, 1])
    with pytest.raises(BadInput, match=r"confidence = 0.5 in one of 2 classes"):
        defense.smoothed(torch.zeros(2, 2), y)
    assert defense.smoothed(torch.zeros(2, 3), y) == pytest.approx(math.log(3))


@pytest.mark.slow
def test_the_defaults_fit_two_classes(tmp_path: Path) -> None:
    """And are told as they are: 0.75 between two, the source's 0.5 among more."""
    x = torch.randint(0, 256, (64, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    np.savez(tmp_path / "two.npz", x=x, y=np.arange(64) % 2)
    common: dict[str, Any] = {"dataset": f"{tmp_path}/two.npz", "settings": {"epochs": "1"}}
    for name in (name for name in defense_names() if not name.startswith("broken_")):
        train(name, **common, results=tmp_path, quiet=True)
    confidences = {
        name: TrainingRequest(defense=name, **common).job().settings()["confidence"] for name in ("fgsm_pgi", "fgsm_pgk")
    }
    assert confidences == {"fgsm_pgi": 0.6, "fgsm_pgk": 0.75}
    assert TrainingRequest(defense="fgsm_pgk").job().settings()["confidence"] == 0.5


@pytest.mark.parametrize(
    ("dataset", "family"), [("digits", "digits"), ("mnist", "mnist"), ("cifar10", "cifar"), ("cifar100", "cifar")]
)
def test_every_preset_is_one_that_can_be_trained(dataset: str, family: str) -> None:
    """And PGK keeps its average, temporal ensembling crafts in eval mode, wherever they are trained."""
    configure("fgsm_pgi", dataset, family, {})
    _, recipe, _ = configure("fgsm_pgk", dataset, family, {})
    assert (recipe.ema, recipe.ema_buffers) == (0.999, True)
    assert configure("temporal_ensembling", dataset, family, {})[1].craft == "eval"


def test_the_ramp_of_temporal_ensembling() -> None:
    """T27: epochs 90 and 150 of 200 count from 1, so they begin when 89 and 149 are over; and what is between."""
    defense: Any = make_defense("temporal_ensembling", {})
    assert defense.ramp(88.999 / 200) == 0
    assert defense.ramp(89 / 200) == pytest.approx(300 * math.exp(-5), abs=1e-6)
    assert defense.ramp(119 / 200) == pytest.approx(300 * math.exp(-5 / 4), abs=1e-6)
    assert defense.ramp(149 / 200) == pytest.approx(300, abs=1e-6)
    assert defense.ramp(0.999) == 300
    sudden: Any = make_defense("temporal_ensembling", {"begin": 0.5, "full": 0.5})
    assert (sudden.ramp(0.49), sudden.ramp(0.5)) == (0, 300)
    with pytest.raises(BadInput, match="full must not come before begin"):
        make_defense("temporal_ensembling", {"begin": 0.5, "full": 0.4})


@pytest.mark.parametrize("base", ["pgd", "trades"])
def test_past_answers_are_gathered_in_eval_mode(base: str) -> None:
    """s <- 0.9 s + 0.1 p(x) from 0, used as s / sum(s); the statistics of batch norms see nothing of it."""
    net, (x, _), memory = network("preact_resnet18?width=4"), DATA.batch(BATCH), dict[str, Tensor]()
    defense: Any = make_defense("temporal_ensembling", {"base": base, "steps": 1})
    expected = torch.zeros(32, 10)
    counter = next(buffer for name, buffer in net.named_buffers() if "num_batches" in name)
    for epoch in range(3):
        net.eval()
        expected = 0.9 * expected + 0.1 * net(x).softmax(1).detach()
        net.train()
        tracked = int(counter)
        ctx = context(net, epoch, memory)
        _, loss = visit(defense, net, ctx)
        near(memory["answers"][BATCH], expected)
        past = ctx.once("past", lambda: pytest.fail("not computed"))[1]
        near(past, expected / expected.sum(1, keepdim=True))
        near(past.sum(1), torch.ones(32))
        assert net.training
        assert int(counter) - tracked == {"pgd": 1, "trades": 2}[base]
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.05 * parameter.grad.sign())
                parameter.grad = None


def test_temporal_ensembling_in_closed_form() -> None:
    """One crafting step and the loss, for both bases, with a past that differs from the present."""
    weight = 300 * math.exp(-5 * (0.15 / 0.3) ** 2)
    for base in ("pgd", "trades"):
        net, (x, y), memory = network(), DATA.batch(BATCH), dict[str, Tensor]()
        defense = make_defense("temporal_ensembling", {"base": base, "steps": 1, "beta": 2.0})
        visit(defense, network(seed=5), context(net, 0, memory))
        ctx = context(net, 1, memory, progress=0.595)
        present = net(x).softmax(1).detach()
        past = 0.9 * memory["answers"][BATCH] + 0.1 * present
        past = past / past.sum(1, keepdim=True)
        seen, loss = visit(defense, net, ctx)

        def divergence(p: Tensor, q: Tensor) -> Tensor:
            return (p * (p.log() - q.log())).sum()

        noise = ctx.rng.at("start")
        start = LINF.random_start(x, noise) if base == "pgd" else x + 0.001 * noise.normal((1, 8, 8))
        z = start.clone().requires_grad_()
        q = net(z).softmax(1)
        drift = weight * ((q - past) ** 2).mean()
        climbed = F.nll_loss(q.log(), y) + drift if base == "pgd" else 2 * divergence(present, q) / 32 + drift
        (grad,) = torch.autograd.grad(climbed, z)
        # Close to its zero a divergence is the difference of nearly equal numbers, and its small gradients have no sign.
        clear = grad.abs() > 1e-2 * grad.abs().amax()
        assert clear.double().mean() > 0.7
        near(seen[-1][clear], LINF.project(start + 0.25 * 0.2 * grad.sign(), x)[clear])
        q, p = net(seen[-1]).softmax(1), net(x).softmax(1)
        if base == "pgd":
            expected = F.nll_loss(q.log(), y) + weight * ((q - past) ** 2).mean()
        else:
            expected = F.nll_loss(p.log(), y) + 2 * divergence(p, q) / 32 + weight * ((p - past) ** 2).mean()
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        given = torch.autograd.grad(loss, [*net.parameters()])
        for mine, theirs in zip(given, torch.autograd.grad(expected, [*net.parameters()]), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("base", "plain", "settings"), [("pgd", "pgd_at", {}), ("trades", "trades", {"beta": 1.0})])
def test_before_it_begins_temporal_ensembling_is_its_base(base: str, plain: str, settings: dict[str, float]) -> None:
    losses, memory = [], dict[str, Tensor]()
    for name, own in (("temporal_ensembling", {"base": base}), (plain, {})):
        net = network()
        defense = make_defense(name, {"steps": 3, **settings, **own})
        _, loss = visit(defense, net, context(net, 0, memory, progress=0.444))
        losses.append((float(loss.detach()), net.forwards))
    assert losses[0] == losses[1]
    assert not memory


@pytest.mark.parametrize(
    ("name", "settings", "forwards", "backwards"),
    [
        ("fgsm_pgi", {}, 2, 3),
        ("fgsm_pgk", {}, 2, 3),
        ("temporal_ensembling", {"steps": "3", "begin": "0", "full": "0"}, 5, 4),
        ("temporal_ensembling", {"steps": "3", "begin": "1", "full": "1"}, 4, 4),
        ("temporal_ensembling", {"steps": "3", "base": "trades", "begin": "0.5", "full": "1"}, 6, 5),
    ],
)
def test_the_cost_on_record(tmp_path: Path, name: str, settings: dict[str, str], forwards: int, backwards: int) -> None:
    folder = train(name, settings={"epochs": "2", **settings}, results=tmp_path, model=SMALL, quiet=True)
    cost = json.loads((folder / "train.json").read_text())["training"]
    assert (cost["forwards_per_sample"], cost["backwards_per_sample"]) == (2 * forwards, 2 * backwards)


class Interrupted(Reporter):
    """Stops the training in the middle of an epoch, as ctrl-C would."""

    def advance(self, amount: float, note: str = "", *, milestone: bool = False) -> None:
        super().advance(amount, note, milestone=milestone)
        if self._done > 2.5:
            raise KeyboardInterrupt


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fgsm_pgi", {"prior": "momentum"}),
        ("fgsm_pgi", {"prior": "batch", "awp": "0.01"}),
        ("temporal_ensembling", {"steps": "2", "begin": "0.25", "full": "0.5"}),
    ],
)
def test_an_interrupted_training_remembers(tmp_path: Path, name: str, settings: dict[str, str]) -> None:
    """Same bytes as without the interruption; other bytes where the memory is lost."""
    settings = {"epochs": "4", **settings}
    whole = train(name, settings=settings, model=SMALL, results=tmp_path / "whole", quiet=True)
    job = TrainingRequest(defense=name, settings=settings, model=SMALL).job()
    cut = job_folder(job, tmp_path / "cut")
    trainer = Trainer(
        TrainingRequest(defense=name, settings=settings, model=SMALL).job(),
        cut,
        torch.device("cpu"),
        Interrupted("test", 4, quiet=True),
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    saved = torch.load(cut / "state.pt", weights_only=True)
    assert saved["done"]["epoch"] == 2
    assert train(name, settings=settings, model=SMALL, results=tmp_path / "cut", quiet=True) == cut
    assert digests(cut) == digests(whole)
    for file in cut.glob("*"):
        file.unlink()
    torch.save({**saved, "memory": {}}, cut / "state.pt")
    train(name, settings=settings, model=SMALL, results=tmp_path / "cut", quiet=True)
    assert digests(cut)["last.safetensors"] != digests(whole)["last.safetensors"]


@pytest.mark.slow
def test_they_learn_to_be_robust(tmp_path: Path) -> None:
    """Against PGD-10 on held-out digits, where standard training keeps next to nothing."""
    pgd = {}
    for name, settings in (("standard", {}), ("fgsm_pgi", {}), ("temporal_ensembling", {"steps": "4"})):
        folder = train(name, settings={"epochs": "8", **settings}, results=tmp_path, quiet=True)
        pgd[name] = json.loads((folder / "train.json").read_text())["history"][-1]["pgd"]
    assert pgd["standard"] < 0.1, pgd
    assert all(accuracy > 0.3 for name, accuracy in pgd.items() if name != "standard"), pgd
