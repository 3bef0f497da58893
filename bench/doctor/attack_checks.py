"""What the engine relies on in an attack, each point a check of its own, on small networks that nobody trained."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.core import VIEWS, Judge, Meter, Rng, ThreatModel, isolated
from bench.doctor.conformance import NotApplicable, expect, no_global_randomness
from bench.errors import AttackWarning, BadInput
from bench.plugins import Attack, get_attack

EPS = {"linf": "0.06", "l2": "0.5", "l1": "4"}
SMALL: Mapping[str, Any] = {"queries": 80, "steps": 10}
"""Budgets for those parameters that an attack has."""


def network(classes: int, x: Tensor) -> nn.Sequential:
    """A small untrained network whose classes share the images evenly."""
    with isolated(classes, "network"):
        net = nn.Sequential(
            nn.Conv2d(x.shape[1], 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, classes)
        )
    net.eval().requires_grad_(False)
    net[-1].bias -= net(x).mean(0)
    return net


@dataclass(frozen=True)
class AttackCase:
    """An attack with small budgets under one threat model; its images are [N, 3, 8, 8]."""

    attack: Attack
    threat: ThreatModel

    @property
    def x(self) -> Tensor:
        """Few of them where the attack brings a loop of its own, which may be long."""
        return Rng(0, torch.arange(4 if self.attack.access == "module" else 24)).uniform((3, 8, 8))

    @property
    def settings(self) -> dict[str, Any]:
        """Its parameters."""
        try:
            return self.attack.configure({key: value for key, value in SMALL.items() if key in self.attack.parameters})
        except BadInput:
            return self.attack.configure({})

    def run(
        self, net: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None = None, threat: ThreatModel | None = None
    ) -> tuple[Tensor, Meter]:
        """Candidates for these images, and what they cost."""
        limit = self.settings.get("queries") if self.attack.access in ("score", "decision") else None
        meter = Meter(len(x), x.device, limit)
        rng = Rng(5, torch.arange(len(x)) if ids is None else ids)
        view = VIEWS[self.attack.access](net, meter)
        return self.attack.run(view, x, y, threat or self.threat, rng, **self.settings), meter


def cases(name: str) -> dict[str, AttackCase]:
    """One for every norm that the attack declares."""
    attack = get_attack(name)
    return {norm: AttackCase(attack, ThreatModel.parse(norm, eps)) for norm, eps in EPS.items() if norm in attack.norms}


def _texts(case: AttackCase) -> None:
    expect(inspect.getdoc(case.attack.run), "give the function a docstring; `gauntlet list` shows its first line")


def _access(case: AttackCase) -> None:
    x = case.x
    net = network(5, x)
    # The view refuses what was not declared.
    case.run(net, x, net(x).argmax(1))


def _legal(case: AttackCase) -> None:
    for classes in (5, 2):
        x = case.x
        net = network(classes, x)
        y = net(x).argmax(1)
        z, _ = case.run(net, x, y)
        told = f"with {classes} classes it returned"
        expect(isinstance(z, Tensor), f"{told} a {type(z).__name__}; return a tensor of candidates")
        expect(z.shape == x.shape, f"{told} {list(z.shape)} for images {list(x.shape)}; return a candidate for each")
        expect(z.dtype == x.dtype, f"{told} {z.dtype}; return float32 images")
        stray = int((~case.threat.contains(z, x)).sum())
        expect(not stray, f"{told} {stray} of {len(x)} candidates outside ball or box; end with threat.project(z, x)")


def _few(case: AttackCase) -> None:
    whole = case.x
    net = network(5, whole)
    for size in (0, 1):
        x = whole[:size]
        try:
            z, _ = case.run(net, x, net(x).argmax(1))
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError) as error:
            expect(False, f"a batch of {size} ends with {type(error).__name__}: {error}; it may have to return x as it is")
        expect(z.shape == x.shape, f"for a batch of {size} it returned {list(z.shape)}; return {list(x.shape)}")


def _still(case: AttackCase) -> None:
    x = case.x
    net = network(5, x)
    z, _ = case.run(net, x, net(x).argmax(1), threat=ThreatModel.parse(case.threat.norm, 0))
    expect(
        torch.equal(z, x), "in a ball of radius 0 it returned something else than x; step and start in units of threat.radius"
    )


def _alone(case: AttackCase) -> None:
    if case.attack.access == "module":
        raise NotApplicable("not for an attack that is given the network itself")
    x = case.x
    net = network(5, x)
    y = net(x).argmax(1)
    whole, _ = case.run(net, x, y)
    for chosen in ([17, 3, 8, 11, 20], [5], [*range(len(x) - 1, -1, -1)]):
        rows = torch.tensor(chosen)
        part, _ = case.run(net, x[rows], y[rows], rows)
        remedy = 'a sample\'s candidate changes with its batch; draw from rng.at("some name"), and mix no samples'
        expect(torch.equal(part, whole[rows]), remedy)


def _global(case: AttackCase) -> None:
    x = case.x
    net = network(5, x)
    with no_global_randomness('draw from rng.at("some name") instead of torch.rand and its like'):
        case.run(net, x, net(x).argmax(1))


def _traces(case: AttackCase) -> None:
    x = case.x
    net = network(5, x)
    y = net(x).argmax(1)
    images, labels, weights = x.clone(), y.clone(), copy.deepcopy(net.state_dict())
    case.run(net, x, y)
    expect(torch.equal(x, images) and torch.equal(y, labels), "it writes into x or y; work on a clone")
    same = all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    expect(same and not net.training, "it leaves the network changed, or in train mode")


def _budget(case: AttackCase) -> None:
    if case.attack.access not in ("score", "decision"):
        raise NotApplicable("for attacks on scores and decisions")
    if "queries" not in case.attack.parameters:
        raise NotApplicable("it has no parameter queries, by which the harness would hold it to so many on a sample")
    x = case.x
    # A label that the network never gives away: every query is spent.
    net: Any = network(5, x)
    net[-1].bias[0] += 50
    _, meter = case.run(net, x, torch.zeros(len(x), dtype=torch.int64))
    spent, limit = int(meter.forwards.max()), case.settings["queries"]
    expect(spent <= limit, f"it spent {spent} queries of {limit} on a sample")


def _finds(case: AttackCase) -> None:
    x = case.x
    net = network(5, x)
    y = net(x).argmax(1)
    judge = Judge(net, case.threat)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AttackWarning)
        z, _ = case.run(net, x, y)
    found = int(judge.verdict(z, x, y).fooled.sum())
    if caught and not found:
        raise NotApplicable(f"with its defaults it finds nothing, and says: {caught[0].message}")
    # An attack on scores or labels may need more queries than it has here to beat a draw; one that has gradients may not.
    draw = case.threat.random_start(x, Rng(0, torch.arange(len(x))))
    control = int(judge.verdict(draw, x, y).fooled.sum()) if case.attack.access in ("gradient", "module") else 0
    remedy = "is the sign of the step right, and does it return its best candidate?"
    expect(
        found > control, f"it fools an untrained network on {found} of {len(x)} images, a random draw on {control}; {remedy}"
    )


CHECKS: Mapping[str, Callable[[AttackCase], None]] = {
    "texts": _texts,
    "asks for no more than it declares": _access,
    "inside ball and box, 5 and 2 classes": _legal,
    "empty batch and batch of one": _few,
    "eps 0 changes nothing": _still,
    "a sample does not see its batch": _alone,
    "no global random state": _global,
    "network and images left as found": _traces,
    "query budget": _budget,
    "finds more than a random draw": _finds,
}
