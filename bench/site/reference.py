"""The reference of what Python code may use, as a Markdown text made of the docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

API = "api"
"""What its text is called among the documents."""
MODULES = ("bench", "bench.attack", "bench.defense")
_UNTOLD = ("unknown",)
"""Arguments that are there to be refused."""
_WIDE = 88
"""Characters of a signature on one line."""
_ABOUT = {
    "bench": "To measure, to judge and to extend: `from bench import evaluate`. Arguments are called as on the command line.",
    "bench.attack": "All that an [attack of your own](adding-an-attack.md) imports.",
    "bench.defense": "All that a [defense of your own](adding-a-defense.md) imports.",
}


def reference() -> str:
    """Every public name of the package and of the two modules that plug-ins import, with its signature and docstring."""
    parts = ["# API reference\n\nMade of the docstrings; `help(bench.evaluate)` prints the same in Python.\n"]
    told: set[str] = set()
    for name in MODULES:
        module = import_module(name)
        parts.append(f"## {name}\n\n{_ABOUT[name]}\n")
        names = sorted(module.__all__, key=str.lower)
        parts += [_entry(name, public, getattr(module, public)) for public in names if public not in told]
        if again := [f"[{public}](#{public.lower().replace('_', '-')})" for public in names if public in told]:
            parts.append(f"And from above: {', '.join(again)}.\n")
        told |= set(names)
    return "\n".join(parts)


def _entry(module: str, name: str, thing: Any) -> str:
    """A heading, how it is called, and what it says of itself."""
    if inspect.isclass(thing):
        members = _members(thing)
        return f"### {name}\n\n{_code(_construction(name, thing))}\n{_doc(thing)}\n" + (f"\n{members}\n" if members else "")
    if inspect.isfunction(thing):
        return f"### {name}\n\n{_code(_signature(name, thing))}\n{_doc(thing)}\n"
    return f"### {name}\n\n{_said_below(module, name)}\n"


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _signature(name: str, function: Any) -> str:
    """On one line, or an argument a line."""
    found = inspect.signature(function)
    told = _parameters(list(found.parameters.values()))
    answer = "" if found.return_annotation in (inspect.Signature.empty, None) else f" -> {_type(found.return_annotation)}"
    answer = "" if inspect.isclass(function) else answer
    line = f"{name}({', '.join(told)}){answer}"
    return line if len(line) <= _WIDE else f"{name}(\n" + "".join(f"    {one},\n" for one in told) + f"){answer}"


def _parameters(found: list[inspect.Parameter]) -> list[str]:
    told: list[str] = []
    for one in found:
        if one.name in _UNTOLD:
            continue
        if one.kind is one.KEYWORD_ONLY and "*" not in told and not any(text.startswith("*") for text in told):
            told.append("*")
        star = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
        kind = "" if one.annotation is one.empty else f": {_type(one.annotation)}"
        told.append(f"{star}{one.name}{kind}{_default(one)}")
    return told


def _default(one: inspect.Parameter) -> str:
    if one.default is one.empty:
        return ""
    return f" = {'...' if type(one.default).__module__ == 'dataclasses' else repr(one.default)}"


def _type(annotation: Any) -> str:
    """As the source has it, names without their modules."""
    text = getattr(annotation, "__forward_arg__", annotation)
    text = text if isinstance(text, str) else getattr(text, "__name__", str(text))
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)


def _construction(name: str, cls: type[Any]) -> str:
    """How a value is made; bare where one is only handed over, or has more fields than a reader wants."""
    made = getattr(cls, "_is_protocol", False) or issubclass(cls, Exception) or hasattr(cls, "model_fields")
    return f"class {name}" if made else f"class {_signature(name, cls)}".removesuffix("()")


def _members(cls: type[Any]) -> str:
    """Fields, properties and methods that say what they are, a line each."""
    fields = _strings(cls)
    lines = [f"- `{name}`: {told}" for name, told in fields.items()]
    for name, member in vars(cls).items():
        if name.startswith("_") or name in fields:
            continue
        if isinstance(member, property) and member.fget and (told := _first(member.fget)):
            lines.append(f"- `{name}`: {told}")
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(plain) and (told := _first(plain)):
            lines.append(f"- `{_call(name, plain, bound=not isinstance(member, staticmethod))}`: {told}")
    return "\n".join(lines)


def _call(name: str, function: Any, *, bound: bool) -> str:
    """A method as it is called, without its types."""
    return f"{name}({', '.join(list(inspect.signature(function).parameters)[bound:])})"


def _first(thing: Any) -> str:
    """The first sentence or lines, as far as an empty one."""
    return _line(_doc(thing))


def _line(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _strings(cls: type[Any]) -> dict[str, str]:
    """What the strings below its fields say."""
    try:
        body = ast.parse(inspect.cleandoc(inspect.getsource(cls))).body[0]
    except (OSError, SyntaxError, TypeError):
        return {}
    return dict(_below(body.body if isinstance(body, ast.ClassDef) else []))


def _below(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for here, after in pairwise(body):
        target = here.target if isinstance(here, ast.AnnAssign) else here.targets[0] if isinstance(here, ast.Assign) else None
        told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(told, str) and not target.id.startswith("_"):
            yield target.id, _line(told)


def _said_below(module: str, name: str) -> str:
    """Of a value: the string below it where it is made, and what it holds."""
    home = _home(import_module(module), name)
    told = dict(_below(ast.parse(inspect.getsource(home)).body)).get(name, "")
    value = getattr(home, name)
    if isinstance(value, Mapping):
        return f"{told} Of: {', '.join(f'`{key}`' for key in value)}.".strip()
    if get_origin(value) is Literal:
        return f"{told} One of {', '.join(f'`{choice!r}`' for choice in get_args(value))}.".strip()
    return told or f"`{_type(str(value))}`"


def _home(module: ModuleType, name: str) -> ModuleType:
    """The module that makes what another imports."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return _home(import_module(node.module), name)
    return module
