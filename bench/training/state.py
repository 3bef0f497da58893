"""The saved state of a training that goes on: written whole after every epoch, and read as a file that nobody vouches for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from bench.errors import BadInput
from bench.files import atomic, opened
from bench.training.averages import Average
from bench.training.job import Job
from bench.training.network import TrainingNet
from bench.training.update import Updates

SCHEMA = 1
_START_OVER = "delete it to train from the start"


@dataclass
class Progress:
    """What a kill must not lose, besides weights and optimiser."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0

    def __post_init__(self) -> None:
        counts = (self.epoch, self.forwards, self.backwards)
        sound = all(isinstance(count, int) and count >= 0 for count in counts)
        if not sound or len(self.history) != self.epoch or not -1 <= self.best < max(self.epoch, 1):
            raise ValueError("its counts do not agree")
        if not (isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"it took {self.seconds} seconds")
        if any(not isfinite(value) for entry in self.history for value in entry.values()):
            raise ValueError("its history has values that are not numbers")


Averages = tuple[Average[TrainingNet] | None, ...]


def save_state(path: Path, job: Job, updates: Updates, averages: Averages, done: Progress) -> None:
    """Keep everything that going on needs."""
    state = {
        "schema_version": SCHEMA,
        "job": job.key(),
        "data": updates.samples.digest,
        "net": updates.net.state_dict(),
        "optimizer": updates.optimizer.state_dict(),
        "averages": [None if average is None else average.state() for average in averages],
        "memory": updates.memory,
        "done": asdict(done),
    }
    # Through memory, because torch hides a full disk behind an error of its own.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic(path) as part:
        part.write_bytes(content.getbuffer())


def load_state(path: Path, job: Job, updates: Updates, averages: Averages, where: torch.device) -> Progress:
    """Put a training back to where it was; BadInput where the file is damaged, of another version or of another training."""
    state = _read(path, where)
    version = state.get("schema_version")
    if version != SCHEMA:
        raise BadInput(
            f"cannot go on from {path}: it has schema version {version!r}, this release reads {SCHEMA}; {_START_OVER}"
        )
    if state.get("job") != job.key():
        raise BadInput(f"cannot go on from {path}: it is of another training; {_START_OVER}")
    if state.get("data", updates.samples.digest) != updates.samples.digest:
        raise BadInput(
            f"cannot go on from {path}: {job.dataset} holds other images than it did; give the data as they were, or "
            f"{_START_OVER}"
        )
    try:
        done = Progress(**state["done"])
        updates.net.load_state_dict(state["net"])
        updates.optimizer.load_state_dict(state["optimizer"])
        _check_optimizer(updates.optimizer)
        for average, kept in zip(averages, state["averages"], strict=True):
            if average:
                average.resume(kept)
        updates.memory.update(state["memory"])
        if not all(isinstance(value, torch.Tensor) for value in updates.memory.values()):
            raise ValueError("its memory holds more than tensors")
    except Exception as error:  # whatever a foreign content makes the loaders raise
        told = " ".join(str(error).split())[:200]
        raise BadInput(f"cannot go on from {path}: it is damaged ({type(error).__name__}: {told}); {_START_OVER}") from None
    return done


def _read(path: Path, where: torch.device) -> Mapping[str, Any]:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            # torch writes entries as they are and leaves their checksums unchecked.
            inflated = sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size
            whole = not inflated and archive.testzip() is None
        state = torch.load(path, map_location=where, weights_only=True) if whole else None
    except Exception:  # damaged archives raise nearly anything
        state = None
    if not isinstance(state, dict):
        raise BadInput(f"cannot go on from {path}: it is damaged; {_START_OVER}")
    return state


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse averages that do not fit their parameters; torch would notice in the middle of an epoch."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.shape not in (parameter.shape, ()):
                raise ValueError(f"{name} is {list(value.shape)} and not {list(parameter.shape)}")
