"""The rows of a board as work: a training and the evaluations of what comes out of it, for each row, seed and threat model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench import data
from bench.core import ThreatModel
from bench.data import Dataset
from bench.errors import BadInput, GauntletError, Skipped, UnknownName
from bench.evaluation import EvaluationRequest
from bench.models import added_defense, spelt
from bench.plans import load as load_plan
from bench.plugins import was_run
from bench.runs.board import Board, External, Measured, Row, Subject, settings_text
from bench.training import Job, TrainingRequest, job_folder

Kind = Literal["rows", "external", "broken"]


class Asked(NamedTuple):
    """An evaluation of a line."""

    request: EvaluationRequest
    diagnosed: bool
    """Whether the board or the plan asks if the number can be trusted."""


@dataclass(frozen=True)
class Line:
    """One network of a board: a row at a point of its grid, in one ball, with one seed."""

    row: str
    """What tells its row from every other."""
    name: str
    """As a table has it."""
    kind: Kind
    subject: Subject
    threat: str
    asked: tuple[Asked, ...]
    training: TrainingRequest | None = None
    job: Job | None = None
    home: Path | None = None
    """The run folder; None where only the network itself says which it is."""
    reason: str = ""
    """Why there is nothing to measure: the defense does not apply, or the network is not here."""

    @property
    def seed(self) -> int:
        """Of the training; 0 where there is none."""
        return self.training.seed if self.training else 0

    @property
    def label(self) -> str:
        """What tells it from every other line."""
        return f"{self.row} seed {self.seed}" if self.training else self.row


def lines_of(board: Board, path: Path, results: Path) -> list[Line]:
    """Every line of a board, in the order of its file; a mistake in any of them is told before anything is trained."""
    try:
        images = data.load(board.dataset, "train") if board.rows or board.broken else None
        test = data.load(board.dataset, "test") if board.dataset in data.CLASSES else None
    except GauntletError as error:
        raise BadInput(f"board {path}: dataset: {error}") from None
    kinds: dict[Kind, Sequence[Row | External]] = {"rows": board.rows, "external": board.external, "broken": board.broken}
    found: list[Line] = []
    for kind, place, row in ((kind, place, row) for kind, rows in kinds.items() for place, row in enumerate(rows, 1)):
        called = row.reference if isinstance(row, External) else row.defense
        try:
            own = [*(_external(board, row) if isinstance(row, External) else _trained(board, row, kind, images, results))]
            if test:
                for n in {each.request.n for line in own for each in line.asked}:
                    test.first(n)
            if twice := {line.label for line in own} & {line.label for line in found}:
                raise BadInput(f"{min(twice)} is another row already; give one of them a name")
        except GauntletError as error:
            raise BadInput(f"board {path}: {kind} {place} ({called}): {error}") from None
        found += own
    return found


def chosen(lines: list[Line], patterns: Sequence[str] = (), plans: Sequence[str] = ()) -> list[Line]:
    """The lines that names or shell patterns mean, by the name of their row or by all of their label; all where none is given.

    plans: with those of their evaluations alone whose plan has such a name, or fits such a pattern.
    """
    for pattern in patterns:
        if not any(_meant(one, pattern) for one in lines):
            raise UnknownName("row", pattern, {*(one.name for one in lines), *(one.row for one in lines)})
    found = [one for one in lines if not patterns or any(_meant(one, pattern) for pattern in patterns)]
    if not plans:
        return found
    known = {each.request.plan.name for one in found for each in one.asked}
    for pattern in plans:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UnknownName("plan of these rows", pattern, known)
    meant = {name for name in known if any(fnmatchcase(name, pattern) for pattern in plans)}
    kept = [replace(one, asked=tuple(each for each in one.asked if each.request.plan.name in meant)) for one in found]
    return [one for one in kept if one.asked]


def _meant(line: Line, pattern: str) -> bool:
    return pattern == line.name or any(fnmatchcase(text, pattern) for text in (line.row, line.label))


def _trained(board: Board, row: Row, kind: Kind, images: Dataset | None, results: Path) -> Iterator[Line]:
    """The lines of a defense: each point of its grid in each ball with each seed."""
    measures, threats = board.measures(row), row.threat or board.threat
    for point in row.points():
        settings: dict[str, Any] = {**board.settings, **row.settings, **point}
        for threat in threats:
            norm, eps = threat.split(" ")
            request = TrainingRequest(
                defense=row.defense, dataset=board.dataset, model=row.model or board.model, norm=norm, eps=eps,
                settings=settings, name=row.name,
            )  # fmt: skip
            job, reason = None, ""
            try:
                job = request.job(images)
            except Skipped as error:
                reason = str(error)
            name = row.name or row.defense
            own = {} if row.name else {**({"model": row.model} if row.model else {}), **row.settings}
            apart = settings_text({**own, **point})
            told = _words(name, row.test_time and f"+ {row.test_time}", apart, _own(threat, row, board))
            for seed in dict.fromkeys(seed for measure in measures for seed in measure.seeds):
                seeded = replace(job, seed=seed) if job else None
                home = job_folder(seeded, results) if seeded else None
                asked = _asked((one for one in measures if seed in one.seeds), row, job, model=str(home))
                training = request.model_copy(update={"seed": seed})
                yield Line(told, name, kind, row, threat, asked, training, seeded, home, reason)


def _external(board: Board, row: External) -> Iterator[Line]:
    """The lines of a network from elsewhere: one in each ball."""
    kind, _, rest = row.reference.partition(":")
    if kind not in ("ckpt", "py", "robustbench"):
        raise BadInput("it is no network from elsewhere; write ckpt:FILE, py:FILE.py:factory or robustbench:NAME")
    file, _, factory = rest.rpartition(":") if kind == "py" else rest.partition("?")
    reason = ""
    if kind != "robustbench" and not Path(file).is_file():
        reason = f"there is no file at {file}"
    elif kind == "py" and not was_run(Path(file)):
        reason = f"it is code, which runs only when you name it: add --plugin {file}"
    threats, name = row.threat or board.threat, row.name or (factory if kind == "py" else Path(file).stem)
    for threat in threats:
        norm, eps = threat.split(" ")
        asked = _asked(
            board.measures(row), row, None, model=row.reference, dataset=board.dataset, norm=norm, eps=(eps,), name=row.name
        )
        told = _words(name, row.test_time and f"+ {row.test_time}", _own(threat, row, board))
        yield Line(told, name, "external", row, threat, asked, reason=reason)


def _asked(measures: Iterable[Measured], row: Subject, job: Job | None, **given: Any) -> tuple[Asked, ...]:
    """The evaluations of a line; a plan that does not fit its ball is told here."""
    found = []
    added_defense(row.test_time)
    for measure in measures:
        plan = load_plan(measure.plan)
        if job:
            plan.extended(job.defense.adaptive()).resolved(job.threat)
        elif "norm" in given:
            plan.resolved(ThreatModel.parse(given["norm"], given["eps"][0]))
        request = EvaluationRequest(plan=plan, n=measure.n, test_time=spelt(row.test_time), eot=row.eot, **given)
        found.append(Asked(request, measure.diagnose or plan.diagnose))
    return tuple(found)


def _own(threat: str, row: Subject, board: Board) -> str:
    """The ball, where a row has several, or one that is not the board's."""
    return "" if (row.threat or board.threat) == (threat,) == board.threat else threat


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)
