"""TOML files of users: read whole, and what is wrong with one is told with its place and the nearest right key."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.errors import BadInput, GauntletError, UnknownName
from bench.files.atomic import read_text

LARGEST = 2**20
"""Bytes of such a file, at most."""


def read_toml(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """What a file says; what: what it is, such as "plan"; remedy: where to get one. BadInput where it is not TOML."""
    try:
        return tomllib.loads(read_text(path, LARGEST))
    except OSError as error:
        raise BadInput(f"cannot read {what} {path}: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} {path} is not TOML: {error}; {remedy}") from None


def refusal(
    error: ValidationError,
    what: str,
    table: Callable[[list[str]], type[BaseModel]],
    place: Callable[[Sequence[str | int]], str] = lambda where: ".".join(map(str, where)),
) -> GauntletError:
    """What is wrong with a file, the first of it; table: the kind of table at a place; place: a place in words."""
    # A misspelt key also leaves its right spelling missing: name the misspelling.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = [*first["loc"]]
    if first["type"] == "extra_forbidden":
        inside, known = place(where[:-1]), table([*map(str, where[:-1])]).model_fields
        return UnknownName(f"key in {what}{inside and f', {inside}'}:", str(where[-1]), known)
    told = place(where)
    return BadInput(f"{what}: {told and f'{told}: '}{first['msg'].removeprefix('Value error, ')}")
