"""What `gauntlet list NAME` shows: one defense or attack with its parameters, their meaning, and what they are by default."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache
from itertools import pairwise
from textwrap import dedent, fill
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from tabulate import tabulate

from bench.plugins import registry
from bench.training import recipe

_SAME = "."
"""In a table: as in the column of defaults."""
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true | false",
    "null": "null",
    "string": "text",
    "array": "list",
}


def of_defense(name: str) -> str:
    """What a defense is, its hyper-parameters and the options of its training, with the defaults for each data set."""
    cls = registry.get_defense(name)
    sets = {
        key: recipe.defaults(cls, key, recipe.family_of(key))
        for key in [*recipe.BASE, *sorted({*cls.presets} - {*recipe.BASE, "default"})]
    }
    source = " · ".join(filter(None, (
        cls.paper and f"source: {cls.paper}", f"passes per step: {cls.passes}", registry.owner("defense", name),
    )))  # fmt: skip
    models = {key: chosen["model"] for key, chosen in sets.items() if "model" in chosen}
    parts = [
        f"{name}: {inspect.getdoc(cls)}", source,
        "Hyper-parameters (--set name=value):\n\n" + (_fields(cls, sets) or "none"),
        "Options of the training, the same for every defense:\n\n" + _fields(recipe.Recipe, sets),
        f'"{_SAME}": as by default.',
    ]  # fmt: skip
    if models:
        parts.append("Network unless --model names one: " + ", ".join(f"{model} ({key})" for key, model in models.items()))
    return "\n\n".join(parts)


def in_short(name: str) -> str:
    """The hyper-parameters of a defense in a line, with defaults and what data sets have instead: "step=1, q=1 (mnist: 2)"."""
    cls, told = registry.get_defense(name), []
    for field in fields(cls):  # type: ignore[arg-type]
        usual = _usual(field)
        own = {key: _text(preset[field.name]) for key, preset in cls.presets.items() if field.name in preset}
        others = ", ".join(f"{key}: {text}" for key, text in own.items() if text != usual)
        told.append(f"{field.name}={usual}" + (f" ({others})" if others else ""))
    return ", ".join(told)


def of_attack(name: str) -> str:
    """What an attack is, what it asks of a model, and its parameters."""
    attack = registry.get_attack(name)
    hints = inspect.get_annotations(attack.run, eval_str=True)
    rows = [(key, _text(default), _takes(hints.get(key, Any))) for key, default in attack.parameters.items()]
    return "\n\n".join((
        f"{name}: {inspect.getdoc(attack.run)}",
        f"needs: {attack.access} · norms: {', '.join(sorted(attack.norms))} · {registry.owner('attack', name)}",
        _table(rows, ("parameter", "default", "takes")) if rows else "No parameters.",
    ))  # fmt: skip


def _fields(cls: type[Any], sets: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per field: name, default, what each data set has instead, and what it means."""
    rows = []
    for field in fields(cls):
        usual = _usual(field)
        own = [_text(chosen[field.name]) if field.name in chosen else usual for chosen in sets.values()]
        rows.append(
            (field.name, usual, *(_SAME if text == usual else text for text in own), fill(meaning(cls, field.name), 60))
        )
    return _table(rows, ("name", "default", *sets, "what it is")) if rows else ""


def _usual(field: Field[Any]) -> str:
    return _text(field.default if field.default is not MISSING else None)


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return str(tabulate(rows, headers, tablefmt="simple", disable_numparse=True))


def meaning(cls: type[Any], name: str) -> str:
    """What the class says of its field in the string below it, or else the class that it has the field from."""
    said = (_meanings(base).get(name, "") for base in cls.__mro__)
    return " ".join(next(filter(None, said), "").split())


@cache
def _meanings(cls: type[Any]) -> Mapping[str, str]:
    """The strings below the fields of a class; none where its source is out of reach, as in an interpreter's prompt."""
    try:
        (tree,) = ast.parse(dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    return {
        field.target.id: below.value.value
        for field, below in pairwise(getattr(tree, "body", []))
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return re.sub(r"\d+\.\d{5,}", lambda found: _text(float(found[0])), str(value))


def _takes(hint: Any) -> str:
    try:
        return _kind(TypeAdapter(hint).json_schema())
    except PydanticUserError:
        return str(hint)


def _kind(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    bounds = " and ".join(f"{sign} {_text(schema[key])}" for key, sign in _BOUNDS.items() if key in schema)
    return f"{_TYPES.get(schema.get('type', ''), 'anything')} {bounds}".strip()
