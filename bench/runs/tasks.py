"""What is missing of a board is made: a task for each network, which trains it, evaluates it and says if its numbers hold.

A task is a pure function of requests and has its folder to itself: tasks that would share one are the same task.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bench.errors import BadInput, GauntletError, out_of_memory
from bench.escape import line as plain
from bench.evaluation import EvaluationRequest, Execution, evaluated
from bench.executors import Executor, Failed
from bench.files import Reporter, read_json, sha256, write_text
from bench.plugins import culprit, load_plugin, was_run
from bench.runs.jobs import skip, trained
from bench.runs.rows import Line
from bench.runs.standing import DONE, Standing
from bench.training import TrainingRequest

LARGEST = 2**22
"""Bytes of what is remembered of failures, at most."""


class Piece(NamedTuple):
    """An evaluation of a task."""

    label: str
    """Of its line."""
    request: EvaluationRequest
    diagnosed: bool


@dataclass(frozen=True)
class Work:
    """All that is missing of one network, as it is sent to a worker."""

    execution: Execution
    pieces: tuple[Piece, ...]
    training: TrainingRequest | None = None
    plugins: tuple[tuple[str, str], ...] = ()
    """Files with attacks and defenses, and the sha256 that each must have where it is run."""


@dataclass
class Outcome:
    """What came of a task."""

    done: list[str] = field(default_factory=list)
    """A line of text for each evaluation."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why lines failed, by their labels."""


def carry_out(work: Work) -> Outcome:
    """Train what has to be trained, then evaluate it; what fails is told, and the rest is done."""
    outcome = Outcome()
    Reporter("", 1, quiet=work.execution.quiet).say(f"{', '.join(dict.fromkeys(piece.label for piece in work.pieces))}:")
    try:
        for file, digest in work.plugins:
            _load(Path(file), digest)
        if work.training:
            trained(work.training, work.execution)
    except Exception as error:
        outcome.failed = {piece.label: _reason(error) for piece in work.pieces}
    else:
        for piece in work.pieces:
            try:
                card, _, _ = evaluated(piece.request, work.execution, diagnosed=piece.diagnosed)
                verdict = f", {card.verdict}" if card.verdict else ""
                outcome.done.append(f"{piece.label}: {card.robust_accuracy:.1%} of {card.n} under {card.plan.name}{verdict}")
            except Exception as error:
                outcome.failed[piece.label] = f"{piece.request.plan.name}: {_reason(error)}"
    return outcome


def _load(file: Path, digest: str) -> None:
    if sha256(file) != digest:
        raise BadInput(f"plug-in {file} is another file here than where the board was begun; give every machine the same one")
    if not was_run(file):
        load_plugin(file)


def _reason(error: Exception) -> str:
    """A sentence about what a task could not go on from."""
    if isinstance(error, GauntletError):
        return plain(error)
    if out_of_memory(error):
        return "out of memory; try a smaller --batch-size, or fewer workers"
    if told := culprit(error):
        return plain(told)
    # A fault of ours: where it was raised is what its report needs.
    place = traceback.extract_tb(error.__traceback__)[-1]
    return plain(f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno}); please report this")


def work_of(standings: Sequence[Standing], execution: Execution, plugins: Sequence[Path] = ()) -> list[Work]:
    """The tasks that are left, those of the first seeds first."""
    homes: dict[object, list[Standing]] = {}
    for one in standings:
        if not one.done and not one.line.reason:
            homes.setdefault(one.home or one.line.asked[0].request.model, []).append(one)
    files = tuple((str(path), sha256(path)) for path in plugins)
    return [
        Work(
            execution,
            tuple(
                Piece(one.line.label, found.asked.request, found.asked.diagnosed)
                for one in group
                for found in one.evaluations
                if found.state != DONE
            ),
            group[0].line.training if group[0].training not in (None, DONE) else None,
            files,
        )
        for group in sorted(homes.values(), key=lambda group: group[0].line.seed)
    ]  # fmt: skip


def regenerate(
    works: Sequence[Work], executor: Executor, title: str, memory: Path, *, quiet: bool, together: bool
) -> dict[str, str]:
    """Carry out tasks; why lines failed, by their labels.

    memory: the file that failures are remembered in. together: several tasks at once, which do not tell of themselves.
    """
    failed: dict[str, str] = {}
    known = read_failures(memory)
    if together:
        works = [replace(work, execution=replace(work.execution, quiet=True)) for work in works]
    report = Reporter(title, len(works), quiet=quiet)
    # While tasks have bars of their own, this one only says what has ended.
    with report if together else nullcontext():
        for number, (place, came) in enumerate(executor.run(carry_out, works), 1):
            labels = [piece.label for piece in works[place].pieces]
            outcome = Outcome(failed=dict.fromkeys(labels, plain(came.text))) if isinstance(came, Failed) else came
            failed |= outcome.failed
            known = {label: why for label, why in known.items() if label not in labels} | outcome.failed
            write_failures(memory, known)
            told = [*outcome.done, *(f"{label}: FAILED: {reason}" for label, reason in outcome.failed.items())]
            report.advance(1, f"{number} of {len(works)}: {'; '.join(told)}", milestone=True)
    return failed


def note_skips(lines: Sequence[Line], results: Path) -> None:
    """Leave the reasons why defenses do not apply where the leaderboard finds them."""
    for line in lines:
        if line.reason and line.training:
            skip(line.reason, line.training, results)


def failures_file(board: Path, results: Path) -> Path:
    """Where it is remembered which lines of a board failed."""
    return results / f".board-{board.stem}.json"


def read_failures(path: Path) -> dict[str, str]:
    """Why lines failed when they were last tried."""
    try:
        content = read_json(path, LARGEST)
        return {str(label): str(reason) for label, reason in content["failed"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def write_failures(path: Path, failed: dict[str, str]) -> None:
    """Remember them; nothing where there are none."""
    if failed:
        write_text(path, json.dumps({"schema_version": 1, "failed": failed}, indent=2) + "\n")
    elif path.exists():
        path.unlink()
