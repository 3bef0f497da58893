"""The keyword parameters of a registered function: what they are, and what a user gives for them, checked."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.errors import BadInput, UnknownName

LARGEST_NUMBER = 1e9
"""Of a value that somebody gives, in size: beyond it a count has no end and a step leaves every ball."""


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
    check_numbers(what, given)
    chosen = {key: _checked(f"{what}: {key}", kinds[key], value) for key, value in {**known, **given}.items()}
    # A text may have become a number.
    check_numbers(what, {key: chosen[key] for key in given})
    return chosen


@cache
def _kinds(run: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each parameter: made once, as a board asks for thousands."""
    return {key: TypeAdapter(hint) for key, hint in hints(run).items()}


def check_numbers(what: str, values: Mapping[str, Any]) -> None:
    """BadInput for a number that is none, or that nothing comes to the end of; `what` names whose values they are."""
    for key, value in values.items():
        for number in value if isinstance(value, list | tuple) else (value,):
            # Not a number is not below anything either; a whole number may be too large for a float, and is compared as it is.
            if isinstance(number, int | float) and not abs(number) <= LARGEST_NUMBER:
                bits = 0 if isinstance(number, float) else number.bit_length()
                told = f"an integer of {bits} bits" if bits > 128 else f"{number:g}" if not bits else str(number)
                raise BadInput(
                    f"{what}: {key} = {told} is no number to run with; give one of at most {LARGEST_NUMBER:g} in size"
                )


def read_value(text: str) -> Any:
    """What a user typed: numbers, booleans and lists are read as JSON, anything else stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _checked(what: str, known: TypeAdapter[Any], given: Any) -> Any:
    try:
        return known.validate_python(given)
    except ValidationError as error:
        raise BadInput(f"{what} = {given!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
