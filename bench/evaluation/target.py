"""A network under attack on some samples in a ball: all that a unit of work is a function of, here or in another process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from bench.core import VIEWS, VOTES, Expectation, Gradient, Judge, Meter, Rng, Score, ThreatModel, adaptations, isolated
from bench.data import Dataset
from bench.errors import AttackWarning, BadInput, out_of_memory
from bench.evaluation.low_precision import to_low_precision
from bench.evaluation.task import Task
from bench.files import Reporter
from bench.plugins import get_attack

Outcome = TypeVar("Outcome")


class Run(NamedTuple):
    """One run of an attack: a point of a grid, a restart, a round."""

    number: int
    """The attack's place in the plan."""
    label: str
    attack: str
    """Its registered name."""
    parameters: Mapping[str, Any]
    name: str
    """Unique within the attack."""
    stream: tuple[str | int, ...]
    """Names its noise; runs that shall differ in nothing but their parameters share one."""
    low_precision: bool = False
    """Whether gradients may come from the network in a faster precision."""
    keep: bool = False
    """Whether candidates that did not fool are kept too, for later runs to go on from."""


class Work(NamedTuple):
    """One run on some of the samples, with what is known of them when it begins."""

    run: Run
    rows: Tensor
    """Positions of the samples, [M]."""
    closest: Tensor
    """The candidate that came closest to fooling so far, [M, C, H, W]."""
    margin: Tensor
    """Its margin, [M]."""

    def part(self, some: Tensor) -> Work:
        """The same run on some of these samples."""
        return Work(self.run, self.rows[some], self.closest[some], self.margin[some])


class Found(NamedTuple):
    """What a run did to some samples; everything is on the CPU."""

    outcomes: tuple[Tensor, ...]
    """For each sample: fooled, margin, distance, forwards, backwards, kept; the candidates that are kept; who strayed."""
    seconds: float
    notes: list[str]


class Aim(NamedTuple):
    """A task with the network that searches for it."""

    task: Task
    faster: nn.Module | None
    """The network in a faster precision, where there is one."""
    search: str
    """The precision that searches run in, and why."""

    @classmethod
    def at(cls, task: Task) -> Self:
        """The same for the same task, whatever process takes it."""
        subject = task.subject
        if subject.noisy:
            return cls(task, None, "float32: it is randomised")
        net, first = subject.model.net.to(task.where), (part.to(task.where) for part in subject.first)
        return cls(task, *to_low_precision(net, *first))

    def fields(self) -> dict[str, Any]:
        """What a target has of it."""
        task, subject = self.task, self.task.subject
        return {
            "net": subject.model.net.to(task.where), "data": task.data, "threat": task.balls[0], "seed": task.request.seed,
            "batch_size": task.batch_size, "low_precision": self.faster, "randomised": subject.noisy, "eot": task.draws,
            "first": subject.first,
        }  # fmt: skip


def _candidates(found: object, x: Tensor, attack: str) -> Tensor:
    """What an attack returned, as float32 [N, C, H, W]; BadInput where that are no candidates for these images."""
    what = f"shape {list(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
    if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
        raise BadInput(f"attack {attack!r} returned {what}; return candidates of the images' shape {list(x.shape)}, as floats")
    return found.detach().float()


@dataclass(kw_only=True)
class Target:
    """A network under attack."""

    net: nn.Module
    data: Dataset
    threat: ThreatModel
    seed: int
    batch_size: int
    report: Reporter
    low_precision: nn.Module | None = None
    """The network in a faster precision, where there is one."""
    randomised: bool = False
    """Whether the network answers the same images differently."""
    eot: int = 1
    """Answers of a randomised network that an attack sees the mean of."""
    first: tuple[Tensor, Tensor] | None = None
    """Images and labels to see on how the network can be read; none of an evaluation that is not to."""

    def __post_init__(self) -> None:
        self.seen = self.net if self.eot == 1 else Expectation(self.net, self.eot)
        """What attacks are shown."""
        self.judge = Judge(self.net, self.threat, VOTES if self.randomised else 1, self.seed)
        self._readings: dict[ThreatModel, dict[str, nn.Module]] = {}

    def within(self, threat: ThreatModel) -> None:
        """Attack in this ball from now on."""
        self.threat = threat
        self.judge = replace(self.judge, threat=threat)

    def readings(self) -> dict[str, nn.Module]:
        """What an adaptive attacker would attack in the network's place, by name."""
        if self.first is None:
            return {}
        if self.threat not in self._readings:
            x, y = (part.to(self.data.x.device) for part in self.first)
            self._readings[self.threat] = adaptations(self.net, x, y, self.threat, self.seed, self.eot)
        return self._readings[self.threat]

    def attacked(self, run: Run, rows: Tensor, work: Callable[[Tensor], Work]) -> Found:
        """Carry out a run in batches that memory holds; work: what there is to do on some of the rows."""
        began = time.monotonic()
        notes: list[str] = []

        def batch(part: Tensor) -> tuple[Tensor, ...]:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", AttackWarning)
                outcome = self._batch(work(part))
            notes.extend(str(item.message) for item in caught if issubclass(item.category, AttackWarning))
            return outcome

        parts = self._in_batches(rows, batch, whole=get_attack(run.attack).whole)
        outcomes = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        return Found(outcomes, time.monotonic() - began, list(dict.fromkeys(notes)))

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

    def _batch(self, work: Work) -> tuple[Tensor, ...]:
        run, index = work.run, work.rows
        x, y = self.data.batch(index)
        attack, parameters = get_attack(run.attack), run.parameters
        limit = parameters.get("queries") if attack.access in ("score", "decision") else None
        meter = Meter(len(index), x.device, limit, self.eot)
        view = VIEWS[attack.access](self.seen, meter, work.closest.to(x.device))
        view.judged_by(y)
        if isinstance(view, Score):
            view.use_low_precision(self.low_precision if run.low_precision else None, y)
        if isinstance(view, Gradient):
            view.readings = self.readings
        rng = Rng(self.seed, self.data.ids[index.to(x.device)]).at(run.number, *run.stream)
        with isolated(self.seed, *run.stream, int(index[0])) if self.randomised else nullcontext():
            # Of its own: what it writes into them must not decide what counts.
            found = attack.run(view, x.clone(), y.clone(), self.threat, rng, **parameters)
        z, beyond = _candidates(found, x, run.attack), parameters.get("beyond", False)
        z = z if beyond else self.threat.pulled_back(z, x)
        fooled, margin, legal, distance = self.judge.verdict(z, x, y)
        # A minimum-norm attack that was asked for the closest example anywhere may well answer from outside.
        stray = ~legal & (not beyond)
        kept = legal & (margin > work.margin.to(x.device)) | fooled if run.keep else fooled
        return tuple(part.cpu() for part in (fooled, margin, distance, meter.forwards, meter.backwards, kept, z[kept], stray))
