"""What `gauntlet measure` wrote beside a row, for its page: in words, as pictures, and with every number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from bench.errors import BadInput
from bench.files import below
from bench.measures import FOLDER, Measurement, read_measured_arrays, read_measurement
from bench.report import Row, views
from bench.site.markup import drawn

MOST, NUMBERS = 16, 40
"""Measurements of a page, and numbers of one."""
_PICTURES = 150_000
"""Characters of a page's pictures, which keep it small; what is left out lies in the files."""
_LARGEST = 1e12
"""Of a number in a sentence; a larger one is in the table."""
_ARRAYED = ("kernel", "landscape")
"""Measures with pictures of what lies in their arrays."""

TITLES = {
    "connectivity": "Connectivity", "curvature": "Curvature", "kernel": "Tangent kernel", "landscape": "Loss landscape",
    "linearity": "Linearity", "lipschitz": "Lipschitz bound", "path": "Attack paths", "scattering": "Gradient scattering",
}  # fmt: skip
_SAID: Mapping[str, Sequence[tuple[str, ...]]] = {
    "linearity": (
        ("At eps a perturbation is {:.3g} long in l2, where the ball allows {:.3g}.", "l2 size", "eps sqrt(d)"),
        ("First order misses {:.0%} of what the loss changes by there, in the median.", "error, median"),
        ("Between the gradients at the image and at the end of the ascent the cosine is {:.2f}.", "cosine"),
    ),
    "path": (
        ("The mean loss climbs from {:.3g} to {:.3g}, half of it in {:.0f} steps.", "clean loss", "final loss",
         "steps to half of the rise"),
        ("{:.0%} of the steps lose height.", "falling steps"),
        ("{:.1%} of the images are fooled at the end, {:.1%} somewhere on the way.", "fooled at the end", "ever fooled"),
    ),
    "curvature": (
        ("The largest eigenvalue of the Hessian is {:.4g} for the clean loss.", "clean top"),
        ("It is {:.4g} for the adversarial loss.", "adversarial top"),
        ("That is {:.3g} times the clean one.", "top, adversarial over clean"),
        ("Traces: {:.4g} clean, {:.4g} adversarial.", "clean trace", "adversarial trace"),
    ),
    "scattering": (
        ("Between two nearby networks the gradient of the adversarial loss changes by {:.3g} of its length.",
         "change over gradient"),
        ("The weights alone would make {:.3g}, perturbations that moved make {:.3g}.", "by weights", "by perturbations"),
        ("The perturbations of the two have a cosine of {:.3g}.", "cosine of perturbations"),
        ("Epochs of the training at the loss of a constant answer: {:.0f}.", "plateau epochs"),
    ),
    "kernel": (
        ("From the clean to the attacked kernel the distance is {:.3g}.", "distance, clean to attacked"),
        ("Effective rank: {:.1f} clean, {:.1f} attacked.", "clean effective rank", "attacked effective rank"),
        ("Specialisation: {:.3g} clean, {:.3g} attacked, where 1 is none.", "clean specialisation", "attacked specialisation"),
        ("At the end of the watched training the kernel turned by {:.3g} from look to look.", "velocity"),
    ),
    "landscape": (
        ("At the weights the loss is {:.3g} clean and {:.3g} adversarial.", "clean at the centre", "adversarial at the centre"),
        ("Roughness along the line: {:.3g} clean, {:.3g} adversarial.", "clean roughness", "adversarial roughness"),
        ("Around an image the loss is {:.3g} at the image and {:.3g} at most.", "at the centre", "at most"),
    ),
    "connectivity": (
        ("Straight on, the way has a barrier of {:.3g} in the adversarial loss; a curve that was trained has {:.3g}.",
         "line: barrier", "curve: barrier"),
    ),
    "lipschitz": (
        ("In the ball a margin's slope is at most {:.4g} and was found to be {:.4g}.", "guaranteed", "sampled"),
        ("That proves {:.1%} of the images.", "proved"),
        ("The certain radius is {:.3g} in the median.", "certain radius"),
    ),
}  # fmt: skip
"""Of each measure, sentences and the values that they say; one without all of its values is not said."""


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
    folder = row.entry.path.parent.parent / FOLDER
    found: list[Measured] = []
    refused, room = [], _PICTURES
    paths = [path for path in below(folder, "*.json") if path.parent == folder] if folder.is_dir() else []
    for path in paths:
        name = f"{FOLDER}/{path.name}"
        if len(found) == MOST:
            refused.append(f"{len(paths) - paths.index(path)} more measurements lie in {FOLDER}/ and are not shown")
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
        found.append(_told(document, tuple(pictures), name))
    return found, refused


def _reason(error: BadInput, folder: Path) -> str:
    """Without where on this machine it is."""
    return str(error).replace(f"{folder}/", "")


def _told(found: Measurement, pictures: tuple[Drawn, ...], file: str) -> Measured:
    settings = [f"{key} {_setting(value)}" for key, value in found.settings.items()]
    of = [found.data, found.split, f"{found.norm} {found.eps or ''}".strip(), *settings]
    kind = TITLES.get(found.measure, found.measure)
    apart = ", through the images" if found.settings.get("of") == "input" else ""
    apart += ", on a plane" if found.settings.get("dimensions") == 2 else ""
    numbers = [(name, "-" if value is None else f"{value:.4g}") for name, value in found.values.items()]
    return Measured(
        kind + apart, found.about, ", ".join(filter(None, of)), _sentences(found),
        pictures, tuple(numbers[:NUMBERS]), found.notes, file,
    )  # fmt: skip


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentences(found: Measurement) -> str:
    """What the values come to."""
    said = []
    for sentence, *names in _SAID.get(found.measure, ()):
        values = [found.values.get(name) for name in names]
        if all(value is not None and abs(value) < _LARGEST for value in values):
            said.append(sentence.format(*values))
    return re.sub(r"(?<=\d)%", " %", " ".join(said))
