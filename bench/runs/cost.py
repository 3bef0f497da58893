"""How long a training or an evaluation will take here: as long as those of its kind took, else as a measured batch says."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from bench import data
from bench.core import DRAWS, Expectation, ask, device, randomised
from bench.data import Dataset
from bench.errors import BadInput, GauntletError
from bench.evaluation import EvaluationRequest, choose_threat
from bench.files import Reporter, below, read_json
from bench.models import added_defense, answering, build, resolve, samples_of
from bench.plans import AttackSpec, Plan, Portfolio
from bench.results import Card, read_card
from bench.runs.rows import Line
from bench.runs.standing import DONE, STATED, Found, Standing
from bench.training import Job, Trainer
from bench.training.earlier import RECORD

SMALL, LARGE, QUICK = 16, 128, 0.25
"""Images of a batch that is measured first, of one that is measured where that took at most so many seconds."""
APGD, FAB, SQUARE = 100 * 3, 100 * 5, 5000
"""Forward-equivalents of an iteration count: a backward pass is two."""
REFERENCE = APGD + 9 * APGD + 9 * FAB + SQUARE
"""Of the reference AutoAttack on a sample that it does not break: APGD on the cross-entropy, then on 9 targets, FAB, Square."""
HERE = ("ckpt", "run")
"""References to weights that lie in files."""
LATE = 0.9
"""Share of a training at which its batch is measured."""
DIAGNOSIS = 0.5
"""What a diagnosis takes of its evaluation, where no card of the plan tells."""

SOURCES = {
    "records": "trainings like it on this kind of device, for each epoch",
    "batch": "a batch of it, measured now",
    "cards": "evaluations like it on this kind of device, for each sample",
    "card": "the evaluation that lacks a diagnosis, and what others took",
    "passes": "passes of evaluations with this plan, and a pass measured now",
    "bound": "the most passes that the plan can take, and a pass measured now: at most",
    "unknown": "nothing, and not counted",
}
"""What a time is told from."""


class Cost(NamedTuple):
    """Seconds, and what they were told from."""

    seconds: float
    source: str
    """A key of SOURCES."""


class Prices:
    """What trainings and evaluations have cost on this device, by their kind."""

    def __init__(self, results: Path, device_name: str) -> None:
        self.where = device.pick(device_name)
        self._trainings: dict[str, list[float]] = defaultdict(list)
        self._evaluations: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._passes: dict[str, list[float]] = defaultdict(list)
        self._diagnoses: dict[str, list[float]] = defaultdict(list)
        self._measured: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        own = _kind_of(device.describe(self.where))
        for path in below(results, RECORD):
            self._know_training(path, own)
        for path in below(results, "card.json"):
            self._know_card(path, own)

    def of(self, standing: Standing) -> list[Cost]:
        """What is left of a line: its training, if any is left, and each evaluation that is not done."""
        line, found = standing.line, []
        if standing.done:
            return []
        if standing.training not in (None, DONE) and line.job:
            found.append(self._training(line.job))
        return found + [self._evaluation(line, one) for one in standing.evaluations if one.state != DONE]

    def of_all(self, standings: Sequence[Standing]) -> dict[str, list[Cost]]:
        """The same of many lines, by their labels; a training that two lines have in common counts once."""
        found, trained = {}, set()
        for one in standings:
            found[one.line.label] = self.of(one._replace(training=DONE) if one.home in trained else one)
            trained.add(one.line.home)
        return found

    def _know_training(self, path: Path, own: str) -> None:
        try:
            record = read_json(path)
            training = record["training"]
            if _kind_of(training["device"]) == own:
                kind = _kind(record["defense"], record["arch"], record["dataset"], record["settings"])
                self._trainings[kind].append(training["seconds"] / training["epochs"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
            return

    def _know_card(self, path: Path, own: str) -> None:
        try:
            card = read_card(path)
        except BadInput:
            return
        self._passes[card.plan.name].append(_spent(card))
        if card.diagnosis and card.seconds:
            self._diagnoses[card.plan.name].append(card.diagnosis.seconds / card.seconds)
        if _kind_of(card.device) == own:
            kind = (card.plan_digest, card.model.arch, card.dataset, _around(card.wrapper, card.model.test_time))
            for key in (kind, (*kind, str(card.model.defense))):
                self._evaluations[key].append(card.seconds / card.n)

    def _training(self, job: Job) -> Cost:
        known = self._trainings.get(_kind(job.defense.name, job.arch, job.dataset, job.settings()))
        if known:
            return Cost(statistics.median(known) * job.recipe.epochs, "records")
        try:
            return Cost(_batch_seconds(job, self.where), "batch")
        except GauntletError:
            # What is wrong with it is told when it is trained.
            return Cost(0.0, "unknown")

    def _evaluation(self, line: Line, found: Found) -> Cost:
        share = self._diagnosis(found.asked.request.plan.name)
        if found.card and found.state != STATED:
            return Cost(found.card.seconds * share, "card")
        seconds, source = self._attacks(line, found.asked.request)
        return Cost(seconds * (1 + share) if found.asked.diagnosed else seconds, source)

    def _diagnosis(self, plan: str) -> float:
        """The share of an evaluation under this plan that its diagnosis takes on top."""
        return statistics.median(self._diagnoses.get(plan, [DIAGNOSIS]))

    def _attacks(self, line: Line, request: EvaluationRequest) -> Cost:
        try:
            asked = _trained(request, line.job) if line.job else _external(request)
        except GauntletError:
            # What is wrong with it is told when it is evaluated.
            return Cost(0.0, "unknown")
        plan, n = asked.plan, request.n or self._usual(asked.dataset)
        kind = (plan.digest, asked.arch, asked.dataset, _around(asked.wrapper, request.test_time))
        # What stands costs more than what falls, so the same defense tells best.
        if known := self._evaluations.get((*kind, asked.defense)) or self._evaluations.get(kind):
            return Cost(statistics.median(known) * n, "cards")
        try:
            each = self._pass(asked)
        except Exception:  # whatever a plug-in raises; it is told when it is evaluated
            return Cost(0.0, "unknown")
        if known := self._passes.get(plan.name):
            return Cost(statistics.median(known) * n * each, "passes")
        return Cost(_most_passes(plan) * n * each, "bound")

    def _usual(self, dataset: str) -> int:
        """Samples of an evaluation that does not say how many."""
        if dataset not in self._sizes:
            self._sizes[dataset] = len(samples_of(dataset, [{}], None))
        return self._sizes[dataset]

    def _pass(self, asked: _Asked) -> float:
        """Seconds of a forward pass of one image, of all draws of a network that answers at random."""
        key = f"{asked.arch} {asked.dataset} {asked.around}"
        if key not in self._measured:
            self._measured[key] = _forward_seconds(asked, self.where)
        return self._measured[key]


class _Asked(NamedTuple):
    """What an evaluation that has not been made is of."""

    plan: Plan
    dataset: str
    arch: str
    defense: str
    build: Callable[[Dataset], nn.Module]
    """The network, or one of its shape, for samples like these."""
    draws: int
    """Answers that are averaged, where it answers at random."""
    around: str = ""
    """What stands around the network at test time, with its settings."""
    wrapper: str = ""
    """The defense that it is trained with, where that is a part of it."""


def _trained(request: EvaluationRequest, job: Job) -> _Asked:
    plan = request.plan.extended(job.defense.adaptive()).resolved(job.threat)
    defenses = [one for one in (job.defense, added_defense(request.test_time)) if one]

    def built(samples: Dataset) -> nn.Module:
        return answering(build(job.arch, samples.shape, samples.classes), defenses, job.dataset)

    draws = DRAWS if request.eot is None else request.eot
    around = " ".join(repr(one) for one in defenses if one.answers_otherwise())
    wrapper = job.defense.name if job.defense.answers_otherwise() else ""
    return _Asked(plan, job.dataset, job.arch, job.defense.name, built, draws, around, wrapper)


def _external(request: EvaluationRequest) -> _Asked:
    """Of a network in a file here; nothing is fetched, and no code is run, to say how long something takes."""
    if request.model.partition(":")[0] not in HERE:
        raise BadInput(f"{request.model} is not a file of weights")
    first = data.load(request.dataset or "", "test").first(1)
    threat = choose_threat(request.norm, request.eps[0], {}, first.family)
    model = resolve(request.model, first.shape, first.classes, run_code=False)
    plan, draws = request.plan.resolved(threat), DRAWS if request.eot is None else request.eot
    return _Asked(plan, request.dataset or "", model.arch, "None", lambda _: model.net, draws)


def _kind_of(described: str) -> str:
    """A device without its number of threads."""
    return described.partition(",")[0]


def _kind(defense: str, arch: str, dataset: str, settings: Mapping[str, Any]) -> str:
    """What trainings of one cost for each epoch have in common."""
    return json.dumps(
        [defense, arch, dataset, {key: value for key, value in settings.items() if key != "epochs"}], sort_keys=True
    )


def _around(wrapper: str, test_time: str) -> str:
    """By name what stands around a network, which may cost many times what the network does."""
    return f"{wrapper} {test_time}".strip()


def _spent(card: Card) -> float:
    """Forward-equivalents for each sample of an evaluation."""
    return sum((one.forwards + 2 * one.backwards) * one.attempted for one in card.attacks) / card.n


def _batch_seconds(job: Job, where: torch.device) -> float:
    """A whole training, as a batch late in it says: what warms up is at its full cost."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(job, Path(folder), where, Reporter("", 1, quiet=True))
        trainer.net.train()
        epoch, images = int(LATE * job.recipe.epochs), torch.arange(len(trainer.train_data), device=where)

        def batch(size: int) -> None:
            float(trainer.updates.batch(images[:size], epoch, LATE, 0.0))

        return _each(batch, job.recipe.batch_size) * len(images) * job.recipe.epochs


def _forward_seconds(asked: _Asked, where: torch.device) -> float:
    """A third of a forward and a backward pass of an image among others."""
    samples = data.load(asked.dataset, "test").first(LARGE).to(where)
    net = asked.build(samples).to(where).eval()
    x, y = samples.batch(torch.arange(len(samples)))
    net = Expectation(net, asked.draws) if randomised(net, x[:SMALL], 0) else net

    def both(size: int) -> None:
        near = x[:size].requires_grad_()
        # The images themselves have a gradient where the answers have none.
        loss = functional.cross_entropy(ask(net, near), y[:size]) + 0 * near.sum()
        float(torch.autograd.grad(loss, near)[0].sum())

    return _each(both, LARGE) / 3


def _each(work: Callable[[int], None], size: int) -> float:
    """Seconds of one image in a batch of this size, or of a small one where that takes long: the best of a few times."""

    def took(part: int) -> float:
        began = time.perf_counter()
        work(part)
        return time.perf_counter() - began

    small = min(SMALL, size)
    seconds = min(took(small) for _ in range(2))
    return seconds / small if seconds > QUICK else min(took(size) for _ in range(3)) / size


def _most_passes(plan: Plan) -> float:
    """Forward-equivalents of a plan on a sample that nothing breaks."""
    return sum(_of_entry(entry) for entry in plan.attacks)


def _of_entry(entry: AttackSpec | Portfolio) -> float:
    if isinstance(entry, Portfolio):
        return entry.budget
    if entry.attack == "autoattack":
        return REFERENCE
    values = entry.parameters
    count = values.get("queries") or 3 * values.get("steps", 1) * max(values.get("targets") or 1, 1)
    return float(count) * entry.restarts
