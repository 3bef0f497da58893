"""One attack of a plan: its step-size grid on a probe, then its restarts, each on what those before it left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.core import TOLERANCE
from bench.errors import BadInput
from bench.evaluation.engine import Evaluation, share
from bench.evaluation.target import Run
from bench.evaluation.units import Unit
from bench.plans import AttackSpec
from bench.plugins import code
from bench.results import AttackResult, CurvePoint, Grid, GridPoint, RestartPoint
from bench.statistics import wilson

CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
RADII = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)
"""Of the curve that distances make, as multiples of eps."""


def run_attack(evaluation: Evaluation, number: int, spec: AttackSpec) -> AttackResult:
    """Carry out one attack of a plan; an optional one that refuses the model or a file leaves a note."""
    size = min(spec.samples or len(evaluation.data), len(evaluation.data))
    start = evaluation.broken if spec.on == "survivors" else ~evaluation.clean | evaluation.settled
    standing = ~start[:size]
    targets = standing.nonzero().squeeze(1)
    first = len(evaluation.units)
    evaluation.report.say(f"{spec.label}: {len(targets)} of {size} samples to attack")
    grid, parameters, points, refusal = None, spec.parameters, [], []
    try:
        grid, parameters = _grid(evaluation, number, spec, targets, standing)
        points = _restarts(evaluation, number, spec, parameters, targets, standing)
    except BadInput as error:
        if not spec.optional:
            raise
        refusal = [f"left out: {error}"]
        evaluation.report.advance(1.0, f"{spec.label} {refusal[0]}")
    units = evaluation.units[first:]
    left, attempted = int(standing.sum()), 0 if refusal and not units else len(targets)
    curve = _curve(evaluation, units, targets, size) if parameters.get("beyond") and not refusal else ()
    known = totals(units, attempted)
    return AttackResult(
        name=spec.label, attack=spec.attack, parameters=parameters, on=spec.on, n=size, attempted=attempted,
        broken=len(targets) - left, robust_accuracy=left / size, interval=wilson(left, size), grid=grid,
        restarts=tuple(points), curve=curve, **{**known, "notes": (*known["notes"], *refusal)},
    )  # fmt: skip


def _restarts(
    evaluation: Evaluation,
    number: int,
    spec: AttackSpec,
    parameters: dict[str, Any],
    targets: Tensor,
    standing: Tensor,
) -> list[RestartPoint]:
    """Restart after restart, on what the restarts before it left standing; the curve begins before the grid.

    What fell in the grid counts as broken, and is run on all the same: else a point of the curve would be so many runs on most
    samples and a grid on the rest. The first restart breaks nearly all of it again, so that costs about one run on the probe.
    """
    points, left = [], torch.zeros_like(standing)
    left[targets] = True
    for restart in range(spec.restarts):
        run = Run(number, spec.label, spec.attack, parameters, f"restart {restart}", ("restart", str(restart)))
        units = evaluation.launch(run, targets[left[targets]])
        _fell(left, units)
        _fell(standing, units)
        if restart + 1 in CURVE or restart + 1 == spec.restarts:
            points.append(RestartPoint(restarts=restart + 1, robust_accuracy=share(left)))
        note = f"restart {restart + 1}/{spec.restarts}: {share(standing):.1%} stand"
        _advance(evaluation, spec, len(targets), len(targets), note)
    return points


def _curve(evaluation: Evaluation, units: list[Unit], targets: Tensor, size: int) -> tuple[CurvePoint, ...]:
    """Robust accuracy at several radii by the smallest distance that these units found for each of the first samples."""
    threat = evaluation.threat
    # What was not run on has an example in this ball, nobody knows how deep inside it.
    reach = torch.full((size,), threat.radius, dtype=torch.float64)
    reach[targets] = torch.inf
    for unit in units:
        distance = unit.distance.double()
        # Whether a candidate lies in the ball was judged in float64, its distance measured in float32.
        distance = torch.where(unit.fooled, distance.clamp_max(threat.radius), distance)
        reach[unit.index] = torch.minimum(reach[unit.index], distance)
    reach[~evaluation.clean[:size]] = 0
    balls = threat.multiples(RADII)
    left = [int((reach > ball.radius + TOLERANCE).sum()) for ball in balls]
    return tuple(
        CurvePoint(eps=ball.eps_text, robust_accuracy=count / size, interval=wilson(count, size))
        for ball, count in zip(balls, left, strict=True)
    )


def totals(units: list[Unit], attempted: int) -> dict[str, Any]:
    """What these units cost together, per attempted sample, and what they said."""
    return {
        "forwards": sum(int(unit.forwards.sum()) for unit in units) / max(attempted, 1),
        "backwards": sum(int(unit.backwards.sum()) for unit in units) / max(attempted, 1),
        "seconds": round(sum(unit.seconds for unit in units), 3),
        "notes": tuple(dict.fromkeys(note for unit in units for note in unit.notes)),
    }


def _grid(
    evaluation: Evaluation, number: int, spec: AttackSpec, targets: Tensor, standing: Tensor
) -> tuple[Grid | None, dict[str, Any]]:
    """Try every combination on the probe; the one that breaks most, then comes closest, goes on to the restarts.

    The curves of a sweep are about the probe of its smallest ball, of which the first samples here are what is left.
    """
    combinations = list(spec.combinations())
    if len(combinations) == 1:
        return None, {**spec.parameters, **combinations[0]}
    probe = targets[: spec.probe]
    shown = evaluation.probes.setdefault(number, probe)
    common = int(torch.isin(probe, shown).sum())
    points, scores = [], []
    for combination, told, units in _points(evaluation, number, spec, probe):
        _fell(standing, units)
        _advance(evaluation, spec, len(targets), len(probe), told)
        fooled = torch.cat([unit.fooled for unit in units]) if units else torch.zeros(0, dtype=torch.bool)
        margins = torch.cat([unit.margin for unit in units]) if units else torch.zeros(0)
        hits = int(fooled.sum())
        lacking = margins.double().nan_to_num(neginf=-1e9).clamp(-1e9, 0)
        scores.append((hits, float(lacking.sum())))
        accuracy = 1 - (len(shown) - common + int(fooled[:common].sum())) / max(len(shown), 1)
        distance = float(lacking[:common].sum()) / max(len(shown), 1)
        points.append(GridPoint(parameters=combination, robust_accuracy=accuracy, mean_margin=distance))
    best = combinations[max(range(len(scores)), key=lambda i: (*scores[i], -i))]
    return Grid(probe=len(shown), points=tuple(points), best=best), {**spec.parameters, **best}


def _points(
    evaluation: Evaluation, number: int, spec: AttackSpec, probe: Tensor
) -> Iterator[tuple[dict[str, Any], str, list[Unit]]]:
    """Every combination, its name and its units; at once where no point can go on from what another found."""
    combinations, runs = list(spec.combinations()), []
    for point, combination in enumerate(combinations):
        told = f"grid {point}: " + ", ".join(f"{key}={value}" for key, value in combination.items())
        # All points share their noise, so that only the parameters differ.
        runs.append(Run(number, spec.label, spec.attack, {**spec.parameters, **combination}, told, ("grid",)))
    # What an attack of somebody's reads of earlier candidates, nobody knows.
    going_on = bool(code("attack", spec.attack)) or any(run.parameters.get("start") == "known" for run in runs)
    groups = [[run] for run in runs] if going_on else [runs]
    every = (pair for group in groups for pair in zip(group, evaluation.together(group, probe), strict=True))
    for combination, (run, units) in zip(combinations, every, strict=True):
        evaluation.absorb(units)
        yield combination, run.name, units


def _fell(standing: Tensor, units: list[Unit]) -> None:
    for unit in units:
        standing[unit.index[unit.fooled]] = False


def _advance(evaluation: Evaluation, spec: AttackSpec, targets: int, samples: int, note: str) -> None:
    """Tell how far this attack is, in samples attacked; every attack of a plan counts the same."""
    grid = len(list(spec.combinations())) if spec.grid else 0
    total = grid * min(spec.probe, targets) + spec.restarts * targets
    evaluation.report.advance(samples / total if total else 1 / (grid + spec.restarts), f"{spec.label} {note}")
