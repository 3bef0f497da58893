"""Measures in short, as cards have them, and the documents that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from bench.errors import BadInput
from bench.files import sha256
from bench.results.card import MOST_MEASURED, ModelInfo
from bench.results.headlines import headline
from bench.results.measurement import Measurement, read_measurement
from bench.results.places import MEASURES
from bench.results.schema import ASKED, Measured


def measures_folder(folder: Path) -> Path:
    """Where the documents of a model lie, from the folder of one of its evaluations."""
    return folder.resolve().parent / MEASURES


def is_of(found: Measurement, model: ModelInfo) -> bool:
    """Whether a measurement is of the weights of a card that answer by themselves; a defense at test time answers otherwise."""
    return bool(found.digest) and found.digest == model.digest and not model.test_time


def in_short(found: Measurement, path: Path) -> Measured | None:
    """A measurement as a card has it; None of one that has no headline, or that a card could not hold."""
    asked = "".join(letter if letter.isprintable() else "?" for letter in found.asked)
    values = headline(found.measure, found.values)
    try:
        return Measured(measure=found.measure, asked=asked[:ASKED], values=values, file=path.name, sha256=sha256(path))
    except ValidationError:
        return None


def measured_beside(model: ModelInfo, folder: Path) -> tuple[Measured, ...]:
    """The measurements of these weights, in short, that lie beside the folder of an evaluation; in the order of their files."""
    home = measures_folder(folder)
    found: list[Measured] = []
    for path in sorted(home.glob("*.json")) if home.is_dir() else ():
        try:
            document = read_measurement(path)
            short = in_short(document, path) if is_of(document, model) else None
        except (BadInput, OSError):
            continue
        found += [short] if short else []
    return tuple(found[:MOST_MEASURED])


def with_measured(measured: Sequence[Measured], new: Measured) -> tuple[Measured, ...]:
    """The measures of a card with one more, or in place of an older one of the same file."""
    return tuple(sorted([*(old for old in measured if old.file != new.file), new], key=lambda short: short.file))
