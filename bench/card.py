"""The card: everything a reader needs to judge and to repeat one evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BadInput
from bench.files import write_text
from bench.plan import Plan

SCHEMA = 1


class Record(BaseModel):
    """A typed part of a card; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Threat(Record):
    """The threat model of the numbers."""

    norm: str
    eps: str
    """An exact fraction in input units, such as "8/255"."""


class GridPoint(Record):
    """One point of a step-size grid, measured on the probe."""

    parameters: dict[str, Any]
    robust_accuracy: float
    """On the probe, by this point alone."""
    mean_margin: float
    """Mean over the probe of the best wrong logit minus the true one at this point's results, 0 for a fooled sample."""


class Grid(Record):
    """The whole search, not only its winner."""

    probe: int
    points: tuple[GridPoint, ...]
    best: dict[str, Any]


class RestartPoint(Record):
    """Robust accuracy after so many restarts."""

    restarts: int
    robust_accuracy: float


class AttackResult(Record):
    """What one attack of the plan did."""

    name: str
    attack: str
    parameters: dict[str, Any]
    """As they ran: the grid's winner is written in."""
    on: Literal["all", "survivors"]
    n: int
    """Samples its accuracy is over."""
    attempted: int
    """Samples it was run on."""
    broken: int
    """Samples it fooled."""
    robust_accuracy: float
    """Share of its n samples that it leaves standing. A sample that it was never run on, because the clean image or (on
    survivors) an earlier attack had already failed, counts as broken."""
    interval: tuple[float, float]
    """95 % Wilson interval."""
    grid: Grid | None
    restarts: tuple[RestartPoint, ...]
    forwards: float
    """Mean forward passes per attempted sample, all restarts and the grid included."""
    backwards: float
    seconds: float
    notes: tuple[str, ...]


class ModelInfo(Record):
    """What was attacked."""

    reference: str
    arch: str
    digest: str
    """sha256 of names, shapes and values of all parameters and buffers."""
    defense: str | None
    settings: dict[str, Any]
    """The defense's hyper-parameters and the training recipe, when the product trained it."""
    training: dict[str, Any]
    """Cost and history of the training in short, when the product trained it."""


class DataInfo(Record):
    """Which samples."""

    split: str
    digest: str
    """sha256 of the images and labels of the samples evaluated."""
    source: str


class FileInfo(Record):
    """A file that belongs to the card."""

    file: str
    sha256: str
    rows: int


class Card(Record):
    """One evaluation."""

    schema_version: int = SCHEMA
    name: str
    dataset: str
    threat: Threat
    n: int
    clean_accuracy: float
    clean_interval: tuple[float, float]
    robust_accuracy: float
    """Share of the n samples that are classified correctly and that no attack broke: the worst case per sample."""
    interval: tuple[float, float]
    """95 % Wilson interval of the robust accuracy."""
    attacks: tuple[AttackResult, ...]
    plan: Plan
    plan_digest: str
    seed: int
    model: ModelInfo
    data: DataInfo
    records: FileInfo
    archive: FileInfo
    seconds: float
    device: str
    versions: dict[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The card as it is stored."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Write the card atomically."""
        write_text(path, self.to_json())


def read_card(path: Path) -> Card:
    """A stored card; BadInput where it is missing, damaged or of another schema version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read card {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"card {path} is not JSON: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise BadInput(f"card {path} has schema version {version!r}, this release reads {SCHEMA}; evaluate the model again")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"card {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
