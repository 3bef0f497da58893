"""One unit of work: what one run of an attack did to a shard of the samples, and the file that keeps it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.errors import BadInput
from bench.results import read_tensors, write_tensors

SCHEMA = 2
_TYPES = {
    "index": torch.int64, "fooled": torch.bool, "margin": torch.float32, "distance": torch.float32,
    "forwards": torch.int64, "backwards": torch.int64, "kept": torch.bool, "z": torch.float32,
}  # fmt: skip
_HEADER = 2**20
"""Bytes that a file may have beside its tensors."""


@dataclass
class Unit:
    """What an attack did; everything is on the CPU."""

    attack: int
    """Its place in the plan."""
    label: str
    run: str
    """Which of its runs: a point of the grid, a restart, a round."""
    index: Tensor
    """Positions of the samples it was run on, [M]."""
    fooled: Tensor
    margin: Tensor
    """Of the network, in float32, at the candidates."""
    distance: Tensor
    """Of candidates that are misclassified, wherever they lie; infinite for the others."""
    forwards: Tensor
    backwards: Tensor
    kept: Tensor
    """Which candidates are kept: those that fooled, or all of them where a later run may go on from one."""
    z: Tensor
    """The candidates that are kept."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def cost(self) -> int:
        """Forward-equivalents it spent; a backward pass counts two."""
        return int(self.forwards.sum() + 2 * self.backwards.sum())

    def save(self, path: Path, key: str) -> None:
        """Keep it, whole or not at all; key: of the question that it is a part of the answer to."""
        tensors = {name: getattr(self, name) for name in _TYPES}
        about = {"seconds": self.seconds, "notes": self.notes, "label": self.label, "run": self.run, "key": key}
        write_tensors(path, tensors, {"schema_version": SCHEMA, **about, "sha256": _digest(tensors)})


class Wanted(NamedTuple):
    """The unit that is asked for."""

    key: str
    """Of the question: everything that its answer depends on."""
    attack: int
    label: str
    run: str
    rows: Tensor
    """Positions of its samples."""
    shape: tuple[int, int, int]
    """Of a sample."""


def load_unit(path: Path, wanted: Wanted, tell: Callable[[str], None]) -> Unit | None:
    """The unit that is asked for; None, and a sentence, where the file is damaged or holds something else."""
    if not path.exists():
        return None
    try:
        about, tensors = _read(path, wanted.rows, wanted.shape)
        if about["key"] != wanted.key:
            raise BadInput("it is of another question: other samples, model, plan, seed or code")
        if (about["label"], about["run"]) != (wanted.label, wanted.run):
            raise BadInput(f"it is of {about['label']}, {about['run']}")
    except BadInput as error:
        tell(f"{path} cannot be used ({error}): doing that unit of work again")
        return None
    return Unit(wanted.attack, wanted.label, wanted.run, **tensors, seconds=about["seconds"], notes=about["notes"])


def _read(path: Path, index: Tensor, shape: tuple[int, int, int]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a unit on these samples, every one of the type and shape it must have."""
    largest = len(index) * (4 * math.prod(shape) + 64) + _HEADER
    if (size := path.stat().st_size) > largest:
        raise BadInput(f"it has {size} bytes, and these samples make {largest} at most")
    tensors, about = read_tensors(path)
    if (version := about.get("schema_version")) != SCHEMA:
        raise BadInput(f"it has schema version {version!r}, this release reads {SCHEMA}")
    kinds = {"label": str, "run": str, "notes": list, "seconds": float, "sha256": str, "key": str}
    whole = all(isinstance(about.get(key), kind) for key, kind in kinds.items())
    if not whole or not 0 <= about["seconds"] < math.inf or not all(isinstance(note, str) for note in about["notes"]):
        raise BadInput("its header is damaged")
    if {name: tensor.dtype for name, tensor in tensors.items()} != _TYPES:
        raise BadInput("its tensors are not those of a unit")
    if not torch.equal(tensors["index"], index):
        raise BadInput("it is of other samples")
    rows = {name: tensor for name, tensor in tensors.items() if name != "z"}
    if any(tensor.shape != index.shape for tensor in rows.values()):
        raise BadInput("its tensors have other lengths than its samples")
    if (tensors["fooled"] & ~tensors["kept"]).any() or tensors["z"].shape != (int(tensors["kept"].sum()), *shape):
        raise BadInput("its candidates are not those that it says it kept")
    if _digest(tensors) != about["sha256"]:
        raise BadInput("its content is not what was written")
    return about, tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in _TYPES:
        total.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
