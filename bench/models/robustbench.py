"""`robustbench:Wong2020Fast?dataset=cifar10&threat=Linf`: a network of the RobustBench zoo, built by that package.

Version 1.1.1 cannot be imported where its own requirements are met: it wants `pkg_resources`, which setuptools 82 dropped,
and `autoattack`, where it requires `pyautoattack`. Only its own benchmark uses the two, so stand-ins do.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bench.compat import package
from bench.data import sources
from bench.errors import BadInput, UnknownName
from bench.models import architectures
from bench.models.checkpoint import load_weights

_OPTIONS = ("dataset", "threat", "folder")
_DATASETS = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
_STAND_INS = {"pkg_resources": (), "autoattack": ("AutoAttack",), "autoattack.state": ("EvaluationState",)}
"""The modules that the package lacks, with the names it imports from them."""
_BALLS = {"Linf": {"norm": "linf", "eps": "8/255"}, "L2": {"norm": "l2", "eps": "0.5"}}
"""What the zoo's networks for CIFAR are ranked in."""


def listed(reference: str) -> dict[str, Any]:
    """The data set that a network of the zoo is listed for, and its threat where it has one here."""
    options = architectures.parse_query(reference.partition("?")[2], f"model {reference!r}")
    return {"dataset": options.get("dataset", "cifar10"), "threat": _BALLS.get(options.get("threat", "Linf"), {})}


def load(reference: str, rest: str, classes: int) -> tuple[str, nn.Module]:
    """The name and the network of `robustbench:NAME?options`; the data set of its zoo is told by the number of classes."""
    name, _, query = rest.partition("?")
    options = architectures.parse_query(query, f"model {reference!r}")
    for key in options:
        if key not in _OPTIONS:
            raise UnknownName("option of a robustbench reference", key, _OPTIONS)
    zoo = _zoo(reference)
    dataset, threat = options.get("dataset") or _DATASETS.get(classes, "cifar10"), options.get("threat", "Linf")
    entry = _entry(zoo, name, dataset, threat)
    cache = os.environ.get("GAUNTLET_CACHE") or "~/.cache/gauntlet"
    folder = Path(options.get("folder") or f"{cache}/robustbench").expanduser()
    files = _files(folder / dataset / threat / f"{name}.pt", entry)
    try:
        with _weights_only(), redirect_stdout(sys.stderr):
            return name, zoo.load_model(name, folder, dataset, threat)
    except Exception as failure:  # the network, the disk, the file, the package: nothing in common
        raise _told(reference, files, failure) from None


def _zoo(reference: str) -> Any:
    """The package's loader, from a package that is as it was installed."""
    try:
        files = metadata.files("robustbench") or []
    except metadata.PackageNotFoundError:
        # Found or not: the wheel of torchattacks brings a module of this name.
        raise BadInput(f"{reference!r} needs the package robustbench: pip install 'gauntlet-bench[zoo]'") from None
    for file in files:
        if str(file) == "robustbench/utils.py" and file.hash:
            found = hashlib.sha256(Path(file.locate()).read_bytes()).digest()
            if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != file.hash.value:
                raise BadInput(
                    f"{reference!r}: {file.locate()} is not what robustbench installed; the wheel of torchattacks overwrites "
                    "it: install 'gauntlet-bench[zoo]' in an environment without torchattacks"
                )
    with _stand_ins(), warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        return package("robustbench.utils", reference, "zoo")


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Empty modules in place of those that are missing, while the package is imported."""
    missing = [name for name in _STAND_INS if importlib.util.find_spec(name.partition(".")[0]) is None]
    try:
        for name in missing:
            module = sys.modules[name] = ModuleType(name)
            for attribute in _STAND_INS[name]:
                setattr(module, attribute, None)
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def _entry(zoo: Any, name: str, dataset: str, threat: str) -> Mapping[str, Any]:
    """What the zoo says of a model."""
    tables = {found.value: {kind.value: table for kind, table in kinds.items()} for found, kinds in zoo.all_models.items()}
    if dataset not in tables:
        raise UnknownName("data set of robustbench", dataset, tables)
    if threat not in tables[dataset]:
        raise UnknownName(f"threat model of robustbench on {dataset}", threat, tables[dataset])
    if name not in tables[dataset][threat]:
        raise UnknownName(f"model of robustbench for {dataset} and {threat}", name, tables[dataset][threat])
    entry: Mapping[str, Any] = tables[dataset][threat][name]
    return entry


def _files(path: Path, entry: Mapping[str, Any]) -> dict[Path, str]:
    """The weights files of a model and where each is published; none where another package keeps them."""
    published = entry.get("gdrive_id")
    if isinstance(published, list):
        return {path.with_name(f"{path.name}_m{member}.pt"): key for member, key in enumerate(published)}
    return {path: published} if published else {}


@contextmanager
def _weights_only() -> Iterator[None]:
    """No file may run code as it is read, whatever the package or the environment asks for."""
    before = {key: os.environ.get(key) for key in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")}
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _told(reference: str, files: Mapping[Path, str], failure: Exception) -> BadInput:
    """Why a model did not load: weights that are not there, a file that is no weights, or what the package says."""
    for path, published in files.items():
        if not path.is_file():
            return BadInput(
                f"the weights of {reference!r} are not here, and fetching them failed: {sources.reason(failure)}; "
                f"put https://drive.google.com/uc?id={published} at {path}"
            )
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            load_weights(path)
    where = f"the weights at {', '.join(map(str, files))}" if files else "its weights"
    return BadInput(f"robustbench cannot build {reference!r} from {where}: {shorten(sources.reason(failure), 300)}")
