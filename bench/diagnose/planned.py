"""The gradient attacks of the evaluation that is diagnosed, as they ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.core import forward
from bench.diagnose.probe import Probe
from bench.plans import Portfolio
from bench.plugins import get_attack
from bench.results import AttackResult


class Planned(NamedTuple):
    """One of them."""

    name: str
    attack: str
    parameters: Mapping[str, Any]
    restarts: int = 1


def gradient_attacks(probe: Probe) -> list[Planned]:
    """Those of the plan, and of a portfolio the arms that its rounds ran, with the most effort that one put in."""
    return [planned for planned in _attacks(probe) if get_attack(planned.attack).access == "gradient"]


def _attacks(probe: Probe) -> Iterator[Planned]:
    specs = {spec.label: spec for spec in probe.plan.attacks} if probe.plan else {}
    for result in probe.own:
        spec = specs.get(result.name)
        if isinstance(spec, Portfolio):
            yield from _arms(spec, result, forward(probe.net, probe.x[:1]).shape[1])
        elif spec is not None:
            yield Planned(result.name, result.attack, result.parameters, spec.restarts)
        elif not specs and result.attack != "portfolio":
            # Without its plan; with one, what is not in it was run in a smaller ball.
            yield Planned(result.name, result.attack, result.parameters)


def _arms(spec: Portfolio, result: AttackResult, classes: int) -> Iterator[Planned]:
    for arm in (*spec.opening, *spec.arms):
        efforts = [round.effort for round in result.rounds if round.arm == arm.label]
        if efforts:
            yield Planned(arm.label, arm.attack, arm.stronger(max(efforts), classes))
