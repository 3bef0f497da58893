"""A request with everything about it decided: model and samples loaded, radii, plan and place on disk chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from bench.core import DRAWS, ThreatModel, device, isolated
from bench.data import Dataset
from bench.evaluation.request import EvaluationRequest, Execution, choose_threat
from bench.models import Model, Subject, check_outputs, files_of, known_of, load_subject, samples_of, spelt
from bench.plans import Arm, Plan, Portfolio
from bench.plugins import Defense, Kind, file_digests, registry
from bench.results import section

PROTOCOL = 2
"""Part of an evaluation's key; raised when the same plan would find something else."""
GRIDS = "restarts begin before the grid"
"""Part of the key where a plan has a grid; rewritten when such a plan would find something else."""


class Question(NamedTuple):
    """What an answer depends on besides the network, whose weights need not be here."""

    request: EvaluationRequest
    data: str
    """Digest of the samples."""
    n: int
    balls: tuple[ThreatModel, ...]
    plan: Plan
    """With every parameter written out, and with what the defenses declare for their own fair attacker."""
    code: dict[str, str]
    files: dict[str, str]

    @classmethod
    def of(
        cls, request: EvaluationRequest, samples: Dataset, balls: Sequence[ThreatModel], defenses: Sequence[Defense]
    ) -> Question:
        """The question about a network with these defenses, the one it was trained with and the one added at test time."""
        plan = request.plan
        for defense in defenses:
            plan = plan.extended(defense.adaptive())
        plan = plan.resolved(balls[-1])
        files = {**files_of(defenses), **_files_of(plan)}
        return cls(request, samples.digest, len(samples), tuple(balls), plan, _foreign_code(defenses, plan), files)

    def key(self, model: str, answers: str, draws: int) -> str:
        """sha256 of everything that the answer depends on; of the network its digest, and its answers where they tell more."""
        # What is the default adds nothing, so that a row keeps its folder.
        grids = GRIDS if any(getattr(spec, "grid", None) for spec in self.plan.attacks) else ""
        rest = [self.request.seed, draws, *filter(None, [self.request.test_time, self.code, answers, self.files, grids])]
        key = [PROTOCOL, model, self.data, " ".join(map(str, self.balls)), self.plan.digest, self.n, *rest]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """One evaluation, everything about it decided."""

    request: EvaluationRequest
    subject: Subject
    dataset: str
    data: Dataset
    """The samples, on the device."""
    balls: Sequence[ThreatModel]
    """One, or those of a sweep, smallest first."""
    plan: Plan
    """With every parameter written out, and with what the defenses declare for their own fair attacker."""
    draws: int
    """Answers that attacks see the mean of."""
    code: dict[str, str]
    """Digests of the defenses and attacks that take part and are not ours."""
    files: dict[str, str]
    """Digests of the files that settings of defenses and attacks name."""
    key: str
    """sha256 of all of these: of everything that the answer depends on."""
    folder: Path
    where: torch.device
    batch_size: int
    quiet: bool

    @property
    def label(self) -> str:
        """The row's."""
        return self.request.name or self.subject.label


def resolve(request: EvaluationRequest, execution: Execution) -> Task:
    """Decide everything about an evaluation; a user's mistake is told here, before anything is attacked or written."""
    request = request.model_copy(update={"test_time": spelt(request.test_time)})
    known = known_of(request.model)
    dataset = request.dataset or known.dataset
    where = device.pick(execution.device)
    samples = samples_of(dataset, [known.seen], request.n)
    balls = [choose_threat(request.norm, radius, known.threat, samples.family) for radius in request.eps or (None,)]
    subject = load_subject(request.model, samples, dataset, request.seed, request.test_time, known.trained)
    if where.type != "cpu":
        # What a network keeps outside its parameters and buffers stays behind, which shows only there.
        with isolated(request.seed):
            net, first = subject.model.net.to(where), subject.first[0].to(where)
            check_outputs(net, first, samples.classes, f"{request.model} on {where}", at_least=True)
    draws = (DRAWS if request.eot is None else request.eot) if subject.noisy else 1
    asked = Question.of(request, samples, balls, subject.defenses)
    digest, plan = asked.key(subject.model.digest, subject.answers.digest, draws), asked.plan
    folder = home(subject.model, section(execution.results, dataset, balls[-1])) / f"{plan.name}-{digest[:8]}"
    size = max((execution.batch_size or (256 if where.type == "cpu" else 1024)) // draws, 1)
    return Task(
        request, subject, dataset, samples.to(where), balls, plan, draws, asked.code, asked.files, digest, folder, where,
        size, execution.quiet,
    )  # fmt: skip


def home(model: Model, place: Path) -> Path:
    """The folder that the evaluations of a model share: its run's, where it has one."""
    return model.run or place / f"{model.name}-{model.digest[:8]}"


def _foreign_code(defenses: Sequence[Defense], plan: Plan) -> dict[str, str]:
    """A digest of the code of every defense and attack that takes part and is not ours."""
    names: list[tuple[Kind, str]] = [("defense", defense.name) for defense in defenses]
    names += [("attack", arm.attack) for arm in _arms(plan)]
    found = {f"{kind} {name}": registry.code(kind, name) for kind, name in names}
    return {name: digest for name, digest in sorted(found.items()) if digest}


def _files_of(plan: Plan) -> dict[str, str]:
    """Digests of the files that parameters of attacks name."""
    found: dict[str, str] = {}
    for arm in _arms(plan):
        hints = registry.get_attack(arm.attack).hints
        digests = file_digests(f"attack {arm.attack!r}", hints, arm.parameters)
        found |= {f"attack {arm.label} {key}": digest for key, digest in digests.items()}
    return found


def _arms(plan: Plan) -> Iterator[Arm]:
    """Every attack that a plan may run."""
    for entry in plan.attacks:
        yield from entry.every if isinstance(entry, Portfolio) else (entry,)
