"""A model under attack: runs attacks on chosen samples, in units of work that survive a kill, and keeps what they found."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from bench.core import (
    VIEWS,
    VOTES,
    Expectation,
    Gradient,
    Judge,
    Meter,
    Rng,
    ThreatModel,
    adaptations,
    dead,
    forward,
    isolated,
    margin,
    slopes,
)
from bench.data import Dataset
from bench.errors import AttackWarning, out_of_memory
from bench.evaluation.units import Unit, Wanted, load_unit
from bench.files import Reporter
from bench.plans import Plan
from bench.plugins import Attack
from bench.results import Finding

Outcome = TypeVar("Outcome")

SHARD = 1024
"""Samples in one unit of work: what a kill can lose."""


class Run(NamedTuple):
    """One run of an attack: a point of a grid, a restart, a round."""

    number: int
    """The attack's place in the plan."""
    label: str
    attack: Attack
    parameters: Mapping[str, Any]
    name: str
    """Unique within the attack."""
    stream: tuple[str | int, ...]
    """Names its noise; runs that shall differ in nothing but their parameters share one."""
    low_precision: bool = False
    """Whether gradients may come from the network in a faster precision."""
    keep: bool = False
    """Whether candidates that did not fool are kept too, for later runs to go on from."""


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
    low_precision: nn.Module | None = None
    """The network in a faster precision, where there is one."""
    randomised: bool = False
    """Whether the network answers the same images differently."""
    eot: int = 1
    """Answers of a randomised network that an attack sees the mean of."""
    units: list[Unit] = field(default_factory=list)
    suffix: str = ""
    launched: int = 0
    """Runs so far."""
    key: str = ""
    """Of the question that units are a part of the answer to."""
    reused: int = 0
    """Units that an earlier run left."""
    first: tuple[Tensor, Tensor] | None = None
    """Images and labels to see on how the network can be read; none of an evaluation that is not to."""
    looked: dict[ThreatModel, tuple[Finding, ...]] = field(default_factory=dict)
    """What a look at the gradient noticed, for each ball."""
    probes: dict[int, Tensor] = field(default_factory=dict)
    """The samples that the step curves of each attack of the plan are about, whatever the ball."""

    def __post_init__(self) -> None:
        size = len(self.data)
        self.seen = self.net if self.eot == 1 else Expectation(self.net, self.eot)
        """What attacks are shown."""
        self.judge = Judge(self.net, self.threat, VOTES if self.randomised else 1, self.seed)
        self.margin = torch.full((size,), -torch.inf)
        """The highest margin that any candidate reached, [n]."""
        self.closest = torch.zeros(size, *self.data.shape)
        """The candidate that reached it; the clean image before there is one."""
        self.clean = torch.zeros(size, dtype=torch.bool)
        self._readings: dict[ThreatModel, dict[str, nn.Module]] = {}
        self._in_batches(torch.arange(size), self._look)
        self.broken = ~self.clean
        self.proven = torch.zeros(size, dtype=torch.bool)
        """Samples whose closest candidate fooled the network."""
        self.settled = torch.zeros(size, dtype=torch.bool)
        """Samples that fell in a smaller ball, and are attacked no more."""

    def _look(self, index: Tensor) -> None:
        """Answer clean images."""
        x, y = self.data.batch(index)
        correct, margin = self.judge.correct(x, y)
        self.clean[index], self.margin[index], self.closest[index] = correct.cpu(), margin.cpu(), x.cpu()

    def answers(self) -> tuple[Tensor, int]:
        """The class that each clean image is answered with, [n], and how many classes the network knows."""

        def look(part: Tensor) -> Tensor:
            x, _ = self.data.batch(part)
            with torch.no_grad(), isolated(self.seed, "answers", int(part[0])) if self.randomised else nullcontext():
                logits = forward(self.net, x.contiguous())
            given = logits.argmax(1).cpu()
            return torch.stack([given, torch.full_like(given, logits.shape[1])])

        given, count = torch.cat(self._in_batches(torch.arange(len(self.data)), look), dim=1)
        return given, int(count[0])

    def flat(self, index: Tensor) -> Tensor:
        """At which of these clean images the margin has no gradient that leads anywhere, bool [M]."""

        def look(part: Tensor) -> Tensor:
            x, y = self.data.batch(part)
            with isolated(self.seed, "flat", int(part[0])) if self.randomised else nullcontext():
                return dead(slopes(self.seen, x, y, margin)).cpu()

        return torch.cat(self._in_batches(index, look))

    def _in_batches(self, index: Tensor, work: Callable[[Tensor], Outcome], *, whole: bool = False) -> list[Outcome]:
        """What some work gives for each batch of these samples; where memory runs out, it goes on with smaller ones."""
        outcomes: list[Outcome] = []
        position, batch = 0, len(index) if whole else self.batch_size
        while position < len(index):
            try:
                outcomes.append(work(index[position : position + batch]))
            except (RuntimeError, MemoryError) as error:
                if batch == 1 or whole or not out_of_memory(error):
                    raise
                batch = self.batch_size = max(batch // 2, 1)
                self.report.say(f"out of memory: going on with batches of {batch}")
                continue
            position += batch
            self.report.advance(0.0)
        return outcomes

    def readings(self) -> dict[str, nn.Module]:
        """What an adaptive attacker would attack in the network's place, by name."""
        if self.first is None:
            return {}
        if self.threat not in self._readings:
            x, y = (part.to(self.data.x.device) for part in self.first)
            self._readings[self.threat] = adaptations(self.net, x, y, self.threat, self.seed, self.eot)
        return self._readings[self.threat]

    def widen(self, threat: ThreatModel, folder: Path, suffix: str) -> None:
        """Go on in a larger ball, which holds everything found so far; suffix tells its attacks from those before."""
        self.threat, self.folder, self.suffix = threat, folder, suffix
        self.judge = replace(self.judge, threat=threat)
        self.settled = self.broken & self.clean

    def launch(self, run: Run, targets: Tensor, *, absorb: bool = True) -> list[Unit]:
        """One run on these samples, in shards; each shard is kept on disk the moment it is done.

        absorb: take what it found into the state, else leave that to the caller.
        """
        self.launched += 1
        units = []
        for shard, index in enumerate(targets.split(len(targets) if run.attack.whole else SHARD) if len(targets) else ()):
            name = run.name.partition(":")[0].replace(" ", "-")
            path = self.folder / f"{run.number:02d}-{name}-{shard:03d}.safetensors"
            wanted = Wanted(self.key, run.number, run.label + self.suffix, run.name, index, self.data.shape)
            unit = load_unit(path, wanted, self.report.say)
            self.reused += unit is not None
            if unit is None:
                unit = self._unit(run, index)
                unit.save(path, self.key)
            units.append(unit)
        if absorb:
            self.absorb(units)
        return units

    def absorb(self, units: list[Unit]) -> None:
        """Take what units found into the state."""
        self.units += units
        for unit in units:
            self.broken[unit.index[unit.fooled]] = True
            rows, margin = unit.index[unit.kept], unit.margin[unit.kept].nan_to_num(torch.inf)
            # A candidate that fooled beats any that did not, whatever the margins say.
            fooled, proven = unit.fooled[unit.kept], self.proven[rows]
            better = (fooled & ~proven) | ((margin > self.margin[rows]) & (fooled == proven))
            self.margin[rows[better]], self.closest[rows[better]] = margin[better], unit.z[better]
            self.proven[rows[fooled]] = True

    def _unit(self, run: Run, index: Tensor) -> Unit:
        began = time.monotonic()
        notes: list[str] = []

        def attacked(part: Tensor) -> tuple[Tensor, ...]:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", AttackWarning)
                outcome = self._batch(run, part)
            notes.extend(str(item.message) for item in caught if issubclass(item.category, AttackWarning))
            return outcome

        parts = self._in_batches(index, attacked, whole=run.attack.whole)
        fooled, margin, distance, forwards, backwards, kept, z, stray = (torch.cat(part) for part in zip(*parts, strict=True))
        if count := int(stray.sum()):
            notes.append(f"{count} candidates lay outside the ball or the box and were not counted")
        return Unit(
            run.number, run.label + self.suffix, run.name, index, fooled, margin, distance, forwards, backwards, kept, z,
            time.monotonic() - began, list(dict.fromkeys(notes)),
        )  # fmt: skip

    def _batch(self, run: Run, index: Tensor) -> tuple[Tensor, ...]:
        x, y = self.data.batch(index)
        attack, parameters = run.attack, run.parameters
        limit = parameters.get("queries") if attack.access in ("score", "decision") else None
        meter = Meter(len(index), x.device, limit, self.eot)
        view = VIEWS[attack.access](self.seen, meter, self.closest[index].to(x.device))
        if isinstance(view, Gradient):
            view.readings = self.readings
            view.use_low_precision(self.low_precision if run.low_precision else None)
        rng = Rng(self.seed, self.data.ids[index.to(x.device)]).at(run.number, *run.stream)
        with isolated(self.seed, *run.stream, int(index[0])) if self.randomised else nullcontext():
            z = attack.run(view, x, y, self.threat, rng, **parameters).detach().float()
        fooled, margin, legal, distance = self.judge.verdict(z, x, y)
        # A minimum-norm attack that was asked for the closest example anywhere may well answer from outside.
        stray = ~legal & (not parameters.get("beyond", False))
        kept = legal & (margin > self.margin[index].to(x.device)) | fooled if run.keep else fooled
        return tuple(part.cpu() for part in (fooled, margin, distance, meter.forwards, meter.backwards, kept, z[kept], stray))


def share(standing: Tensor) -> float:
    """The part of the samples that stands."""
    return int(standing.sum()) / len(standing)
