"""What of a board is there already, told from its files alone: no network is loaded but those from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from bench import data
from bench.core import DRAWS, ThreatModel
from bench.data import Dataset
from bench.errors import BadInput, GauntletError
from bench.evaluation import Execution, Question
from bench.evaluation.left import finished as answered
from bench.evaluation.task import resolve
from bench.files import LOCK, below, busy, sha256
from bench.models import added_defense, samples_of, training_in
from bench.results import Card, FileInfo, read_card, section
from bench.runs.rows import Asked, Line
from bench.training import STATE
from bench.training.earlier import JOB, RECORD

State = Literal["done", "running", "partly", "stated", "missing", "failed", "skipped"]
DONE: State = "done"
STATED: State = "stated"
"""A card of which the records, the examples or the network are not here, as in a clone."""


class Found(NamedTuple):
    """An evaluation of a line as it lies there."""

    asked: Asked
    state: State
    card: Card | None = None
    folder: Path | None = None
    """Its own, where that is known."""


class Standing(NamedTuple):
    """A line as it lies there."""

    line: Line
    training: State | None
    """None where nothing is to be trained."""
    evaluations: tuple[Found, ...]
    reason: str = ""
    """Why it failed, or was left out."""
    home: Path | None = None
    """The folder that all of its evaluations go to, where that is known."""

    @property
    def cards(self) -> list[Path]:
        """Where the cards are that answer it, with their files or without."""
        return [(found.folder / "card.json").resolve() for found in self.evaluations if found.card and found.folder]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.training == "skipped" or all(found.state == DONE for found in self.evaluations)


@dataclass
class Survey:
    """Looks at the lines of one board; what they share is read once."""

    dataset: str
    execution: Execution
    failures: dict[str, str]
    """Why lines failed when they were last tried, by their labels."""
    _splits: dict[int | None, Dataset] = field(default_factory=dict)

    def look(self, line: Line) -> Standing:
        """How far a line is."""
        if line.reason and line.training:
            return Standing(line, "skipped", tuple(Found(asked, "skipped") for asked in line.asked), line.reason)
        reason, home = line.reason or self.failures.get(line.label, ""), line.home
        try:
            found = [self._found(line, asked) for asked in line.asked]
        except GauntletError as error:
            found, reason = [Found(asked, "missing") for asked in line.asked], str(error)
        if line.home and all(one.state == DONE for one in found):
            return Standing(line, DONE, tuple(found), home=home)
        training = self._training(line) if line.home else None
        if reason:
            found = [one if one.state in (DONE, STATED) else one._replace(state="failed") for one in found]
            training = training if training in (None, DONE) else "failed"
        home = home or next((one.folder.parent for one in found if one.folder), None)
        return Standing(line, training, tuple(found), reason, home)

    def _training(self, line: Line) -> State:
        assert line.home is not None
        if there(line):
            return DONE
        if busy(line.home / LOCK):
            return "running"
        return "partly" if any((line.home / file).exists() for file in (STATE, JOB)) else "missing"

    def _found(self, line: Line, asked: Asked) -> Found:
        """The evaluation: whole, begun or missing."""
        if not (line.home or line.reason or asked.request.model.startswith("robustbench:")):
            task = resolve(asked.request, self.execution)
            return _state(asked, answered(task), task.folder)
        cards = sorted(line.home.glob("*/card.json")) if line.home else self._of_others(asked)
        question = self._question(line, asked) if cards else None
        found = _state(asked, None, None, line.home)
        for path in cards:
            card = _readable(path)
            if not (card and question and _answers(card, path, question)):
                continue
            files = {_file(path.parent, file) for file in (card.records, card.archive, *(a.archive for a in card.additions))}
            if files == {"whole"} and not line.reason:
                return _state(asked, card, path.parent)
            if "harmed" not in files and found.state == "missing":
                found = Found(asked, STATED, card, path.parent)
        return found

    def _of_others(self, asked: Asked) -> list[Path]:
        """The cards of a network that is not here, or is downloaded, which is not done to find out."""
        threat = ThreatModel.parse(str(asked.request.norm), asked.request.eps[0])
        found = below(section(self.execution.results, self.dataset, threat), "card.json")
        return [path for path in found if (card := _readable(path)) and card.model.reference == asked.request.model]

    def _question(self, line: Line, asked: Asked) -> Question:
        """What is asked, but for the network."""
        request = asked.request
        own = line.job.defense if line.job else None
        threat = line.job.threat if line.job else ThreatModel.parse(str(request.norm), request.eps[0])
        defenses = [one for one in (own, added_defense(request.test_time)) if one]
        return Question.of(request, self._samples(line, request.n), [threat], defenses)

    def _samples(self, line: Line, n: int | None) -> Dataset:
        if self.dataset not in data.CLASSES:
            trained = training_in(line.home) if line.home else {}
            return samples_of(self.dataset, [trained], n)
        if n not in self._splits:
            self._splits[n] = samples_of(self.dataset, [{}], n)
        return self._splits[n]


def there(line: Line) -> bool:
    """Whether a line has the weights that are evaluated; a clone has the best ones, and not those of the last epoch."""
    assert line.home is not None
    assert line.job is not None
    weights = "ensemble.safetensors" if line.job.shares() else "best.safetensors"
    return all((line.home / file).exists() for file in (RECORD, weights)) and not (line.home / STATE).exists()


def _readable(path: Path) -> Card | None:
    try:
        return read_card(path)
    except BadInput:
        return None


def _answers(card: Card, path: Path, question: Question) -> bool:
    """Whether a card answers a question about the network that it says it is of."""
    if card.eot not in (1, question.request.eot or DRAWS):
        return False
    key = question.key(card.model.digest, card.model.answers, card.eot)
    return path.parent.name == f"{question.plan.name}-{key[:8]}"


def _file(folder: Path, file: FileInfo) -> Literal["whole", "harmed", "absent"]:
    """Whether a file that a card names lies beside it, with the bytes that it names."""
    try:
        return "whole" if sha256(folder / file.file) == file.sha256 else "harmed"
    except FileNotFoundError:
        return "absent"
    except OSError:
        return "harmed"


def _state(asked: Asked, card: Card | None, own: Path | None, home: Path | None = None) -> Found:
    """How far an evaluation is, by its own folder or, where that is not known, by those of its plan in the run's."""
    if card and (card.diagnosis or not asked.diagnosed):
        return Found(asked, DONE, card, own)
    plans = home.glob(f"{asked.request.plan.name}-*") if home else ()
    places = [own] if own else [folder for folder in plans if not (folder / "card.json").exists()]
    if any(busy(folder / LOCK) for folder in places):
        return Found(asked, "running", card, own)
    begun = card or any((folder / "units").exists() for folder in places)
    return Found(asked, "partly" if begun else "missing", card, own)
