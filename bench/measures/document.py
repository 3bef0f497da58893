"""What a measure leaves: a table of numbers and curves as canonical JSON, and arrays beside it; the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from bench.data import arrays
from bench.errors import BadInput
from bench.files import below, regular, sha256, write_arrays, write_text
from bench.results import MEASURES, Arrays, Measurement, read_measurement

DIGITS = 7
"""Significant digits of a number; what lies behind them is rounding, and differs between machines."""
_ARRAYS = 2**28


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
    return [path for path in below(folder, "*.json") if path.parent.name == MEASURES]


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
