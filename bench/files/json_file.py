"""JSON of anybody: what is read can be written again, printed and computed with."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from bench.files.atomic import read_text

LARGEST_INTEGER = 2**64
"""No integer of ours is larger; one of a few hundred digits is no float, and raises wherever it becomes one."""


def read_json(path: Path, limit: int = 2**26) -> Any:
    """What a file of at most so many bytes says; OSError where it cannot be read, ValueError as `parse_json`."""
    return parse_json(read_text(path, limit))


def parse_json(text: str) -> Any:
    """What a text says; ValueError where it is not JSON, too deep, or holds NaN, infinity, 400 digits or half a character."""
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
        # Half a character can be neither written to a file nor printed: UnicodeEncodeError, a ValueError.
        json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return content


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text[:60]} is no number")
    return value


def _integer(text: str) -> int:
    if abs(value := int(text)) > LARGEST_INTEGER:
        raise ValueError(f"{text[:60]} is too large a number")
    return value
