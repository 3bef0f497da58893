"""What a measure leaves: a table of numbers and curves as canonical JSON, and arrays beside it; the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor

from bench.data import arrays
from bench.errors import BadInput
from bench.files import below, read_text, regular, sha256, write_arrays, write_text
from bench.results.schema import Count, Eps, Record, Sentence

SCHEMA = 1
FOLDER = "measures"
"""Beside the cards of a model."""
DIGITS = 7
"""Significant digits of a number; what lies behind them is rounding, and differs between machines."""
_BYTES, _ROWS, _ARRAYS = 2**23, 100_000, 2**28
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

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


def read_measurement(path: Path) -> Measurement:
    """A stored measurement, which may be a stranger's; BadInput where it is damaged, absurd or of another schema version."""
    regular(path, _BYTES)
    try:
        content = json.loads(read_text(path, _BYTES))
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA:
            raise BadInput(f"{path} has schema version {str(version)[:80]}, this release reads {SCHEMA}; measure again")
        return Measurement.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BadInput(f"measurement {path}: {where}: {first['msg'][:200]}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"measurement {path} cannot be read ({str(error)[:200]}); measure again") from None


def read_measured_arrays(path: Path, found: Measurement) -> dict[str, NDArray[Any]]:
    """The arrays beside a stored measurement; BadInput where they are missing, others than it says, or absurdly many."""
    if found.arrays is None:
        return {}
    home = path.parent / found.arrays.file
    regular(home, _ARRAYS)
    if sha256(home) != found.arrays.sha256:
        raise BadInput(f"{home} is not the file that {path.name} was written with (its sha256 differs); measure again")
    read = arrays(home, _ARRAYS)
    if {name: array.shape for name, array in read.items()} != found.arrays.shapes:
        raise BadInput(f"{home} holds other arrays than {path.name} says; measure again")
    return read


def find_measurements(folder: Path) -> list[Path]:
    """Every measurement below a folder, in order."""
    return [path for path in below(folder, "*.json") if path.parent.name == FOLDER]


def number(value: float) -> float | None:
    """A number as it is stored; None for one that is not finite."""
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None


def columns(curve: Mapping[str, Tensor]) -> dict[str, tuple[float | None, ...]]:
    """A curve as it is stored."""
    return {name: tuple(number(value) for value in column.double().cpu().tolist()) for name, column in curve.items()}


def write(path: Path, found: Measurement, tensors: Mapping[str, Tensor]) -> Measurement:
    """Put a measurement and its arrays where they belong; the JSON last, because it says that all is there."""
    if tensors:
        home = path.with_suffix(".npz")
        write_arrays(home, {name: array.cpu().numpy() for name, array in sorted(tensors.items())})
        shapes = {name: tuple(array.shape) for name, array in sorted(tensors.items())}
        found = found.model_copy(update={"arrays": Arrays(file=home.name, sha256=sha256(home), shapes=shapes)})
    write_text(path, found.to_json())
    return found


def whole(path: Path) -> Iterator[Measurement]:
    """The measurement that lies here, if it is all there; nothing where anything is missing or damaged."""
    try:
        found = read_measurement(path)
        if found.arrays is None or sha256(path.parent / found.arrays.file) == found.arrays.sha256:
            yield found
    except (BadInput, OSError):
        return
