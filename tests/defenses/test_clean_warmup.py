"""The switch from clean to adversarial images: what is measured, what decides, what it costs, that a kill changes nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.defenses.clean_warmup import CleanWarmup, _in_turn
from bench.files.progress import Reporter
from bench.models import build
from bench.plugins.contract import Context
from bench.plugins.registry import make_defense
from bench.science import ntk
from bench.training.loop import Trainer
from bench.training.network import TrainingNet
from bench.training.request import TrainingRequest

THREAT = ThreatModel.parse("linf", "0.2")
DATA = load("digits", "train")
CPU = torch.device("cpu")
NAN = math.nan


class Killed(Exception):
    pass


class Kill(Reporter):
    """Stops the process it reports on at a given report, which a batch and the end of an epoch make."""

    def __init__(self, at: int) -> None:
        super().__init__("test", 1, quiet=True)
        self.left = at

    def advance(self, amount: float, note: str = "", *, milestone: bool = False) -> None:
        """Nothing, or the end."""
        self.left -= 1
        if self.left == 0:
            raise Killed


def trainer(folder: Path, report: Reporter | None = None, model: str | None = None, **settings: str) -> Trainer:
    """A training on 360 of the digits."""
    folder.mkdir(exist_ok=True)
    file = folder / "few.npz"
    np.savez(file, x=DATA.x[:500].permute(0, 2, 3, 1).numpy(), y=DATA.y[:500].numpy())
    chosen = {"mode": "kernel", "steps": "2", **settings}
    job = TrainingRequest(defense="clean_warmup", dataset=str(file), eps="0.2", model=model, settings=chosen).job()
    return Trainer(job, folder, CPU, report or Reporter("test", 1, quiet=True))


def defense(**fields: Any) -> CleanWarmup:
    made = make_defense("clean_warmup", {"mode": "kernel", **fields})
    assert isinstance(made, CleanWarmup)
    return made


def network(arch: str = "digits_cnn?width=8") -> TrainingNet:
    with isolated(0):
        return TrainingNet(build(arch, (1, 8, 8), 10), CPU, "float32", (1, 8, 8))


def context(net: TrainingNet, epoch: int = 0, progress: float = 0.0, memory: dict[str, Tensor] | None = None) -> Context:
    index = torch.arange(32)
    rng = Rng(7, index).at("epoch", epoch)
    threat = THREAT.scaled(0.5)
    gradient = net.gradient("train")
    return Context(
        threat, THREAT, rng, progress, epoch, gradient, DATA.x, DATA.y, index, memory=memory if memory is not None else {}
    )


def update(made: CleanWarmup, net: TrainingNet, ctx: Context) -> bool:
    """One update of plain gradient descent; whether it was on clean images."""
    x, y = DATA.batch(ctx.index)
    rows = net.forwards
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, args: None if args[0].requires_grad else seen.append(args[0].detach()))
    loss = made.loss(net, x, y, ctx)
    hook.remove()
    assert net.forwards > rows
    net.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.5 * parameter.grad)
    ctx.commit()
    return torch.equal(seen[-1], x)


def test_the_probe_takes_of_every_class_in_turn() -> None:
    labels = torch.tensor([2, 0, 0, 0, 2, 5, 0])
    assert _in_turn(labels, 5).tolist() == [1, 0, 5, 2, 4]
    assert _in_turn(labels, 7).tolist() == [1, 0, 5, 2, 4, 3, 6]
    assert DATA.y[_in_turn(DATA.y, 40)].bincount().tolist() == [4] * 10


@pytest.mark.parametrize(
    ("velocities", "distances", "reason"),
    [
        ([NAN], [0.1], None),
        ([NAN, 0.01], [0.1, 0.2], None),
        ([NAN, 0.01, 0.049], [0.1, 0.2, 0.3], "velocity"),
        ([NAN, 0.01, 0.05], [0.1, 0.2, 0.3], None),
        ([NAN, 0.01, 0.9, 0.01], [0.1, 0.2, 0.3, 0.4], None),
        ([NAN, 0.9, 0.9], [0.1, 0.3, 0.3], None),
        ([NAN, 0.9, 0.9], [0.3, 0.2, 0.1], None),
        ([NAN, 0.9, 0.9], [0.3, 0.2, 0.2], "distance"),
        ([NAN, 0.9, 0.9, 0.9], [0.1, 0.3, 0.2, 0.25], "distance"),
        ([NAN, NAN, 0.01], [NAN, NAN, 0.1], None),
        ([NAN, NAN, NAN, 0.9, 0.9], [NAN, NAN, 0.3, 0.2, 0.3], "distance"),
    ],
)
def test_what_ends_the_warm_up(velocities: list[float], distances: list[float], reason: str | None) -> None:
    seen = torch.tensor([velocities, distances], dtype=torch.float64).T
    assert defense()._reason(seen) == reason
    if reason == "velocity":
        assert defense(tau=0)._reason(seen) is None


def test_the_distances_are_those_of_the_probe_before_and_under_attack() -> None:
    """Taken anew with nothing of the defense: eleven images, the seed's noise, 10 steps of eps / 4 in eval mode at eps."""
    net, made, memory = network("resnet18?width=2"), defense(), {}
    index = _in_turn(DATA.y, 11)
    assert len(DATA) // 128 == 11
    x, y = DATA.batch(index)
    kernels = []
    for epoch in range(2):
        net.eval()
        z = THREAT.random_start(x, Rng(7, index).at("probe").at("start"))
        for _ in range(10):
            leaf = z.clone().requires_grad_()
            torch.nn.functional.cross_entropy(net(leaf), y, reduction="sum").backward()
            assert leaf.grad is not None
            z = THREAT.project(z + 0.05 * leaf.grad.sign(), x)
        net.train()
        kernels.append(ntk.kernel(net.net, x))
        attacked = ntk.distance(kernels[-1], ntk.kernel(net.net, z))
        assert update(made, net, context(net, epoch, memory=memory))
        torch.testing.assert_close(memory["warmup/seen"][epoch, 1], attacked, rtol=1e-3, atol=0)
    assert memory["warmup/seen"][0, 0].isnan()
    torch.testing.assert_close(memory["warmup/seen"][1, 0], ntk.distance(kernels[1], kernels[0]), rtol=1e-5, atol=0)


def test_measuring_leaves_the_network_as_it_is_and_is_counted() -> None:
    net, made = network("resnet18?width=4"), defense()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    made._measure(net, context(net))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(part.training for part in net.modules())
    # Ten steps of the attack on 11 images, then a gradient for each of 2 x 11.
    assert net.forwards == net.backwards == 11 * 10 + 22


def test_it_is_measured_once_per_epoch_also_where_the_loss_is_taken_twice() -> None:
    net, made, memory = network(), defense(), {}
    x, y = DATA.batch(torch.arange(32))
    ctx = context(net, memory=memory)
    first = made.loss(net, x, y, ctx)
    spent = net.forwards
    ctx.again()
    assert torch.equal(made.loss(net, x, y, ctx), first)
    assert net.forwards == spent + 32
    ctx.commit()
    made.loss(net, x, y, context(net, memory=memory))
    assert net.forwards == spent + 64
    assert len(memory["warmup/seen"]) == 1
    made.loss(net, x, y, context(net, epoch=3, memory=memory))
    assert net.forwards > spent + 96


def test_an_epoch_of_another_option_has_no_row() -> None:
    net, made, memory = network(), defense(), {}
    update(made, net, context(net, epoch=2, memory=memory))
    assert memory["warmup/seen"][:, 1].isnan().tolist() == [True, True, False]
    assert made.report(memory)["kernel_distances"][:2] == [None, None]


def test_a_warm_up_that_nothing_ends_is_capped_within_the_epoch() -> None:
    net, made, memory = network(), defense(tau=0, cap=0.3), {}
    assert made.report(memory) == {
        "switch_epoch": None, "switched_by": None, "kernel_velocities": [], "kernel_distances": [],
    }  # fmt: skip
    clean = [update(made, net, context(net, epoch, progress, memory)) for epoch, progress in ((0, 0.0), (1, 0.29), (1, 0.3))]
    assert clean == [True, True, False]
    report = made.report(memory)
    assert (report["switch_epoch"], report["switched_by"]) == (2, "cap")
    assert not update(made, net, context(net, 2, 0.4, memory))
    assert len(memory["warmup/seen"]) == 2


def test_a_fixed_warm_up_measures_nothing() -> None:
    net, made, memory = network(), defense(mode="fixed"), {}
    assert update(made, net, context(net, memory=memory))
    assert not update(made, net, context(net, progress=0.2, memory=memory))
    assert memory == {}
    assert made.report(memory) == {}


def test_a_training_switches_by_its_kernels_and_the_cost_on_record_is_what_was_spent(tmp_path: Path) -> None:
    made = trainer(tmp_path, epochs="6", cap="1")
    made.run()
    seen, switch = made.updates.memory["warmup/seen"], int(made.updates.memory["warmup/switch"])
    # The rule on what was seen says this epoch, and no epoch before it.
    job: Any = made.job.defense
    assert [job._reason(seen[: epoch + 1]) is None for epoch in range(len(seen))] == [True] * switch + [False]
    assert job.report(made.updates.memory)["switch_epoch"] == switch + 1
    assert 2 <= switch < 5
    size, probe = len(made.train_data), 10
    attack, clean = (6 - switch) * 2 * size, 6 * size
    assert made.net.forwards == made.net.backwards == clean + attack + len(seen) * (2 * probe + 2 * probe)
    assert json.loads((tmp_path / "train.json").read_text())["found"] == job.report(made.updates.memory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings", "kills"),
    [
        (None, {"epochs": "6", "cap": "1"}, (3, 14, 21, 29)),
        # Batch norms, statistics recomputed by a pass of the loss itself, weights perturbed, labels smoothed.
        (
            "resnet18?width=2",
            {"epochs": "4", "cap": "0.5", "awp": "0.005", "statistics": "adversarial", "label_smoothing": "0.1", "tau": "1e-9"},
            (10, 17),
        ),
    ],
)
def test_a_kill_changes_nothing(tmp_path: Path, model: str | None, settings: dict[str, str], kills: tuple[int, ...]) -> None:
    whole = trainer(tmp_path / "whole", None, model, **settings)
    whole.run()
    assert "warmup/switch" in whole.updates.memory
    for kill in kills:
        folder = tmp_path / str(kill)
        with pytest.raises(Killed):
            trainer(folder, Kill(kill), model, **settings).run()
        again = trainer(folder, None, model, **settings)
        again.run()
        for name in ("last", "best"):
            file = f"{name}.safetensors"
            assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
        assert again.updates.memory.keys() == whole.updates.memory.keys()
        for name, tensor in whole.updates.memory.items():
            torch.testing.assert_close(again.updates.memory[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert (again.net.forwards, again.net.backwards) == (whole.net.forwards, whole.net.backwards)
