"""The document of a measure: what `gauntlet measure` leaves beside the cards of a model, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from bench.errors import BadInput
from bench.files import read_json, regular
from bench.results.schema import Count, Eps, Record, Sentence

SCHEMA = 1
DOCUMENT_BYTES = 2**23
"""Of a document at most."""
_ROWS = 100_000
_TEXT = Field(max_length=300)
Column = Annotated[tuple[FiniteFloat | None, ...], Field(max_length=_ROWS)]


class Arrays(Record):
    """The file of arrays, .npz, that lies beside a measurement."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*\.npz$", max_length=128)]
    sha256: str
    shapes: dict[str, tuple[Count, ...]]


class Measurement(Record):
    """One measure of one model, or one experiment of the lab; JSON that can be read without us."""

    schema_version: int = SCHEMA
    measure: Annotated[str, _TEXT]
    about: Sentence
    model: Annotated[str, _TEXT] = ""
    """What it is called; empty for the lab."""
    digest: Annotated[str, _TEXT] = ""
    """Of its weights."""
    data: Annotated[str, _TEXT] = ""
    split: Annotated[str, _TEXT] = ""
    data_digest: Annotated[str, _TEXT] = ""
    """Of the samples."""
    norm: Annotated[str, _TEXT] = ""
    eps: Eps | None = None
    seed: int = 0
    settings: dict[str, Any]
    values: dict[str, FiniteFloat | None]
    """None for what is not there."""
    curves: dict[str, dict[str, Column]] = {}  # noqa: RUF012
    """Columns of equal length; the first is what the others are drawn over."""
    arrays: Arrays | None = None
    notes: tuple[Sentence, ...] = ()

    @model_validator(mode="after")
    def _even(self) -> Measurement:
        for name, curve in self.curves.items():
            if len({len(column) for column in curve.values()}) > 1:
                raise ValueError(f"the columns of {name[:100]!r} are not of one length")
        return self

    @property
    def asked(self) -> str:
        """On what it was taken, and how, in a line; cards have it, so that its form stays."""
        settings = [f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in self.settings.items()]
        of = [self.data, self.split, f"{self.norm} {self.eps or ''}".strip(), *settings, f"seed {self.seed}"]
        return ", ".join(filter(None, of))

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


def read_measurement(path: Path) -> Measurement:
    """A stored measurement, which may be a stranger's; BadInput where it is damaged, absurd or of another schema version."""
    regular(path, DOCUMENT_BYTES)
    try:
        content = read_json(path, DOCUMENT_BYTES)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA:
            raise BadInput(f"{path} has schema version {str(version)[:80]}, this release reads {SCHEMA}; measure again")
        return Measurement.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BadInput(f"measurement {path}: {where}: {first['msg'][:200]}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"measurement {path} cannot be read ({str(error)[:200]}); measure again") from None
