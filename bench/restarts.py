"""One attack of a plan: its step-size grid on a probe, then its restarts on what still stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.card import AttackResult, Grid, GridPoint, RestartPoint
from bench.engine import Evaluation, Run, share
from bench.plan import AttackSpec
from bench.registry import Attack, get_attack
from bench.stats import wilson
from bench.units import Unit

CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def run_attack(evaluation: Evaluation, number: int, spec: AttackSpec) -> AttackResult:
    """Carry out one attack of a plan."""
    attack = get_attack(spec.attack)
    size = min(spec.samples or len(evaluation.data), len(evaluation.data))
    start = evaluation.broken if spec.on == "survivors" else ~evaluation.clean | evaluation.settled
    standing = ~start[:size]
    targets = standing.nonzero().squeeze(1)
    first = len(evaluation.units)
    evaluation.report.say(f"{spec.label}: {len(targets)} of {size} samples to attack")
    grid, parameters = _grid(evaluation, number, spec, attack, targets, standing)
    curve = []
    for restart in range(spec.restarts):
        run = Run(number, spec.label, attack, parameters, f"restart {restart}", ("restart", str(restart)))
        _fell(standing, evaluation.launch(run, targets[standing[targets]]))
        if restart + 1 in CURVE or restart + 1 == spec.restarts:
            curve.append(RestartPoint(restarts=restart + 1, robust_accuracy=share(standing)))
        note = f"restart {restart + 1}/{spec.restarts}: {share(standing):.1%} stand"
        _advance(evaluation, spec, len(targets), len(targets), note)
    units = evaluation.units[first:]
    left = int(standing.sum())
    return AttackResult(
        name=spec.label, attack=spec.attack, parameters=parameters, on=spec.on, n=size, attempted=len(targets),
        broken=len(targets) - left, robust_accuracy=left / size, interval=wilson(left, size),
        grid=grid, restarts=tuple(curve), **totals(units, len(targets)),
    )  # fmt: skip


def totals(units: list[Unit], attempted: int) -> dict[str, Any]:
    """What these units cost together, per attempted sample, and what they said."""
    return {
        "forwards": sum(int(unit.forwards.sum()) for unit in units) / max(attempted, 1),
        "backwards": sum(int(unit.backwards.sum()) for unit in units) / max(attempted, 1),
        "seconds": round(sum(unit.seconds for unit in units), 3),
        "notes": tuple(dict.fromkeys(note for unit in units for note in unit.notes)),
    }


def _grid(
    evaluation: Evaluation, number: int, spec: AttackSpec, attack: Attack, targets: Tensor, standing: Tensor
) -> tuple[Grid | None, dict[str, Any]]:
    """Try every combination on the probe; the one that breaks most, then comes closest, goes on to the restarts."""
    combinations = list(spec.combinations())
    if len(combinations) == 1:
        return None, {**spec.parameters, **combinations[0]}
    probe = targets[: spec.probe]
    points, scores = [], []
    for point, combination in enumerate(combinations):
        told = f"grid {point}: " + ", ".join(f"{key}={value}" for key, value in combination.items())
        # All points share their noise, so that only the parameters differ.
        run = Run(number, spec.label, attack, {**spec.parameters, **combination}, told, ("grid",))
        units = evaluation.launch(run, probe)
        _fell(standing, units)
        _advance(evaluation, spec, len(targets), len(probe), told)
        fooled = torch.cat([unit.fooled for unit in units]) if units else torch.zeros(0, dtype=torch.bool)
        margins = torch.cat([unit.margin for unit in units]) if units else torch.zeros(0)
        hits, distance = int(fooled.sum()), float(margins.double().nan_to_num().clamp_max(0).sum()) / max(len(probe), 1)
        scores.append((hits, distance))
        accuracy = 1 - hits / max(len(probe), 1)
        points.append(GridPoint(parameters=combination, robust_accuracy=accuracy, mean_margin=distance))
    best = combinations[max(range(len(scores)), key=lambda i: (*scores[i], -i))]
    return Grid(probe=len(probe), points=tuple(points), best=best), {**spec.parameters, **best}


def _fell(standing: Tensor, units: list[Unit]) -> None:
    for unit in units:
        standing[unit.index[unit.fooled]] = False


def _advance(evaluation: Evaluation, spec: AttackSpec, targets: int, samples: int, note: str) -> None:
    """Tell how far this attack is, in samples attacked; every attack of a plan counts the same."""
    grid = len(list(spec.combinations())) if spec.grid else 0
    total = grid * min(spec.probe, targets) + spec.restarts * targets
    evaluation.report.advance(samples / total if total else 1 / (grid + spec.restarts), f"{spec.label} {note}")
