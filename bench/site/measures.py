"""What `gauntlet measure` wrote beside a row, for its page: in words, as pictures, and with every number."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from bench.errors import BadInput
from bench.files import below
from bench.measures import Measurement, read_measured_arrays, read_measurement
from bench.report import Row, views
from bench.results import MEASURES, measures_folder, sentences
from bench.results import Measured as Short
from bench.site.markup import drawn

MOST, NUMBERS = 16, 40
"""Measurements of a page, and numbers of one."""
_PICTURES = 150_000
"""Characters of a page's pictures, which keep it small; what is left out lies in the files."""
_ARRAYED = ("kernel", "landscape")
"""Measures with pictures of what lies in their arrays."""

TITLES = {
    "connectivity": "Connectivity", "curvature": "Curvature", "kernel": "Tangent kernel", "landscape": "Loss landscape",
    "linearity": "Linearity", "lipschitz": "Lipschitz bound", "path": "Attack paths", "scattering": "Gradient scattering",
}  # fmt: skip


class Drawn(NamedTuple):
    """A picture as a part of a page."""

    title: str
    drawn: Markup
    caption: str


class Measured(NamedTuple):
    """A measurement for a reader."""

    title: str
    about: str
    of: str
    """What it was asked on, and how."""
    said: str
    pictures: tuple[Drawn, ...]
    numbers: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    file: str


def measured_of(row: Row) -> tuple[list[Measured], list[str]]:
    """The measurements of a row's network, and a sentence for each file that is not one."""
    folder, added = measures_folder(row.entry.path.parent), row.entry.card.model.test_time
    alone = (f"Of the network by itself, without the {added} that this row adds at test time",) if added else ()
    found: list[Measured] = []
    refused, room = [], _PICTURES
    paths = [path for path in below(folder, "*.json") if path.parent == folder] if folder.is_dir() else []
    for path in paths:
        name = f"{MEASURES}/{path.name}"
        if len(found) == MOST:
            refused.append(f"{len(paths) - paths.index(path)} more measurements lie in {MEASURES}/ and are not shown")
            break
        try:
            document = read_measurement(path)
            if document.digest not in ("", row.entry.card.model.digest):
                refused.append(f"{name} is of other weights, {document.model or 'unnamed'}, and not shown")
                continue
            arrays = read_measured_arrays(path, document) if document.measure in _ARRAYED else {}
        except BadInput as error:
            refused.append(f"{name} is not shown: {_reason(error, folder)}")
            continue
        pictures = []
        for view in views(document, arrays):
            picture = drawn(view.figure)
            if len(picture) <= room:
                room -= len(picture)
                pictures.append(Drawn(view.title, picture, view.told))
        told = _told(document, tuple(pictures), name)
        found.append(told._replace(notes=alone + told.notes))
    gone = [short for short in row.entry.card.measures if not (folder / short.file).exists()]
    found += map(_stated, gone[: MOST - len(found)])
    return found, refused


def _stated(short: Short) -> Measured:
    """A measure as the card has it, whose document is not here."""
    kind, numbers = TITLES.get(short.measure, short.measure), [(name, f"{value:.4g}") for name, value in short.values.items()]
    note = "As the card states it; its document is not here, so there are no more numbers and no pictures"
    return Measured(
        kind, "", short.asked, sentences(short.measure, short.values), (), tuple(numbers), (note,), f"{MEASURES}/{short.file}"
    )


def _reason(error: BadInput, folder: Path) -> str:
    """Without where on this machine it is."""
    return str(error).replace(f"{folder}/", "")


def _told(found: Measurement, pictures: tuple[Drawn, ...], file: str) -> Measured:
    kind = TITLES.get(found.measure, found.measure)
    apart = ", through the images" if found.settings.get("of") == "input" else ""
    apart += ", on a plane" if found.settings.get("dimensions") == 2 else ""
    numbers = [(name, "-" if value is None else f"{value:.4g}") for name, value in found.values.items()]
    return Measured(
        kind + apart, found.about, found.asked, sentences(found.measure, found.values),
        pictures, tuple(numbers[:NUMBERS]), found.notes, file,
    )  # fmt: skip
