"""From a question to a measurement: model and samples loaded, the measure taken, what came of it written beside the cards."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator
from torch import nn

from bench import data
from bench.core import ThreatModel, device
from bench.data import Dataset, in_turn
from bench.errors import BadInput
from bench.evaluation import Execution, Radius, Reference, Request, Source, choose_threat, home
from bench.files import Reporter, alone
from bench.measures.document import columns, number, whole, write
from bench.measures.entered import enter
from bench.measures.probe import Other, Probe
from bench.measures.registry import Found, Measure, get_measure
from bench.models import Subject, known_of, load_subject, samples_of
from bench.plugins import read_value
from bench.results import MEASURES, Measurement, section

PROTOCOL = 1
"""Part of every key; raised when the same question would be answered otherwise."""
BATCH = {"cpu": 256}
"""Samples at a time; elsewhere 1024."""
READ = "was there already and was read; --fresh measures anew"


def _options(given: Any) -> Any:
    return {k: read_value(v) if isinstance(v, str) else v for k, v in given.items()} if isinstance(given, Mapping) else given


class MeasureRequest(Request):
    """A question about a model that no attack answers; what is left out is taken from its training, else from the data."""

    model: Reference
    measure: str
    options: Annotated[Mapping[str, Any], BeforeValidator(_options)] = {}
    """Of the measure; texts are read as JSON where they are that."""
    against: Reference | None = None
    """Another model on the same samples, for measures that are of two."""
    dataset: Source | None = None
    split: Literal["test", "train"] = "test"
    norm: str | None = None
    eps: Radius | None = None
    seed: int = 0


class Answer(NamedTuple):
    """What came of a request."""

    found: Measurement
    path: Path
    told: str = ""


@dataclass(frozen=True)
class _Task:
    """A question with everything about it decided."""

    request: MeasureRequest
    measure: Measure
    options: dict[str, Any]
    subject: Subject
    other: Subject | None
    dataset: str
    samples: Dataset
    threat: ThreatModel
    kept: dict[int, Path]
    """The files of the epochs that the training kept."""
    key: str
    path: Path


@device.usual()
def measured(request: MeasureRequest, execution: Execution) -> Answer:
    """The measurement that answers a request, and its path: taken where it is not there yet, and entered into the cards of the
    same weights beside it."""
    task = _resolve(request, execution)
    answer = _taken(task, execution)
    cards = enter(answer.found, answer.path, Reporter(_title(task), 1, quiet=execution.quiet).tell)
    told = [answer.told, f"on the card of {', '.join(cards)}" if cards else ""]
    return answer._replace(told="; ".join(filter(None, told)))


def _title(task: _Task) -> str:
    return f"measure {task.measure.name} of {task.subject.label}"


def _taken(task: _Task, execution: Execution) -> Answer:
    place = task.path.with_suffix(".parts")
    if not execution.fresh:
        for found in whole(task.path):
            return Answer(found, task.path, READ)
    with Reporter(_title(task), 1, quiet=execution.quiet) as report, alone(place, report.tell), device.exact_float32():
        if execution.fresh:
            for left in place.glob("*.npy"):
                left.unlink()
        else:
            # Another process may have made it while this one waited.
            for found in whole(task.path):
                return Answer(found, task.path, READ)
        probe = _probe(task, execution, report, place)
        found = write(task.path, _document(task, came := task.measure.run(probe, **task.options)), came.arrays)
        shutil.rmtree(place, ignore_errors=True)
    return Answer(found, task.path)


def _resolve(request: MeasureRequest, execution: Execution) -> _Task:
    """Decide everything; a user's mistake is told here, before anything is computed or written."""
    measure = get_measure(request.measure)
    options = measure.configure(request.options)
    known = [known_of(reference) for reference in (request.model, request.against) if reference]
    dataset = request.dataset or known[0].dataset
    samples = _samples(dataset, request.split, [each.seen for each in known], options["n"])
    threat = choose_threat(request.norm, request.eps, known[0].threat, samples.family)
    load = partial(_repeats, samples=samples, dataset=dataset, seed=request.seed)
    subject = load(request.model)
    other = load(request.against) if request.against else None
    kept = _kept(subject) if options.get("checkpoints") else {}
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in kept.values()]
    identity = [str(part.identity) for part in (subject, other) if part]
    key = [PROTOCOL, measure.name, options, identity, files, samples.digest, str(threat), request.seed]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = home(subject.model, section(execution.results, dataset, threat)) / MEASURES
    path = folder / f"{measure.name}-{digest[:8]}.json"
    return _Task(request, measure, options, subject, other, dataset, samples, threat, kept, digest, path)


def _samples(dataset: str, split: str, trained: list[dict[str, Any]], n: int) -> Dataset:
    """n samples, the classes in turn: a fixed choice, the same for every model of a data set."""
    if split == "train":
        every = data.load(dataset, "train")
    else:
        every = samples_of(dataset, trained, None)
        every = every if len(every) >= n else samples_of(dataset, trained, n)
    return every.select(in_turn(every.y)[: len(every.first(n))])


def _repeats(reference: str, samples: Dataset, dataset: str, seed: int) -> Subject:
    """A model that answers an image always alike; a measure of any other would be one of chance."""
    subject = load_subject(reference, samples, dataset, seed)
    if subject.noisy or subject.batch_dependent:
        why = "answers at random" if subject.noisy else "answers an image by the company it is in"
        raise BadInput(f"{reference} {why}, and measures are of networks that repeat themselves; name its inner network")
    return subject


def _kept(subject: Subject) -> dict[int, Path]:
    """The weights of the epochs that a training kept, by their number."""
    run = subject.model.run
    named = {} if run is None else {path: re.fullmatch(r"epoch-(\d+)", path.stem) for path in run.glob("epoch-*.safetensors")}
    found = {int(match[1]): path for path, match in named.items() if match}
    if len(found) < 2:
        raise BadInput(
            f"{subject.model.reference} keeps weights of {len(found)} epochs, and their course needs at least 2; "
            "train with --set keep_every=5"
        )
    return dict(sorted(found.items()))


def _probe(task: _Task, execution: Execution, report: Reporter, place: Path) -> Probe:
    where = device.pick(execution.device)
    samples = task.samples.to(where)
    x, y = samples.batch(torch.arange(len(samples)))

    def load(path: Path) -> nn.Module:
        reference = f"run:{path.parent}?weights={path.stem}"
        return _repeats(reference, task.samples, task.dataset, task.request.seed).model.net.to(where)

    return Probe(
        net=task.subject.model.net.to(where), x=x, y=y, ids=samples.ids, classes=samples.classes, threat=task.threat,
        seed=task.request.seed, batch=execution.batch_size or BATCH.get(where.type, 1024), trained=task.subject.trained,
        report=report, place=place, train=partial(_training_images, task),
        against=task.other and Other(task.other.label, task.other.model.net.to(where)),
        kept=lambda: [(epoch, load(path)) for epoch, path in task.kept.items()],
    )  # fmt: skip


def _training_images(task: _Task) -> Dataset:
    """What the network was trained on, less what selected its epoch."""
    every = data.load(task.dataset, "train")
    held = task.subject.trained.get("settings", {}).get("validation")
    return data.hold_out(every, held)[0] if held else every


def _document(task: _Task, came: Found) -> Measurement:
    other = {"against": f"{task.other.label}, weights {task.other.model.digest[:8]}"} if task.other else {}
    settings = {**task.options, **other}
    return Measurement(
        measure=task.measure.name, about=task.measure.about, model=task.subject.label, digest=task.subject.model.digest,
        data=Path(task.dataset).name, split=task.request.split, data_digest=task.samples.digest, norm=task.threat.norm,
        eps=task.threat.eps_text, seed=task.request.seed, settings=json.loads(json.dumps(settings, default=str)),
        values={name: number(float(value)) for name, value in came.values.items()},
        curves={name: columns(curve) for name, curve in came.curves.items()}, notes=came.notes,
    )  # fmt: skip
