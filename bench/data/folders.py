"""Images in folders named by their classes, and which label each class has; read as files that nobody vouches for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data.sources import HIGHEST_LABEL, as_images, readable, refuse_more
from bench.errors import BadInput, UnknownName, nearest
from bench.files import opened, parse_json, read_text

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""Of Pillow's readers those that are used; others, such as PostScript's, run programs."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
READ = "png, jpg, bmp, tif, webp, pgm or ppm"
LISTS = ("classes.txt", "classes.json")
"""Files beside the folders of classes that say which label each class has."""
_GRAY = 2
"""Levels by which the channels of a gray image differ once it went through a format of colours."""
_LIST_BYTES = 2**22


@dataclass(frozen=True)
class FolderPart:
    """The samples of one split as image files `root/<class>/*`."""

    root: Path
    labels: Mapping[str, int]
    """Of every class that has a folder, by its name."""
    classes: int
    """How many there are, those without a folder included."""
    others: tuple[str, ...] = ()
    """Folders beside the root that belong to no split."""
    named: tuple[str, ...] = ()
    """The folders of all splits, where no list says which classes there are."""

    def images(self, limit: int | None = None) -> Tensor:
        """Images, uint8 [N, C, H, W] with C = 1 when every file is grayscale, else 3; BadInput beyond so many bytes."""
        files = [file for file, _ in self._files()]
        sizes, modes = set(), set()
        for file in files:
            with readable(f"{file}"), opened(file) as raw, Image.open(raw, formats=FORMATS) as image:
                sizes.add(image.size)
                # Before a pixel is unpacked: a file of a few bytes may promise a picture of any size.
                refuse_more(f"{file}", len(files) * math.prod(image.size), limit)
                modes.add(_mode(image))
                if len(sizes) > 1:
                    found = " and ".join(f"{width}x{height}" for width, height in sorted(sizes))
                    raise BadInput(f"{self.root} holds images of {found} ({file}); resize them all to one size")
                if reason := _unlike_what_is_seen(image, raw):
                    raise BadInput(f"{file} {reason}")
        (width, height), mode = sizes.pop(), "L" if modes <= {"1", "L"} else "RGB"
        x = np.empty((len(files), height, width, len(mode)), dtype=np.uint8)
        for row, file in zip(x, files, strict=True):
            with readable(f"{file}"), opened(file) as raw, Image.open(raw, formats=FORMATS) as image:
                row[...] = np.asarray(image.convert(mode)).reshape(row.shape)
        return as_images(x, f"{self.root}")

    def targets(self, limit: int | None = None) -> Tensor:
        """Labels, int64 [N]."""
        del limit  # as many as there are files
        return torch.tensor([label for _, label in self._files()])

    def notes(self) -> Iterator[str]:
        """What lies there and is not read, a sentence each."""
        with readable(f"{self.root}"):
            every = [file for file in self.root.rglob("*") if file.is_file() and _seen(file.relative_to(self.root))]
        read = {file for file, _ in self._files()}
        kinds = Counter(file.suffix.lower() or "no suffix" for file in every if file not in read and file.name not in LISTS)
        if kinds:
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
            yield (
                f"{kinds.total()} files below {self.root} are not read and not counted ({told}): images are {READ} files "
                "right in the folder of their class; convert or move them if they belong to the set"
            )
        filled = {file.parent.name for file in read}
        empty = [name for name in _subfolders(self.root) if name not in filled]
        if empty:
            more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
            yield (
                f"folder {', '.join(empty[:3])}{more} below {self.root} counts as a class and holds no image that is read: the "
                "numbers say nothing of it, and if it is no class, the labels behind it are shifted; fill it or move it away"
            )
        own = _subfolders(self.root)
        if lacking := [name for name in self.named if name not in own]:
            near = nearest(lacking[0], own)
            meant = f" (did you mean its {near}?)" if near else ""
            yield (
                f"{self.root} has no folder {', '.join(lacking[:3])}{meant}, which the other split has: it counts as a class "
                "of its own, learnt or judged and not both; name the folders alike, or list the classes in classes.txt"
            )
        if self.others:
            others = ", ".join(self.others[:3])
            yield f"folder {others} beside {self.root} is of no split and not read; move it into one if it belongs to the set"

    def _files(self) -> list[tuple[Path, int]]:
        found: list[tuple[Path, int]] = []
        with readable(f"{self.root}"):
            for name, label in self.labels.items():
                folder = self.root / name
                inside = sorted(folder.iterdir()) if folder.is_dir() else []
                found += [(file, label) for file in inside if _visible(file) and file.suffix.lower() in _SUFFIXES]
        if not found:
            raise BadInput(f"{self.root} holds no {READ} files in <class>/; put each image in its class's folder")
        return found


def _unlike_what_is_seen(image: Image.Image, raw: BinaryIO) -> str:
    """Why what would be read of an image is not what a person sees there, and the remedy; empty where it is."""
    if image.mode.startswith(("I", "F")) or _deep(raw):
        return f"(mode {image.mode}) has more than 8 bits per channel; save it with 8 bits"
    if _transparent(image):
        return (
            "is transparent in places, and its colours there are not what anybody sees; put it on a ground of one colour and "
            "save it without transparency"
        )
    # Cameras add previews to their JPEGs.
    if image.format != "MPO" and (count := getattr(image, "n_frames", 1)) > 1:
        return f"holds {count} images, of which one would be read; save each in a file of its own"
    return ""


def _deep(raw: BinaryIO) -> bool:
    """Whether a file is a PNG of 16 bits per channel, of which Pillow would read the upper half."""
    place = raw.tell()
    raw.seek(0)
    start = raw.read(25)
    raw.seek(place)
    return start.startswith(b"\x89PNG") and start[24:] == b"\x10"


def _transparent(image: Image.Image) -> bool:
    """Whether any pixel shows what is behind it."""
    if "transparency" not in image.info and "A" not in image.getbands():
        return False
    return bool(np.asarray(image.convert("RGBA"))[..., 3].min() < 255)


def _mode(image: Image.Image) -> str:
    """The mode of an image; "L" of a gray one whose format has no such mode."""
    if image.format != "WEBP" or image.mode != "RGB":
        return image.mode
    pixels = np.asarray(image).astype(np.int16)
    return "L" if np.ptp(pixels, axis=2).max() <= _GRAY else image.mode


def folder_parts(path: Path, splits: Mapping[str, str]) -> dict[str, FolderPart]:
    """The splits of a folder of images; splits: the folder of each, by its name, or "all" for the folder itself."""
    inside = {split: _subfolders(path / folder) for split, folder in splits.items()}
    every = natural({name for names in inside.values() for name in names})
    labels, classes = labels_of(path, every)
    unlisted = tuple(every) if not any((path / file).is_file() for file in LISTS) else ()
    others = tuple(name for name in _subfolders(path) if name not in splits.values()) if "all" not in splits else ()
    return {split: FolderPart(path / folder, labels, classes, others, unlisted) for split, folder in splits.items()}


def natural(names: Iterable[str]) -> list[str]:
    """Names in the order that people count in: "2" before "10"."""

    def key(name: str) -> tuple[list[tuple[str, int]], str]:
        pieces = re.findall(r"([^0-9]*)([0-9]*)", name)
        return [(text, int(number or -1)) for text, number in pieces], name

    return sorted(names, key=key)


def labels_of(path: Path, names: Iterable[str]) -> tuple[dict[str, int], int]:
    """The labels of classes, as classes.txt or classes.json has them, else by natural order; and how many classes there are."""
    names = natural(names)
    listed = next((path / file for file in LISTS if (path / file).is_file()), None)
    if listed is None:
        return {name: label for label, name in enumerate(names)}, len(names)
    with readable(f"{listed}"):
        text = read_text(listed, _LIST_BYTES)
    known = _from_json(text, listed) if listed.suffix == ".json" else _from_lines(text, listed, names)
    for name in names:
        if name not in known:
            raise UnknownName(f"class in {listed} for the folder", name, known)
    if len(known) > HIGHEST_LABEL or not all(0 <= label <= HIGHEST_LABEL for label in known.values()):
        raise BadInput(f"{listed}: number the classes from 0, at most {HIGHEST_LABEL}")
    if len(set(known.values())) < len(known):
        raise BadInput(f"{listed} gives two classes one label; give each its own")
    return {name: known[name] for name in sorted(names, key=known.__getitem__)}, max(known.values()) + 1


def _from_lines(text: str, path: Path, names: Iterable[str]) -> dict[str, int]:
    """Of a line each: names in the order of their labels, or a name and its label."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [re.fullmatch(r"(.*?)[\s,:=]+([0-9]{1,6})", line) for line in lines]
    # "class 3" may be a name; where every folder is a line of its own, it is.
    if lines and all(pairs) and not set(names) <= set(lines):
        return _distinct([(pair[1], int(pair[2])) for pair in pairs if pair], path)
    return _distinct([(line, label) for label, line in enumerate(lines)], path)


def _from_json(text: str, path: Path) -> dict[str, int]:
    """A list of names in the order of their labels, {name: label}, or {"label": name}, of several names the first."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise BadInput(f"{path} is not JSON ({str(error)[:200]}); write a list of names or {{name: label}}") from None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return _distinct([(name, label) for label, name in enumerate(content)], path)
    if isinstance(content, dict) and all(type(label) is int for label in content.values()):
        return _distinct([*content.items()], path)
    if isinstance(content, dict) and all(re.fullmatch("[0-9]{1,6}", label) for label in content):
        first = {label: name[0] if isinstance(name, list) and name else name for label, name in content.items()}
        if all(isinstance(name, str) for name in first.values()):
            return _distinct([(str(name), int(label)) for label, name in first.items()], path)
    raise BadInput(f"{path} is no map of classes; write a list of names in the order of their labels, or {{name: label}}")


def _distinct(pairs: list[tuple[str, int]], path: Path) -> dict[str, int]:
    labels = dict(pairs)
    if len(labels) < len(pairs) or not labels:
        raise BadInput(f"{path} names {'a class twice' if labels else 'no class'}; give each class once")
    return labels


def holds_classes(path: Path) -> bool:
    """Whether there are folders of classes in a folder."""
    return bool(_subfolders(path))


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _seen(path: Path) -> bool:
    return not any(part.startswith((".", "__")) for part in path.parts)


def _subfolders(path: Path) -> list[str]:
    return natural(one.name for one in path.iterdir() if one.is_dir() and _visible(one)) if path.is_dir() else []
