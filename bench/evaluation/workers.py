"""Units of work in pieces that workers carry out, which resolve the question themselves; no byte of an answer depends on it.

What decides anything stays in one process: who is attacked by what, which number a run has, in which order units are absorbed.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core import ThreatModel, device
from bench.errors import BadInput, GauntletError, out_of_memory
from bench.evaluation.engine import Carry, Evaluation, Shard, in_process
from bench.evaluation.request import EvaluationRequest, Execution
from bench.evaluation.target import Aim, Found, Target, Work
from bench.evaluation.task import resolve
from bench.executors import Executor, Failed
from bench.files import Reporter
from bench.plugins import culprit, get_attack, load_plugin, loaded_plugins

SMALLEST, EACH = 16, 4
"""Samples that a piece has at least, and pieces that each worker has of a launch."""


@dataclass(frozen=True)
class Question:
    """What a worker makes its own target from."""

    request: str
    """In canonical form."""
    plugins: tuple[Path, ...]
    folder: Path
    """Where relative paths begin."""
    device: str
    batch_size: int
    threads: int
    """Of the process that asks: what is fitted to data is fitted with as many."""
    identity: tuple[tuple[str, str], ...]
    """What has to be the same here and there, and its digest."""


class Piece(NamedTuple):
    """A task for a worker."""

    question: Question
    threat: ThreatModel
    work: Work


def carrying(aim: Aim, executor: Executor) -> Carry:
    """How shards of this evaluation are carried out; BadInput where a worker could not know what is asked."""
    if not executor.apart:
        return in_process
    task = aim.task
    held = [what for what in (task.request.model, task.dataset) if what.startswith("live:")]
    if held:
        raise BadInput(
            f"{held[0]} is only in the memory of this process, where workers cannot see it: save it to a file, or leave out "
            "--workers and --on"
        )
    asked = Question(
        task.request.to_json(), loaded_plugins(), Path.cwd(), str(task.where), task.batch_size, torch.get_num_threads(),
        tuple(_identity(aim).items()),
    )  # fmt: skip
    return _Elsewhere(executor, asked, together=task.subject.noisy or task.subject.batch_dependent)


def _identity(aim: Aim) -> dict[str, str]:
    """Everything that the bytes of a unit depend on."""
    task, subject = aim.task, aim.task.subject
    return {
        "the model": subject.model.digest,
        "the samples": task.data.digest,
        **{f"the code of {name}": digest for name, digest in task.code.items()},
        **{f"the file of {name}": digest for name, digest in task.files.items()},
        "torch": torch.__version__,
        "gauntlet-bench": version("gauntlet-bench"),
        "answers of the model": subject.answers.digest,
        "precision of the search": aim.search,
        "question": task.key,
    }


def piece_size(samples: int, workers: int, batch_size: int) -> int:
    """Samples in a piece: a share of all for each worker, in multiples of the smallest, and no more than a batch."""
    each = -(-samples // (workers * EACH))
    return min(-(-each // SMALLEST) * SMALLEST, batch_size)


class _Elsewhere:
    """Carries out shards in pieces, on an executor."""

    def __init__(self, executor: Executor, question: Question, *, together: bool) -> None:
        self.executor = executor
        self.question = question
        self.together = together
        """Whether samples answered in one batch have to stay together, because the answer to one depends on the others."""

    def __call__(self, evaluation: Evaluation, shards: Sequence[Shard]) -> Iterator[tuple[int, Sequence[Found]]]:
        if not shards:
            # Nobody is started for what an earlier run left.
            return
        size = evaluation.batch_size
        if not self.together:
            size = piece_size(sum(len(shard.rows) for shard in shards), self.executor.workers, size)
        cuts = [(place, rows) for place, shard in enumerate(shards) for rows in self._cut(shard, size)]
        waiting = [sum(place == at for at, _ in cuts) for place in range(len(shards))]
        parts: list[dict[int, Found]] = [{} for _ in shards]
        refused: dict[int, Failed] = {}
        for number, found in self.executor.run(_carry_out, _Pieces(self.question, evaluation, shards, cuts)):
            if isinstance(found, Failed):
                if not isinstance(found.error, BadInput):
                    found.reraise()
                refused[number] = found
                continue
            place = cuts[number][0]
            parts[place][number], said = found
            for line in said:
                evaluation.report.say(line)
            evaluation.report.advance(0.0)
            if len(parts[place]) == waiting[place]:
                yield place, [part for _, part in sorted(parts[place].items())]
        if refused:
            # An optional attack is left out then: what it said first is what one process would have heard.
            refused[min(refused)].reraise()

    @staticmethod
    def _cut(shard: Shard, size: int) -> Sequence[Tensor]:
        return [shard.rows] if get_attack(shard.run.attack).whole else shard.rows.split(size)


class _Pieces(Sequence[Piece]):
    """The tasks of some shards, each made when it is sent."""

    def __init__(
        self, question: Question, evaluation: Evaluation, shards: Sequence[Shard], cuts: Sequence[tuple[int, Tensor]]
    ) -> None:
        self.question, self.evaluation, self.shards, self.cuts = question, evaluation, shards, cuts

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, number: int) -> Piece:  # type: ignore[override]
        place, rows = self.cuts[number]
        # A view would take all that it is a part of along.
        work = self.evaluation.work(self.shards[place].run, rows.clone())
        return Piece(self.question, self.evaluation.threat, work)


class _Heard(Reporter):
    """Keeps what is said, for the process that asks."""

    def __init__(self) -> None:
        super().__init__("", 1, quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


_known: dict[Question, tuple[Target, _Heard]] = {}
"""The target of the last question, in a worker."""


def _carry_out(piece: Piece) -> tuple[Found, list[str]]:
    """What a piece finds, in a worker, and what there is to say about it."""
    with device.exact_float32(), warnings.catch_warnings():
        # The process that asks has loaded the same and warned of it.
        warnings.simplefilter("ignore")
        target, heard = _target(piece.question)
        target.within(piece.threat)
        work = piece.work
        heard.said.clear()
        try:
            return target.attacked(work.run, torch.arange(len(work.rows)), work.part), list(heard.said)
        except GauntletError:
            raise
        except Exception as error:  # whatever an attack or a network raises
            told = None if out_of_memory(error) else culprit(error)
            if told is None:
                raise
            raise GauntletError(told) from error


def _target(question: Question) -> tuple[Target, _Heard]:
    if question not in _known:
        _known.clear()
        own = torch.get_num_threads()
        torch.set_num_threads(question.threads)
        try:
            _known[question] = _resolved(question)
        except (GauntletError, OSError) as error:
            # No BadInput, with which an optional attack is left out: this is no matter of an attack.
            raise GauntletError(f"a worker on {platform.node()} cannot do its part: {error}") from error
        finally:
            torch.set_num_threads(own)
    return _known[question]


def _resolved(question: Question) -> tuple[Target, _Heard]:
    """The target that a question is about; GauntletError where what is here is something else."""
    os.chdir(question.folder)
    for path in question.plugins:
        load_plugin(path)
    request = EvaluationRequest.model_validate_json(question.request)
    task = resolve(request, Execution(device=question.device, quiet=True))
    aim = Aim.at(task)
    here = _identity(aim)
    for what, there in question.identity:
        if (mine := here.get(what, "none")) != there:
            raise GauntletError(
                f"{what} is {mine[:12]} there, and {there[:12]} where it is asked from; give all machines the same files and "
                "the same versions"
            )
    heard = _Heard()
    return Target(**{**aim.fields(), "batch_size": question.batch_size, "report": heard}), heard
