"""JSON of anybody: what is read can be computed with."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from bench.files.atomic import read_text


def read_json(path: Path, limit: int = 2**26) -> Any:
    """What a file of at most so many bytes says; OSError where it cannot be read, ValueError as `parse_json`."""
    return parse_json(read_text(path, limit))


def parse_json(text: str) -> Any:
    """What a text says; ValueError where it is not JSON, nested too deep, or holds NaN, infinity or what is no float."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text[:60]} is no number")
    return value


def _integer(text: str) -> int:
    # It would raise wherever it becomes a float.
    if not isfinite(float(text)):
        raise ValueError(f"{text[:60]} is too large a number")
    return int(text)
