"""One unit of work: what one run of an attack did to a shard of the samples, and the file that keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bench.archive import read_tensors, write_tensors

_TENSORS = ("index", "fooled", "margin", "distance", "forwards", "backwards", "kept", "z")


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

    def save(self, path: Path) -> None:
        """Keep it, whole or not at all."""
        about = {"seconds": self.seconds, "notes": self.notes, "label": self.label}
        write_tensors(path, {name: getattr(self, name) for name in _TENSORS}, about)


def load_unit(path: Path, attack: int, label: str, run: str, index: Tensor) -> Unit | None:
    """The unit of this attack, run and samples, if that is what the file holds."""
    if not path.exists():
        return None
    tensors, about = read_tensors(path)
    if set(tensors) != set(_TENSORS) or about.get("label") != label or not torch.equal(tensors["index"], index):
        return None
    return Unit(attack, label, run, **tensors, seconds=about["seconds"], notes=about["notes"])
