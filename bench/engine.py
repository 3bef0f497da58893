"""Runs a plan on a model, in units of work that survive a kill, and collects what happened to every sample."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.archive import read_tensors, write_tensors
from bench.card import AttackResult, Grid, GridPoint, RestartPoint
from bench.data import Dataset
from bench.errors import AttackWarning
from bench.judge import Judge
from bench.plan import AttackSpec, Plan
from bench.progress import Reporter
from bench.registry import Attack, get_attack
from bench.rng import Rng
from bench.stats import wilson
from bench.threat import ThreatModel
from bench.views import VIEWS, Meter

SHARD = 1024
"""Samples in one unit of work: what a kill can lose."""
CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass
class Unit:
    """What one attack run did to some of the samples; everything is on the CPU."""

    attack: int
    run: str
    index: Tensor
    """Positions of the samples it was run on, [M]."""
    fooled: Tensor
    margin: Tensor
    forwards: Tensor
    backwards: Tensor
    z: Tensor
    """Candidates of the fooled ones."""
    seconds: float
    notes: list[str]


@dataclass
class Evaluation:
    """A model under attack: the state that grows unit by unit."""

    net: nn.Module
    data: Dataset
    threat: ThreatModel
    plan: Plan
    seed: int
    batch_size: int
    folder: Path
    report: Reporter
    units: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.judge = Judge(self.net, self.threat)
        size = len(self.data)
        self.broken = torch.zeros(size, dtype=torch.bool)
        self.best_margin = torch.full((size,), -torch.inf)
        self.examples = torch.zeros(size, *self.data.shape)
        """The most clearly misclassified candidate of each broken sample."""

    def run(self) -> list[AttackResult]:
        """Clean pass, then every attack of the plan in order."""
        self.clean = torch.cat([self.judge.correct(*self.data.batch(index))[0].cpu() for index in self._batches()])
        self.broken |= ~self.clean
        return [self._attack(number, spec) for number, spec in enumerate(self.plan.attacks)]

    def _batches(self) -> Iterator[Tensor]:
        yield from torch.arange(len(self.data)).split(self.batch_size)

    def _attack(self, number: int, spec: AttackSpec) -> AttackResult:
        attack = get_attack(spec.attack)
        size = min(spec.samples or len(self.data), len(self.data))
        start = self.broken if spec.on == "survivors" else ~self.clean
        targets = (~start[:size]).nonzero().squeeze(1)
        standing = ~start[:size]
        first = len(self.units)
        self.report.say(f"{spec.label}: {len(targets)} of {size} samples to attack")
        grid, parameters = self._grid(number, spec, attack, targets, standing)
        curve = []
        for restart in range(spec.restarts):
            self._run(number, attack, parameters, f"restart {restart}", targets[standing[targets]], standing)
            if restart + 1 in CURVE or restart + 1 == spec.restarts:
                curve.append(RestartPoint(restarts=restart + 1, robust_accuracy=_share(standing)))
            note = f"restart {restart + 1}/{spec.restarts}: {_share(standing):.1%} stand"
            self._advance(spec, len(targets), len(targets), note)
        units = self.units[first:]
        left = int(standing.sum())
        return AttackResult(
            name=spec.label, attack=spec.attack, parameters=parameters, on=spec.on, n=size, attempted=len(targets),
            broken=len(targets) - left, robust_accuracy=left / size, interval=wilson(left, size),
            grid=grid, restarts=tuple(curve),
            forwards=sum(int(unit.forwards.sum()) for unit in units) / max(len(targets), 1),
            backwards=sum(int(unit.backwards.sum()) for unit in units) / max(len(targets), 1),
            seconds=round(sum(unit.seconds for unit in units), 3),
            notes=tuple(dict.fromkeys(note for unit in units for note in unit.notes)),
        )  # fmt: skip

    def _grid(
        self, number: int, spec: AttackSpec, attack: Attack, targets: Tensor, standing: Tensor
    ) -> tuple[Grid | None, dict[str, Any]]:
        """Try every combination on the probe; the one that breaks most, then comes closest, goes on to the restarts."""
        combinations = list(spec.combinations())
        if len(combinations) == 1:
            return None, {**spec.parameters, **combinations[0]}
        probe = targets[: spec.probe]
        points, scores = [], []
        for point, combination in enumerate(combinations):
            told = f"grid {point}: " + ", ".join(f"{key}={value}" for key, value in combination.items())
            units = self._run(number, attack, {**spec.parameters, **combination}, told, probe, standing)
            self._advance(spec, len(targets), len(probe), told)
            fooled = torch.cat([unit.fooled for unit in units]) if units else torch.zeros(0, dtype=torch.bool)
            margins = torch.cat([unit.margin for unit in units]) if units else torch.zeros(0)
            hits, distance = int(fooled.sum()), float(margins.double().nan_to_num().clamp_max(0).sum()) / max(len(probe), 1)
            scores.append((hits, distance))
            accuracy = 1 - hits / max(len(probe), 1)
            points.append(GridPoint(parameters=combination, robust_accuracy=accuracy, mean_margin=distance))
        best = combinations[max(range(len(scores)), key=lambda i: (*scores[i], -i))]
        return Grid(probe=len(probe), points=tuple(points), best=best), {**spec.parameters, **best}

    def _advance(self, spec: AttackSpec, targets: int, samples: int, note: str) -> None:
        """Tell how far this attack is, in samples attacked; every attack of a plan counts the same."""
        grid = len(list(spec.combinations())) if spec.grid else 0
        total = grid * min(spec.probe, targets) + spec.restarts * targets
        self.report.advance(samples / total if total else 1 / (grid + spec.restarts), f"{spec.label} {note}")

    def _run(
        self, number: int, attack: Attack, parameters: dict[str, Any], run: str, targets: Tensor, standing: Tensor
    ) -> list[Unit]:
        """One run over the targets, in shards; each shard is kept on disk the moment it is done."""
        units = []
        for shard, index in enumerate(targets.split(len(targets) if attack.whole else SHARD) if len(targets) else ()):
            name = run.partition(":")[0].replace(" ", "-")
            path = self.folder / f"{number:02d}-{attack.name}-{name}-{shard:03d}.safetensors"
            unit = _load(path, number, run) if path.exists() else None
            if unit is None or not torch.equal(unit.index, index):
                unit = self._unit(number, attack, parameters, run, index)
                _save(path, unit)
            units.append(unit)
            hit = unit.index[unit.fooled]
            standing[hit] = False
            self.broken[hit] = True
            margin = unit.margin[unit.fooled].nan_to_num(torch.inf)
            better = margin > self.best_margin[hit]
            self.best_margin[hit[better]] = margin[better]
            self.examples[hit[better]] = unit.z[better]
        self.units += units
        return units

    def _unit(self, number: int, attack: Attack, parameters: dict[str, Any], run: str, index: Tensor) -> Unit:
        began = time.monotonic()
        batch = len(index) if attack.whole else self.batch_size
        done: list[tuple[Tensor, ...]] = []
        notes: list[str] = []
        position = 0
        while position < len(index):
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", AttackWarning)
                    done.append(self._batch(number, attack, parameters, run, index[position : position + batch]))
            except torch.OutOfMemoryError:
                if batch == 1 or attack.whole:
                    raise
                batch = self.batch_size = max(batch // 2, 1)
                self.report.say(f"out of memory: going on with batches of {batch}")
                continue
            position += batch
            notes += [str(item.message) for item in caught if issubclass(item.category, AttackWarning)]
        fooled, margin, forwards, backwards, z, illegal = (torch.cat(parts) for parts in zip(*done, strict=True))
        if count := int(illegal.sum()):
            notes.append(f"{count} candidates lay outside the ball or the box and were not counted")
        seconds = time.monotonic() - began
        return Unit(number, run, index, fooled, margin, forwards, backwards, z, seconds, list(dict.fromkeys(notes)))

    def _batch(self, number: int, attack: Attack, parameters: dict[str, Any], run: str, index: Tensor) -> tuple[Tensor, ...]:
        x, y = self.data.batch(index)
        limit = parameters.get("queries") if attack.access in ("score", "decision") else None
        meter = Meter(len(index), x.device, limit)
        view = VIEWS[attack.access](self.net, meter)
        rng = Rng(self.seed, self.data.ids[index.to(x.device)]).at(number, *_stream(run))
        z = attack.run(view, x, y, self.threat, rng, **parameters).detach().float()
        fooled, margin, legal = self.judge.verdict(z, x, y)
        return tuple(part.cpu() for part in (fooled, margin, meter.forwards, meter.backwards, z[fooled], ~legal))


def _stream(run: str) -> list[str]:
    """All points of a grid share their noise, so that only the parameters differ; each restart has its own."""
    kind, _, which = run.partition(" ")
    return [kind] if kind == "grid" else [kind, which]


def _share(standing: Tensor) -> float:
    return int(standing.sum()) / len(standing)


def _save(path: Path, unit: Unit) -> None:
    tensors = {name: getattr(unit, name) for name in ("index", "fooled", "margin", "forwards", "backwards", "z")}
    write_tensors(path, tensors, {"seconds": unit.seconds, "notes": unit.notes})


def _load(path: Path, number: int, run: str) -> Unit:
    tensors, about = read_tensors(path)
    return Unit(attack=number, run=run, **tensors, seconds=about["seconds"], notes=about["notes"])
