"""Attacks and models of other libraries, as far as it goes without them: names, messages, and the contract of an adapter.

What needs a library is tested in tests/extras, by `make extras`, in an environment that has it.
"""

import importlib.util
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.compat.library import as_attack, parameter
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.errors import BadInput, UnknownName
from bench.models import resolve
from bench.plugins.registry import LIBRARIES, Attack, get_attack

PACKAGES = {"torchattacks": "torchattacks", "foolbox": "foolbox", "robustbench": "zoo"}
"""The package behind each prefix, with the extra that brings it."""


def missing(package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")


@pytest.mark.parametrize(("package", "name"), [("torchattacks", "PGD"), ("foolbox", "LinfPGD")])
def test_a_missing_library_names_its_extra(package: str, name: str) -> None:
    missing(package)
    wanted = rf"'{package}:{name}' needs the package {package}: pip install 'gauntlet-bench\[{PACKAGES[package]}\]'$"
    with pytest.raises(BadInput, match=wanted):
        get_attack(f"{package}:{name}")


def test_a_missing_zoo_names_its_extra() -> None:
    missing("robustbench")
    with pytest.raises(BadInput, match=r"'robustbench:X' needs the package robustbench: pip install 'gauntlet-bench\[zoo\]'$"):
        resolve("robustbench:X", (3, 32, 32), 10)
    with pytest.raises(UnknownName, match="option of a robustbench reference 'treat': did you mean 'threat'"):
        resolve("robustbench:X?treat=L2", (3, 32, 32), 10)


def test_unknown_libraries_are_told_beside_the_attacks() -> None:
    for name in ("art:PGD", "torchatacks:PGD", "pgdd"):
        with pytest.raises(UnknownName, match=r"unknown attack .*foolbox:Name.*pgd.*torchattacks:Name"):
            get_attack(name)


@pytest.mark.slow
def test_adapters_are_imported_when_asked_for_and_not_before(tmp_path: Path) -> None:
    code = (
        "import sys, bench.plugins.registry as r, bench.models; r.attack_names(); "
        "print([m for m in sys.modules if m.startswith('bench.compat.') and not m.endswith('.autoattack')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    for package in LIBRARIES:
        assert importlib.util.find_spec(f"bench.compat.{package}") is not None


class Machine:
    """A library of our own: it draws from all three global generators, prints, and returns what it is told to."""

    def __init__(self, way: str = "inside") -> None:
        self.way = way
        self.sizes: list[int] = []

    def once(self, net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, options: Mapping[str, Any]) -> Tensor:
        print("a library talks")  # noqa: T201
        assert not net.training
        self.sizes.append(len(x))
        z = x + threat.radius * options["scale"] * (2 * torch.rand_like(x) - 1) * random.random() * np.random.rand()
        net(z.requires_grad_()).sum().backward()
        if self.way == "wild":
            z = (z * 50).double().masked_fill(torch.rand_like(x) < 0.2, torch.nan)
        if self.way == "raises":
            raise KeyError("no such\nlayer")
        if self.way == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return z

    def attack(self) -> Attack:
        norms = frozenset({"linf", "l2", "l1"})
        return as_attack("machine:Once", "What it is.", self.once, [parameter("scale", float, 0.5)], norms)


@pytest.fixture
def net() -> nn.Module:
    with isolated(0, "net"):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture
def images() -> Tensor:
    return Rng(0, torch.arange(11)).uniform((1, 6, 6))


def play(
    attack: Attack, net: nn.Module, x: Tensor, norm: str = "linf", eps: str = "0.1", seed: int = 0, **settings: Any
) -> Tensor:
    view = VIEWS[attack.access](net, Meter(len(x), x.device))
    y = net(x).argmax(1)
    settings = attack.configure(settings)
    return attack.run(view, x, y, ThreatModel.parse(norm, eps), Rng(seed, torch.arange(len(x))), **settings)  # type: ignore[no-any-return]


def test_an_adapted_attack_repeats_and_leaves_no_trace(
    net: nn.Module, images: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    attack = Machine().attack()
    first = play(attack, net, images, batch_size=4)
    assert torch.equal(first, play(attack, net, images, batch_size=4))
    assert not torch.equal(first, play(attack, net, images, batch_size=4, seed=1))
    assert not torch.equal(first[:4] - images[:4], first[4:8] - images[4:8])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert capsys.readouterr() == ("", "")
    assert not any(module.training for module in net.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_wild_candidates_are_brought_back(net: nn.Module, images: Tensor, norm: str) -> None:
    z = play(Machine("wild").attack(), net, images, norm, "0.3", scale=9.0)
    assert z.dtype == images.dtype
    assert ThreatModel.parse(norm, "0.3").contains(z, images).all()
    assert not torch.equal(z, images)


def test_nothing_to_do_is_not_handed_on(net: nn.Module, images: Tensor) -> None:
    machine = Machine()
    assert torch.equal(play(machine.attack(), net, images, eps="0"), images)
    assert play(machine.attack(), net, images[:0]).shape == images[:0].shape
    assert machine.sizes == []


def test_restarts_go_on_with_the_survivors_in_batches(net: nn.Module, images: Tensor) -> None:
    machine, y = Machine(), net(images).argmax(1)
    once = play(machine.attack(), net, images, eps="0.5", batch_size=4, scale=2.0)
    assert machine.sizes == [4, 4, 3]
    gone = net(once).argmax(1) != y
    assert 0 < gone.sum() < len(gone)
    machine.sizes.clear()
    often = play(machine.attack(), net, images, eps="0.5", batch_size=4, scale=2.0, restarts=2)
    assert sum(machine.sizes) == len(images) + int((~gone).sum())
    assert torch.equal(often[gone], once[gone])
    assert not torch.equal(often[~gone], once[~gone])


def test_the_parameters_of_an_adapted_attack_are_checked() -> None:
    attack = Machine().attack()
    assert (attack.name, attack.about, attack.access, attack.whole) == ("machine:Once", "What it is.", "module", True)
    assert attack.parameters == {"restarts": 1, "batch_size": 250, "scale": 0.5}
    assert attack.configure({"scale": 1}) == {"restarts": 1, "batch_size": 250, "scale": 1.0}
    with pytest.raises(UnknownName, match="parameter of attack 'machine:Once' 'scael': did you mean 'scale'"):
        attack.configure({"scael": 1})
    for given in ({"scale": "far"}, {"restarts": 0}, {"batch_size": 0}):
        with pytest.raises(BadInput, match=f"attack 'machine:Once': {next(iter(given))} = "):
            attack.configure(given)


def test_what_a_library_raises_is_told(net: nn.Module, images: Tensor) -> None:
    told = r"attack 'machine:Once' fails on images of shape \[1, 6, 6\]: KeyError: .*; change its parameters or leave it out$"
    with pytest.raises(BadInput, match=told):
        play(Machine("raises").attack(), net, images)
    with pytest.raises(BadInput, match="ran out of memory; give it a smaller batch_size"):
        play(Machine("memory").attack(), net, images)
