"""Train a defense and evaluate what came out: each half is done only where it is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core import device
from bench.core.rng import isolated
from bench.data import datasets as data
from bench.errors import BadInput, Skipped
from bench.evaluation.evaluation import choose_threat, evaluate, folder_name
from bench.files.lock import LOCK, alone, bury
from bench.files.progress import Reporter
from bench.files.whole import write_text
from bench.models import architectures
from bench.plans import built_in as plans
from bench.plugins.registry import code
from bench.results.card import Card
from bench.training.job import Job
from bench.training.loop import Trainer, finished
from bench.training.recipe import configure

SKIP_SCHEMA = 1
"""Of the file that says why a defense has no row."""


def train(
    defense: str,
    *,
    dataset: str = "digits",
    model: str | None = None,
    norm: str = "linf",
    eps: str | None = None,
    seed: int = 0,
    settings: Mapping[str, str] | None = None,
    name: str | None = None,
    results: Path = Path("results"),
    device_name: str = "auto",
    quiet: bool = False,
) -> Path:
    """Train a defense and return its run folder; a training that was interrupted goes on, a finished one is left alone.

    settings: hyper-parameters of the defense or the recipe, as text ({"epochs": "5"}).
    """
    job = plan_job(defense, dataset=dataset, model=model, norm=norm, eps=eps, seed=seed, settings=settings, name=name)
    folder = job_folder(job, results)
    if not finished(folder):
        where = device.pick(device_name)
        with Reporter(f"train {job.name} seed {seed}", job.recipe.epochs, quiet=quiet) as report, alone(folder, report.tell):
            # Another process may have finished it while this one waited.
            if not finished(folder):
                Trainer(job, folder, where, report).run()
    bury(folder / LOCK)
    return folder


def run(
    defense: str,
    *,
    seeds: int = 1,
    seed: int = 0,
    plan_name: str = "fast",
    n: int | None = None,
    results: Path = Path("results"),
    device_name: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
    **training: Any,
) -> list[tuple[Card, Path]]:
    """Train with seeds seed, seed + 1, ... and evaluate each; returns the cards and where they are."""
    job = plan_job(defense, seed=seed, **training)
    # A misspelt plan must not wait for the end of a long training.
    plans.load(plan_name).resolved(job.threat)
    data.load(job.dataset, "test").first(n)
    device.pick(device_name)
    rows = []
    for current in range(seed, seed + seeds):
        folder = train(defense, seed=current, results=results, device_name=device_name, quiet=quiet, **training)
        rows.append(
            evaluate(
                str(folder),
                plan_name=plan_name,
                n=n,
                results=results,
                device_name=device_name,
                batch_size=batch_size,
                quiet=quiet,
            )
        )
    return rows


def skip(reason: str, defense: str, dataset: str, norm: str, eps: str | None, results: Path) -> Path:
    """Leave the reason why a defense has no row where the leaderboard finds it."""
    threat = choose_threat(norm, eps, {}, data.load(dataset, "train").family)
    path = results / Path(dataset).stem / folder_name(threat) / f"{defense}-skipped.json"
    content = {"schema_version": SKIP_SCHEMA, "name": defense, "dataset": dataset, "threat": str(threat), "reason": reason}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path


def plan_job(
    defense: str,
    *,
    dataset: str = "digits",
    model: str | None = None,
    norm: str = "linf",
    eps: str | None = None,
    seed: int = 0,
    settings: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Job:
    """Check everything about a training before anything is written."""
    if name is not None and (
        set(name) & {"/", "\\"} or name[:1] in ("", ".", "-") or not name.isprintable() or len(name) > 100
    ):
        raise BadInput(f"name {name!r} becomes a part of a folder's name; give up to 100 characters without slashes")
    source = data.load(dataset, "train")
    made, recipe, preferred = configure(defense, dataset, source.family, settings or {})
    threat = choose_threat(norm, eps, {}, source.family)
    if reason := made.skip(dataset, threat):
        raise Skipped(reason)
    arch = model or preferred or architectures.default_architecture(source.family)
    with isolated(seed):
        architectures.build(arch, source.shape, source.classes)
    digest = "" if dataset in data.CLASSES else source.digest
    return Job(name or defense, made, recipe, dataset, threat, arch, seed, digest, code("defense", defense))


def job_folder(job: Job, results: Path) -> Path:
    """Where a training lives: results/DATASET/THREAT/NAME-ARCH-sSEED-KEY."""
    arch = job.arch.replace("?", "-").replace("&", "-").replace("=", "")
    name = f"{job.name}-{arch}-s{job.seed}-{job.key()}"
    return results / Path(job.dataset).stem / folder_name(job.threat) / name
