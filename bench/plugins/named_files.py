"""Files that a setting names: their content is a part of what is trained and evaluated, whatever their path."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from bench.errors import BadInput, PluginWarning
from bench.files import sha256

_REFERENCE = re.compile(r"^(run|ckpt):")


class NamedFile:
    """Marks a text field as the path of a file."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


WeightsFile = Annotated[str, NamedFile("weights")]
"""The path of a weights file, "" for none: `teacher: WeightsFile = ""`."""
DataFile = Annotated[str, NamedFile("data")]
"""The path of a file of data, "" for none."""


def file_digests(what: str, hints: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of every file and run folder that a setting names; BadInput where a declared one is missing.

    what: whose settings they are, for the sentence about a file that plain text names. hints: their annotations.
    """
    found = {}
    for key, value in settings.items():
        kind = next((part.kind for part in getattr(hints.get(key), "__metadata__", ()) if isinstance(part, NamedFile)), None)
        for number, text in enumerate(_texts(value)):
            place = _place(text, declared=kind is not None)
            if kind and text and place is None:
                raise BadInput(f"{what}: {key} = {text!r}: there is no {kind} file of that name; check the path")
            if place is None:
                continue
            found[f"{key}.{number}" if number else key] = _digest(place)
            if kind is None:
                told = (
                    f"{what}: {key} = {text!r} names a file: its content counts, so that another file of that name is another "
                    f"training; say so in the plug-in: `{key}: WeightsFile` or `DataFile`, from bench.defense"
                )
                warnings.warn(told, PluginWarning, stacklevel=2)
    return found


def annotations_of(cls: type[Any]) -> dict[str, Any]:
    """The annotations of a class with what `Annotated` adds to them; empty where they cannot be told."""
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):
        return {}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _place(text: str, *, declared: bool) -> Path | None:
    """The file or run folder that a text names, also as a reference of a model ("run:", "ckpt:", "?weights=last")."""
    for candidate in (text, _REFERENCE.sub("", text).partition("?")[0]):
        path = Path(candidate)
        # A word such as "cosine" names no file, even where one happens to be called so.
        plausible = declared or path.suffix or path.parent != Path() or candidate != text
        try:
            if candidate and plausible and (path.is_file() or (path / "train.json").is_file()):
                return path
        except (OSError, ValueError):  # too long, a NUL
            continue
    return None


def _digest(place: Path) -> str:
    if place.is_file():
        return sha256(place)
    total = hashlib.sha256()
    for file in sorted(place.glob("*.safetensors")):
        total.update(f"{file.name} {sha256(file)}\n".encode())
    return total.hexdigest()
