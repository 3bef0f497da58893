"""JSON of anybody: what is read can be computed with."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from bench.files.atomic import read_text

DEEPEST = 100
"""Tables in one another, at most: what writes, prints or compares a text that is deeper may come to the end of the stack."""


def read_json(path: Path, limit: int = 2**26) -> Any:
    """What a file of at most so many bytes says; OSError where it cannot be read, ValueError as `parse_json`."""
    return parse_json(read_text(path, limit))


def parse_json(text: str) -> Any:
    """What a text says; ValueError where it is not JSON, nested too deep, or holds NaN, infinity or what is no float."""
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if any(islice(levels(content), DEEPEST, None)):
        raise ValueError("it is nested too deep")
    return content


def levels(content: Any) -> Iterator[list[Any]]:
    """The values of a document by how many tables they lie in, from the outermost on."""
    level = [content]
    while level:
        yield level
        level = [part for value in level for part in _inside(value)]


def _inside(value: Any) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text[:60]} is no number")
    return value


def _integer(text: str) -> int:
    # It would raise wherever it becomes a float.
    if not isfinite(float(text)):
        raise ValueError(f"{text[:60]} is too large a number")
    return int(text)
