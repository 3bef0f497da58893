"""A model under attack: runs attacks on chosen samples, in units of work that survive a kill, and keeps what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core import ThreatModel, dead, forward, isolated, margin, slopes
from bench.evaluation.target import Found, Run, Target, Work
from bench.evaluation.units import Unit, Wanted, load_unit
from bench.plans import Plan
from bench.plugins import get_attack
from bench.results import Finding

SHARD = 1024
"""Samples in one unit of work: what a kill can lose."""


class Shard(NamedTuple):
    """What one unit of work is of, and where it is kept."""

    run: Run
    path: Path
    wanted: Wanted

    @property
    def rows(self) -> Tensor:
        """Positions of its samples."""
        return self.wanted.rows

    def unit(self, parts: Sequence[Found]) -> Unit:
        """The unit that was found, in parts that follow one another."""
        together = zip(*(part.outcomes for part in parts), strict=True)
        fooled, margin, distance, forwards, backwards, kept, z, stray = map(torch.cat, together)
        notes = [note for part in parts for note in part.notes]
        if count := int(stray.sum()):
            notes.append(f"{count} candidates lay outside the ball or the box and were not counted")
        _, number, label, name, rows, _ = self.wanted
        return Unit(
            number, label, name, rows, fooled, margin, distance, forwards, backwards, kept, z,
            sum(part.seconds for part in parts), list(dict.fromkeys(notes)),
        )  # fmt: skip


Carry = Callable[["Evaluation", Sequence[Shard]], Iterator[tuple[int, Sequence[Found]]]]
"""Carries out shards: the place of each, as it is done, and what was found, in parts that follow one another."""


def in_process(evaluation: Evaluation, shards: Sequence[Shard]) -> Iterator[tuple[int, Sequence[Found]]]:
    """One shard after the other, here."""
    for place, shard in enumerate(shards):
        yield place, [evaluation.attacked(shard.run, shard.rows, partial(evaluation.work, shard.run))]


@dataclass(kw_only=True)
class Evaluation(Target):
    """A model under attack: the state that grows unit by unit."""

    plan: Plan
    folder: Path
    carry: Carry = in_process
    """Carries out runs on shards of the samples."""
    units: list[Unit] = field(default_factory=list)
    suffix: str = ""
    launched: int = 0
    """Runs so far."""
    key: str = ""
    """Of the question that units are a part of the answer to."""
    reused: int = 0
    """Units that an earlier run left."""
    looked: dict[ThreatModel, tuple[Finding, ...]] = field(default_factory=dict)
    """What a look at the gradient noticed, for each ball."""
    probes: dict[int, Tensor] = field(default_factory=dict)
    """The samples that the step curves of each attack of the plan are about, whatever the ball."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = len(self.data)
        self.margin = torch.full((size,), -torch.inf)
        """The highest margin that any candidate reached, [n]."""
        self.closest = torch.zeros(size, *self.data.shape)
        """The candidate that reached it; the clean image before there is one."""
        self.clean = torch.zeros(size, dtype=torch.bool)
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

    @cached_property
    def answers(self) -> tuple[Tensor, int]:
        """The class that each clean image is answered with, [n], and how many classes the network knows; asked once."""

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

    def widen(self, threat: ThreatModel, folder: Path, suffix: str) -> None:
        """Go on in a larger ball, which holds everything found so far; suffix tells its attacks from those before."""
        self.within(threat)
        self.folder, self.suffix = folder, suffix
        self.settled = self.broken & self.clean

    def launch(self, run: Run, targets: Tensor, *, absorb: bool = True) -> list[Unit]:
        """One run on these samples, in shards; each shard is kept on disk the moment it is done.

        absorb: take what it found into the state, else leave that to the caller.
        """
        (units,) = self.together([run], targets)
        if absorb:
            self.absorb(units)
        return units

    def together(self, runs: Sequence[Run], targets: Tensor) -> list[list[Unit]]:
        """Runs on the same samples that all begin from what is known now, which absorbs none of them."""
        self.launched += len(runs)
        shards = [shard for run in runs for shard in self._shards(run, targets)]
        units = [load_unit(shard.path, shard.wanted, self.report.say) for shard in shards]
        missing = [place for place, unit in enumerate(units) if unit is None]
        self.reused += len(shards) - len(missing)
        for place, parts in self.carry(self, [shards[place] for place in missing]):
            unit = units[missing[place]] = shards[missing[place]].unit(parts)
            unit.save(shards[missing[place]].path, self.key)
        return [[unit for unit, shard in zip(units, shards, strict=True) if unit and shard.run is run] for run in runs]

    def work(self, run: Run, index: Tensor) -> Work:
        """A run on these samples as it begins now."""
        return Work(run, index, self.closest[index], self.margin[index])

    def _shards(self, run: Run, targets: Tensor) -> Iterator[Shard]:
        name, label = run.name.partition(":")[0].replace(" ", "-"), run.label + self.suffix
        size = len(targets) if get_attack(run.attack).whole else SHARD
        for number, index in enumerate(targets.split(size) if len(targets) else ()):
            path = self.folder / f"{run.number:02d}-{name}-{number:03d}.safetensors"
            yield Shard(run, path, Wanted(self.key, run.number, label, run.name, index, self.data.shape))

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


def share(standing: Tensor) -> float:
    """The part of the samples that stands."""
    return int(standing.sum()) / len(standing)
