"""A dozen samples that fell, from the archive's own bytes, as one image; a page shows parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.core import ThreatModel
from bench.report import Falls
from bench.site.asked import Examples

DOZEN = 12
_GAP, _LARGEST = 1, 112
"""Pixels between images, and of the side of one at most."""


class Tile(NamedTuple):
    """One sample: its parts of the sprite as view boxes, and what is said below it."""

    boxes: tuple[str, ...]
    words: tuple[str, ...]


class Gallery(NamedTuple):
    """Samples with the image that they are parts of."""

    png: bytes
    width: int
    height: int
    tiles: tuple[Tile, ...]
    told: str


def gallery(found: Examples, falls: Falls, names: Sequence[str], only: Sequence[int] = ()) -> Gallery | None:
    """A dozen of the examples, spread over the attacks that found them; only: of these samples."""
    places = _chosen(found, falls, only)
    if not places:
        return None
    columns = [found.z[places]]
    magnified = 1.0
    if found.x is not None:
        x, z = found.x[places], found.z[places]
        widest = float((z - x).abs().max())
        magnified = 0.5 / widest if widest > 0 else 1.0
        columns = [x, z, ((z - x) * magnified + 0.5)]
    png, size, (width, height) = _sprite(columns)
    labels = falls.label_of
    tiles = []
    for at, place in enumerate(places):
        boxes = tuple(_box(row, at, size) for row in range(len(columns)))
        tiles.append(Tile(boxes, _words(found, falls, place, labels, names)))
    shown = "the image, the adversarial example" if found.x is not None else "the adversarial example"
    told = f"Each: {shown}{f', their difference {magnified:.3g} times magnified' if found.x is not None else ''}. {found.told}"
    return Gallery(png, width, height, tuple(tiles), told.strip())


def _chosen(found: Examples, falls: Falls, only: Sequence[int]) -> list[int]:
    """Places of up to a dozen, evenly spread over the order in which attacks found them."""
    ids = found.ids.tolist()
    known = [place for place, number in enumerate(ids) if number in falls.by.index and (not only or number in set(only))]
    order = {run: place for place, run in enumerate(falls.taken)}
    by = falls.by
    known.sort(key=lambda place: (order[by.at[ids[place], "attack"], by.at[ids[place], "run"]], ids[place]))
    if len(known) <= DOZEN:
        return known
    return [known[round(step * (len(known) - 1) / (DOZEN - 1))] for step in range(DOZEN)]


def _words(found: Examples, falls: Falls, place: int, labels: dict[int, int], names: Sequence[str]) -> tuple[str, ...]:
    number = int(found.ids[place])
    by = falls.by.loc[number]
    label = _named(labels[number], names)
    first = f"is {label}"
    if found.after is not None:
        share, answer = found.after[place].max(0)
        first = f"{label} → {_named(int(answer), names)}, {100 * float(share):.0f} % sure"
    threat = falls.card.threat
    away = ""
    if found.x is not None:
        eps = float(ThreatModel.parse(threat.norm, threat.eps).eps)
        far = _distance(found.x[place], found.z[place], threat.norm) / eps if eps else 0.0
        away = f"{100 * far:.0f} % of eps away" if eps else ""
    run = str(by["run"])
    how = run if run.startswith("round ") else f"{by['attack']}{f', {run}' if run else ''}"
    return tuple(text for text in (first, away, f"{how} (sample {number})") if text)


def _named(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def _distance(x: Tensor, z: Tensor, norm: str) -> float:
    delta = (z - x).double().flatten()
    return float(delta.abs().max() if norm == "linf" else delta.norm() if norm == "l2" else delta.abs().sum())


def _box(row: int, column: int, size: tuple[int, int]) -> str:
    height, width = size
    return f"{column * (width + _GAP)} {row * (height + _GAP)} {width} {height}"


def _sprite(rows: Sequence[Tensor]) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """A PNG with a row for each kind and a column for each sample; the size of one image, and of all."""
    kinds = [_small(row) for row in rows]
    count, channels, height, width = kinds[0].shape
    sheet = np.full((len(kinds) * (height + _GAP), count * (width + _GAP), 3), 255, dtype=np.uint8)
    for row, kind in enumerate(kinds):
        shown = kind.clamp(0, 1).mul(255).round().to(torch.uint8)
        shown = shown[:, :3] if channels >= 3 else shown[:, :1].expand(-1, 3, -1, -1)
        for column, image in enumerate(shown.permute(0, 2, 3, 1).numpy()):
            top, left = row * (height + _GAP), column * (width + _GAP)
            # The gap is of the image's own edge: where a box is scaled, a trace of it shows.
            wide = np.pad(image, ((0, _GAP), (0, _GAP), (0, 0)), mode="edge")
            sheet[top : top + height + _GAP, left : left + width + _GAP] = wide
    file = BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue(), (height, width), (sheet.shape[1], sheet.shape[0])


def _small(images: Tensor) -> Tensor:
    """At most as large as a page shows."""
    side = max(images.shape[-2:])
    if side <= _LARGEST:
        return images
    size = [max(1, round(extent * _LARGEST / side)) for extent in images.shape[-2:]]
    return F.interpolate(images, size, mode="area")
