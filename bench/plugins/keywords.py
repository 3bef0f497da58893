"""The keyword parameters of a registered function: what they are, and what a user gives for them, checked."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.errors import BadInput, UnknownName


def parameters(run: Callable[..., Any]) -> dict[str, Any]:
    """The keyword parameters of a function and their defaults."""
    return {p.name: p.default for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY}


def hints(run: Callable[..., Any]) -> dict[str, Any]:
    """Their annotations."""
    found = inspect.get_annotations(run, eval_str=True)
    return {key: found.get(key, Any) for key in parameters(run)}


def configure(what: str, run: Callable[..., Any], given: Mapping[str, Any], kind: str = "parameter") -> dict[str, Any]:
    """The full parameters of a call, each given value checked against its annotation; `what` names the function in errors."""
    known, kinds = parameters(run), _kinds(run)
    for key in given:
        if key not in known:
            raise UnknownName(f"{kind} of {what}", key, known)
    return {key: _checked(f"{what}: {key}", kinds[key], value) for key, value in {**known, **given}.items()}


@cache
def _kinds(run: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each parameter: made once, as a board asks for thousands."""
    return {key: TypeAdapter(hint) for key, hint in hints(run).items()}


def read_value(text: str) -> Any:
    """What a user typed: numbers, booleans and lists are read as JSON, anything else stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _checked(what: str, known: TypeAdapter[Any], given: Any) -> Any:
    try:
        return known.validate_python(given)
    except ValidationError as error:
        raise BadInput(f"{what} = {given!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
