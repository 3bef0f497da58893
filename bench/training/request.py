"""What a user asks to be trained, and the job that it is resolved into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from bench import data
from bench.core import Name, isolated
from bench.data import Dataset
from bench.errors import BadInput, Skipped
from bench.evaluation import Radius, Request, Source, choose_threat
from bench.models import architectures
from bench.plugins import Defense, annotations_of, code, file_digests
from bench.results import section
from bench.training.job import Job
from bench.training.recipe import configure


def _texts(settings: Any) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    try:
        return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    except (TypeError, ValueError) as error:
        raise BadInput(f"settings: {error}; give text, numbers, booleans or lists of these") from None


class TrainingRequest(Request):
    """A training as a user asks for it; what is left out is taken from the defense's presets and from the data."""

    defense: str
    dataset: Source = "digits"
    model: str | None = None
    """An architecture, such as "preact_resnet18?width=16"."""
    norm: str = "linf"
    eps: Radius | None = None
    seed: int = 0
    settings: Annotated[Mapping[str, str], BeforeValidator(_texts)] = {}
    """Hyper-parameters of the defense or the recipe, as text ({"epochs": "5"}); numbers and lists become text."""
    name: Name | None = None
    """The row's label."""

    def job(self, source: Dataset | None = None) -> Job:
        """The training, everything about it checked before anything is written; source: its images, where they are read."""
        source = source or data.load(self.dataset, "train")
        made, recipe, preferred = configure(self.defense, self.dataset, source.family, self.settings, source.classes)
        if type(made).loss is Defense.loss:
            raise BadInput(
                f"defense {self.defense!r} has no loss; write def loss(self, net, x, y, ctx) -> the scalar to minimise"
            )
        _require_declarations(made)
        threat = choose_threat(self.norm, self.eps, {}, source.family)
        if reason := made.skip(self.dataset, threat):
            raise Skipped(reason)
        arch = self.model or preferred or architectures.default_architecture(source.family)
        with isolated(self.seed):
            architectures.build(arch, source.shape, source.classes)
        digest = "" if self.dataset in data.CLASSES else source.digest
        own = {key: getattr(made, key) for key in made.hyper_parameters()}
        files = file_digests(f"defense {self.defense!r}", annotations_of(type(made)), own)
        name = self.name or self.defense
        digests = (digest, code("defense", self.defense), files)
        return Job(name, made, recipe, self.dataset, threat, arch, self.seed, *digests)


def _require_declarations(made: Defense) -> None:
    """BadInput where a defense declares something that nothing can be done with; before the first epoch."""
    kinds = {"updates": (int, "a number"), "snapshots": (Sequence, "shares"), "adaptive": (Sequence, "attack specifications")}
    for name, (kind, what) in kinds.items():
        found = getattr(made, name)()
        parts = found if name == "adaptive" and isinstance(found, Sequence) else ()
        if not isinstance(found, kind) or isinstance(found, str) or not all(isinstance(part, Mapping) for part in parts):
            raise BadInput(f"defense {made.name!r}: {name}() returned {type(found).__name__}, {str(found)[:60]}; return {what}")


def job_folder(job: Job, results: Path) -> Path:
    """Where a training lives: results/DATASET/THREAT/NAME-ARCH-sSEED-KEY."""
    arch = job.arch.replace("?", "-").replace("&", "-").replace("=", "")
    return section(results, job.dataset, job.threat) / f"{job.name}-{arch}-s{job.seed}-{job.key()}"
