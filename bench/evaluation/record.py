"""What an evaluation leaves behind: its card, a row per sample and attempt, and the examples that prove the broken ones."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from bench.core import device
from bench.evaluation import sanity
from bench.evaluation.certificates import Proof
from bench.evaluation.engine import Evaluation
from bench.evaluation.task import Task
from bench.models import Model
from bench.plugins import get_defense
from bench.results import (
    AttackResult,
    Card,
    CurvePoint,
    FileInfo,
    Finding,
    ModelInfo,
    Threat,
    archive,
    measured_beside,
    survive,
)
from bench.statistics import wilson

_PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "safetensors", "pyautoattack", "torchattacks", "foolbox",
    "eagerpy", "robustbench", "timm",
)  # fmt: skip


class About(NamedTuple):
    """What the card says of the work itself."""

    seconds: float
    search: str
    """The precision of the search, and why."""
    proof: Proof
    noticed: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()


def make_card(task: Task, run: Evaluation, attacks: Sequence[AttackResult], curve: Sequence[CurvePoint], about: About) -> Card:
    """Write the records and the archive of an evaluation into its folder; the card that names them."""
    size, folder = len(run.data), task.folder
    model, trained = task.subject.model, task.subject.trained
    clean, robust = int(run.clean.sum()), size - int(run.broken.sum())
    proves = {
        "dataset": task.dataset,
        "split": run.data.split,
        "data_digest": run.data.digest,
        "model_digest": model.digest,
        "norm": run.threat.norm,
        "eps": run.threat.eps_text,
    }
    info = ModelInfo(
        reference=_portable(model),
        arch=model.arch,
        digest=model.digest,
        defense=trained.get("defense"),
        settings=trained.get("settings", {}),
        training=_training(trained),
        test_time=task.request.test_time,
        answers=task.subject.answers.digest,
        leads=task.subject.answers.leads,
    )
    return Card(
        name=task.label,
        dataset=task.dataset,
        threat=Threat(norm=run.threat.norm, eps=run.threat.eps_text),
        n=size,
        clean_accuracy=clean / size,
        clean_interval=wilson(clean, size),
        robust_accuracy=robust / size,
        interval=wilson(robust, size),
        attacks=tuple(attacks),
        curve=tuple(curve),
        certified=about.proof.certified,
        plan=run.plan,
        plan_digest=run.plan.digest,
        seed=run.seed,
        search=about.search,
        eot=run.eot,
        batch_dependent=task.subject.batch_dependent,
        model=info,
        data=sanity.data_info(run.data),
        records=_records(run, folder),
        archive=_archive(run, folder, proves),
        eight_bit_accuracy=(robust + _undone_by_rounding(run)) / size,
        **sanity.by_class(run),
        **sanity.of_answers(run, (*about.proof.warnings, *about.warnings)),
        seconds=about.seconds,
        device=device.describe(task.where),
        versions=_versions(),
        code=task.code,
        files={**_of_training(trained), **task.files},
        noticed=about.noticed,
        measures=measured_beside(info, folder),
        notes=_notes(task, attacks, about),
    )


def _notes(task: Task, attacks: Sequence[AttackResult], about: About) -> tuple[str, ...]:
    """What a reader has to know: of the weights, of the gradient, and what attacks said."""
    doubts = [f"{finding.check}: {finding.told}" for finding in about.noticed if finding.verdict != "ok"]
    of_attacks = (f"{attack.name}: {note}" for attack in attacks for note in attack.notes)
    return (*task.subject.model.notes, *doubts, *of_attacks, *map(sanity.shorten, about.proof.notes))


def _training(trained: dict[str, Any]) -> dict[str, Any]:
    """Cost and outcome of the training, with how far FGSM overestimates the epoch that was kept."""
    if not trained:
        return {}
    kept = trained["history"][trained["training"]["best_epoch"] - 1]
    gap = kept["fgsm"] - kept["pgd"] if get_defense(trained["defense"]).can_collapse() else 0.0
    threat = f"{trained['threat']['norm']} {trained['threat']['eps']}"
    return {**trained["training"], "threat": threat, "single_step_gap": round(gap, 4)}


def _of_training(trained: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that the training read."""
    return {f"training {key}": digest for key, digest in trained.get("files", {}).items()}


def _portable(model: Model) -> str:
    """A run by the name of its folder, so that the same run evaluated elsewhere gives the same card."""
    if model.run is None:
        return model.reference
    query = model.reference.partition("?")[2]
    return f"run:{model.run.resolve().name}" + (f"?{query}" if query else "")


def _records(run: Evaluation, folder: Path) -> FileInfo:
    ids, labels = run.data.ids.cpu(), run.data.y.cpu()
    clean = pd.DataFrame({
        "id": ids, "label": labels, "attack": "clean", "run": "", "broken": (~run.clean), "margin": float("nan"),
        "distance": 0.0, "forwards": 1, "backwards": 0,
    })  # fmt: skip
    tables = [clean] + [
        pd.DataFrame({
            "id": ids[unit.index], "label": labels[unit.index], "attack": unit.label, "run": unit.run,
            "broken": unit.fooled, "margin": unit.margin, "distance": unit.distance, "forwards": unit.forwards,
            "backwards": unit.backwards,
        })
        for unit in run.units
    ]  # fmt: skip
    return archive.write_records(folder / "samples.parquet", pd.concat(tables, ignore_index=True))


def _archive(run: Evaluation, folder: Path, about: dict[str, Any]) -> FileInfo:
    proven = run.broken & run.clean
    ids = run.data.ids.cpu()[proven]
    return archive.write_archive(folder / "archive.safetensors", ids, run.closest[proven], about)


def _undone_by_rounding(run: Evaluation) -> int:
    """How many of the broken samples stand once their examples are images of 8 bits."""
    proven, lost = (run.broken & run.clean).nonzero().squeeze(1), 0
    for index in proven.split(run.batch_size) if len(proven) else ():
        x, y = run.data.batch(index)
        lost += int((~survive(run.judge, run.closest[index].to(x.device), x, y)).sum())
    return lost


def broken_ids(card: Card, folder: Path) -> Tensor:
    """The ids of the samples that the archives beside a card prove broken."""
    files = (card.archive, *(addition.archive for addition in card.additions))
    return torch.cat([archive.read_tensors(folder / file.file)[0]["ids"] for file in files])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("gauntlet-bench", *_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
