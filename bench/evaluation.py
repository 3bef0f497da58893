"""One evaluation from a model reference to its card, records and archive."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from bench import archive, data, device, models, plan
from bench.card import SCHEMA, AttackResult, Card, DataInfo, FileInfo, ModelInfo, Threat, read_card
from bench.data import Dataset
from bench.defense import Defense
from bench.engine import Evaluation
from bench.errors import BadInput, UnknownName
from bench.files import sha256
from bench.models import Model
from bench.plan import Plan
from bench.progress import Reporter
from bench.registry import get_defense, make_defense
from bench.rng import isolated
from bench.stats import wilson
from bench.threat import Norm, ThreatModel

DEFAULT_EPS = {"digits": "0.2", "mnist": "0.3", "cifar": "8/255"}
"""linf budgets for each family of data sets."""
DEFAULT_N = 1000
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "safetensors", "pyautoattack")


def evaluate(
    reference: str,
    *,
    dataset: str | None = None,
    norm: str | None = None,
    eps: str | None = None,
    plan_name: str = "fast",
    n: int | None = None,
    seed: int = 0,
    results: Path = Path("results"),
    name: str | None = None,
    device_name: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
) -> tuple[Card, Path]:
    """Attack a model with a plan and write its card; a card that is already there is read instead.

    reference: a run folder, `run:`, `ckpt:` or `py:` (see bench.models.reference). dataset, norm and eps default to those
    the model was trained with. n: the first n test samples (default 1000, or all where there are fewer).
    Returns the card and the path it was written to.
    """
    trained = training_record(reference)
    dataset = dataset or trained.get("dataset") or "digits"
    where = device.pick(device_name)
    samples = _samples(dataset, trained, n)
    threat = choose_threat(norm, eps, trained.get("threat", {}), samples.family)
    open_ended = dataset not in data.CLASSES
    with isolated(seed):
        model = models.resolve(reference, samples.shape, samples.classes, at_least=open_ended)
    chosen = plan.load(plan_name)
    if defense := _defense(trained):
        model = replace(model, net=defense.wrap(model.net))
        chosen = chosen.extended(defense.adaptive())
    chosen = chosen.resolved(threat)
    first, _ = samples.batch(torch.arange(min(len(samples), 64)))
    models.check_outputs(model.net, first, samples.classes, reference, at_least=open_ended)
    label = name or trained.get("name") or model.name
    folder = _folder(results, dataset, threat, model, chosen, samples, seed)
    if card := _finished(folder):
        return card, folder / "card.json"
    with Reporter(f"evaluate {label}", len(chosen.attacks), quiet=quiet) as report, device.exact_float32():
        began = time.monotonic()
        run = Evaluation(
            net=model.net.to(where),
            data=samples.to(where),
            threat=threat,
            plan=chosen,
            seed=seed,
            batch_size=batch_size or (256 if where.type == "cpu" else 1024),
            folder=folder / "units",
            report=report,
        )
        attacks = run.run()
        seconds = time.monotonic() - began
    card = _card(run, attacks, model, trained, dataset, label, folder, seconds, device.describe(where))
    card.save(folder / "card.json")
    shutil.rmtree(folder / "units", ignore_errors=True)
    return card, folder / "card.json"


def choose_threat(norm: str | None, eps: str | None, trained: dict[str, str], family: str) -> ThreatModel:
    """What the user said, else what the model was trained for, else the usual linf budget of the data."""
    norm = norm or trained.get("norm", "linf")
    if eps is None and trained.get("norm") == norm:
        eps = trained["eps"]
    if norm not in get_args(Norm):
        raise UnknownName("norm", norm, get_args(Norm))
    if eps is None and norm != "linf":
        raise BadInput(f"no default eps for {norm}; give one, such as --eps 0.5")
    return ThreatModel.parse(norm, eps or DEFAULT_EPS[family])


def training_record(reference: str) -> dict[str, Any]:
    """What the training of a run folder left behind; empty for a model from elsewhere."""
    path = Path(reference.removeprefix("run:").split("?")[0]) / "train.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: content[key]
            for key in ("name", "defense", "settings", "dataset", "threat", "training", "data_digest", "history")
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{path} is not the record of a finished training; train again") from None


def _defense(trained: dict[str, Any]) -> Defense | None:
    """The defense that trained the model, for what it adds at test time; None for a model from elsewhere."""
    if "defense" not in trained:
        return None
    known = get_defense(trained["defense"]).hyper_parameters()
    return make_defense(trained["defense"], {key: value for key, value in trained["settings"].items() if key in known})


def _samples(dataset: str, trained: dict[str, Any], n: int | None) -> Dataset:
    """The first n samples of the test split; of everything, where the data has no split and the model never saw it."""
    split = "test" if data.has_own_split(dataset) or _trained_on(dataset, trained) else "all"
    samples = data.load(dataset, split)
    return samples.first(n if n is not None else min(DEFAULT_N, len(samples)))


def _trained_on(dataset: str, trained: dict[str, Any]) -> bool:
    """Whether the model's training images come out of this data set, whatever path it is named by."""
    if not trained:
        return False
    images, _ = data.hold_out(data.load(dataset, "train"), trained["settings"]["validation"])
    return bool(images.digest == trained["data_digest"])


def _folder(results: Path, dataset: str, threat: ThreatModel, model: Model, chosen: Plan, samples: Dataset, seed: int) -> Path:
    key = json.dumps([SCHEMA, model.digest, samples.digest, str(threat), chosen.digest, len(samples), seed])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    home = model.run or results / Path(dataset).stem / folder_name(threat) / f"{model.name}-{model.digest[:8]}"
    return home / f"{chosen.name}-{digest}"


def folder_name(threat: ThreatModel) -> str:
    """A threat model as a folder's name: "linf-8_255"."""
    return f"{threat.norm}-{threat.eps_text.replace('/', '_')}"


def _finished(folder: Path) -> Card | None:
    """The card of an evaluation that is there with its records and archive, unharmed."""
    if not (folder / "card.json").exists():
        return None
    card = read_card(folder / "card.json")
    files = (card.records, card.archive)
    whole = all((folder / file.file).exists() and sha256(folder / file.file) == file.sha256 for file in files)
    return card if whole else None


def _card(
    run: Evaluation, attacks: list[AttackResult], model: Model, trained: dict[str, Any], dataset: str, label: str,
    folder: Path, seconds: float, where: str,
) -> Card:  # fmt: skip
    size = len(run.data)
    clean, robust = int(run.clean.sum()), size - int(run.broken.sum())
    about = {
        "dataset": dataset,
        "split": run.data.split,
        "data_digest": run.data.digest,
        "model_digest": model.digest,
        "norm": run.threat.norm,
        "eps": run.threat.eps_text,
    }
    return Card(
        name=label,
        dataset=dataset,
        threat=Threat(norm=run.threat.norm, eps=run.threat.eps_text),
        n=size,
        clean_accuracy=clean / size,
        clean_interval=wilson(clean, size),
        robust_accuracy=robust / size,
        interval=wilson(robust, size),
        attacks=tuple(attacks),
        plan=run.plan,
        plan_digest=run.plan.digest,
        seed=run.seed,
        model=ModelInfo(
            reference=_portable(model),
            arch=model.arch,
            digest=model.digest,
            defense=trained.get("defense"),
            settings=trained.get("settings", {}),
            training=_training(trained),
        ),
        data=DataInfo(split=run.data.split, digest=run.data.digest, source=run.data.source),
        records=_records(run, folder),
        archive=_archive(run, folder, about),
        seconds=round(seconds, 3),
        device=where,
        versions=_versions(),
        notes=tuple(f"{attack.name}: {note}" for attack in attacks for note in attack.notes),
    )


def _training(trained: dict[str, Any]) -> dict[str, Any]:
    """Cost and outcome of the training, with how far FGSM overestimates the epoch that was kept."""
    if not trained:
        return {}
    kept = trained["history"][trained["training"]["best_epoch"] - 1]
    robust = get_defense(trained["defense"]).selects == "pgd"
    return {**trained["training"], "single_step_gap": round(kept["fgsm"] - kept["pgd"], 4) if robust else 0.0}


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
        "forwards": 1, "backwards": 0,
    })  # fmt: skip
    tables = [clean] + [
        pd.DataFrame({
            "id": ids[unit.index], "label": labels[unit.index], "attack": run.plan.attacks[unit.attack].label, "run": unit.run,
            "broken": unit.fooled, "margin": unit.margin, "forwards": unit.forwards, "backwards": unit.backwards,
        })
        for unit in run.units
    ]  # fmt: skip
    return archive.write_records(folder / "samples.parquet", pd.concat(tables, ignore_index=True))


def _archive(run: Evaluation, folder: Path, about: dict[str, Any]) -> FileInfo:
    proven = run.broken & run.clean
    ids = run.data.ids.cpu()[proven]
    return archive.write_archive(folder / "archive.safetensors", ids, run.examples[proven], about)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("gauntlet-bench", *_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
