"""What a user asks to be trained, and the job that it is resolved into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench import data
from bench.core import isolated
from bench.errors import BadInput, Skipped
from bench.evaluation import Request, choose_threat
from bench.models import architectures
from bench.plugins import Defense, code
from bench.results import section
from bench.training.job import Job
from bench.training.recipe import configure


class TrainingRequest(Request):
    """A training as a user asks for it; what is left out is taken from the defense's presets and from the data."""

    defense: str
    dataset: str = "digits"
    model: str | None = None
    """An architecture, such as "preact_resnet18?width=16"."""
    norm: str = "linf"
    eps: str | None = None
    seed: int = 0
    settings: Mapping[str, str] = {}
    """Hyper-parameters of the defense or the recipe, as text ({"epochs": "5"})."""
    name: str | None = None
    """The row's label."""

    def job(self) -> Job:
        """The training, everything about it checked before anything is written."""
        if self.name is not None:
            _check_name(self.name)
        source = data.load(self.dataset, "train")
        made, recipe, preferred = configure(self.defense, self.dataset, source.family, self.settings, source.classes)
        if type(made).loss is Defense.loss:
            raise BadInput(
                f"defense {self.defense!r} has no loss; write def loss(self, net, x, y, ctx) -> the scalar to minimise"
            )
        threat = choose_threat(self.norm, self.eps, {}, source.family)
        if reason := made.skip(self.dataset, threat):
            raise Skipped(reason)
        arch = self.model or preferred or architectures.default_architecture(source.family)
        with isolated(self.seed):
            architectures.build(arch, source.shape, source.classes)
        digest = "" if self.dataset in data.CLASSES else source.digest
        digests = (digest, code("defense", self.defense))
        return Job(self.name or self.defense, made, recipe, self.dataset, threat, arch, self.seed, *digests)


def _check_name(name: str) -> None:
    if set(name) & {"/", "\\"} or name[:1] in ("", ".", "-") or not name.isprintable() or len(name) > 100:
        raise BadInput(f"name {name!r} becomes a part of a folder's name; give up to 100 characters without slashes")


def job_folder(job: Job, results: Path) -> Path:
    """Where a training lives: results/DATASET/THREAT/NAME-ARCH-sSEED-KEY."""
    arch = job.arch.replace("?", "-").replace("&", "-").replace("=", "")
    return section(results, job.dataset, job.threat) / f"{job.name}-{arch}-s{job.seed}-{job.key()}"
