"""Datasets: images held as they were stored, floats one batch at a time, and ids that stay with the samples."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core import Rng, shuffled
from bench.data import sources
from bench.data.folders import FolderPart
from bench.data.held import PREFIX, held
from bench.data.order import in_runs, in_turn
from bench.data.parts import parts, read
from bench.errors import BadInput, UnknownName

_TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}
SPLITS = ("train", "test", "all")
CLASSES = {"digits": 10, "mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "svhn": 10, "structured": 2}
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4380, 0.4440, 0.4730), (0.1751, 0.1771, 0.1744)),
}
"""Mean and standard deviation per channel of the training images in [0, 1]; a set that is not here is used as it is."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a labelled set of images.

    x: uint8 [N, C, H, W], or float32 in [0, 1] when the source was float. y: int64 [N]. ids: int64 [N], each sample's
    position within (name, split).
    """

    name: str
    split: str
    x: Tensor
    y: Tensor
    ids: Tensor
    classes: int
    source: str
    whole: str = ""
    """Of a user's own source: the digest of the whole split that these samples are from; a named set is its name."""
    published: bool = False
    """Whether it is a standard set in its published order, of which the first n are what others report on."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Of every class by its name, where the source has names."""
    taken: str = ""
    """How these samples were taken, where they are not the first n or all in the order of the source."""
    notes: tuple[str, ...] = ()
    """What lies in the source and was not read, a sentence each."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    @property
    def family(self) -> str:
        """Which models fit the images: "digits", "mnist", "cifar" or, for what the lab makes, "structured"."""
        if self.published and self.name == "structured":
            return self.name
        channels, height, _ = self.shape
        if channels == 1 and height >= 20:
            return "mnist"
        return "cifar" if channels == 3 and height >= 24 else "digits"

    @cached_property
    def digest(self) -> str:
        """The sha256, in hex, over shape, dtype, image bytes and label bytes."""
        x, y = (part.cpu().contiguous().numpy() for part in (self.x, self.y))
        digest = sha256(f"{x.shape} {x.dtype}".encode())
        digest.update(x.data)
        digest.update(y.data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Dataset:
        """The same samples on a device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device), ids=self.ids.to(device))

    def first(self, n: int | None) -> Dataset:
        """The first n samples in order, or all of them for None."""
        if n is None:
            return self
        if not 1 <= n <= len(self):
            raise BadInput(f"{self.name} {self.split} holds {len(self)} samples, not {n}; ask for 1 to {len(self)}")
        return replace(self, x=self.x[:n], y=self.y[:n], ids=self.ids[:n])

    def take(self, n: int | None) -> Dataset:
        """n samples to evaluate on, or all for None, in an order whose beginning is fit to stand for the whole.

        Those of a standard set are its first n. Of anybody's own source, whose order may be that of the classes, they are a
        fixed choice with as many of each class as there are.
        """
        if self.published or (n in (None, len(self)) and not in_runs(self.y)):
            return self.first(n)
        size = len(self.first(n))
        several = "the classes take turns, in an order of a fixed seed"
        how = f"{size} of {len(self)}: {several}" if size < len(self) else f"all, and {several}"
        return replace(self.select(in_turn(self.y)[:size]), taken="; ".join(filter(None, [self.taken, how])))

    def select(self, index: Tensor) -> Dataset:
        """The samples at these positions, with their ids."""
        index = index.to(self.x.device)
        return replace(self, x=self.x[index], y=self.y[index], ids=self.ids[index])

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 [n, C, H, W] in [0, 1] and labels [n] at these positions, on the dataset's device."""
        index = index.to(self.x.device)
        x = self.x[index]
        return (x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x), self.y[index]


def names() -> list[str]:
    """The sets that `load` knows by name."""
    return list(CLASSES)


def load(name_or_path: str, split: str = "test", limit: int | None = None) -> Dataset:
    """Read a split of a named set, of an .npz file or of a folder; "all" means test where the source has a split.

    limit: bytes that images of a file or a folder may take, for one that nobody vouches for; nothing larger is unpacked.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    if name_or_path in CLASSES:
        return _named(name_or_path, "test" if split == "all" else split)
    if name_or_path.startswith(PREFIX):
        x, y = held(name_or_path)
        every = Dataset(name_or_path, "all", x, y, torch.arange(len(x)), max(2, int(y.max()) + 1), name_or_path)
        mine = every if split == "all" else replace(every, split=split).select(_share(name_or_path, len(x), split))
        return replace(mine, whole=mine.digest)
    path = _existing(name_or_path)
    found = parts(path)
    whole = "all" in found
    if not whole and split == "all":
        split = "test"
    part = found["all" if whole else split]
    x, y = read(part, limit)
    labels, notes = ({}, ()) if not isinstance(part, FolderPart) else (part.labels, tuple(part.notes()))
    count = max(
        other.classes if isinstance(other, FolderPart) else int(other.targets(limit).max()) + 1 for other in found.values()
    )
    name = path.resolve().name if path.is_dir() else path.stem
    ids = torch.arange(len(x))
    dataset = Dataset(name, split, x, y, ids, max(2, count), name_or_path, labels=labels, notes=notes)
    dataset = dataset if split == "all" or not whole else dataset.select(_share(name_or_path, len(x), split))
    return replace(dataset, whole=dataset.digest)


def has_own_split(name_or_path: str) -> bool:
    """Whether train and test are separate in the source; only then is "all" not everything."""
    if name_or_path.startswith(PREFIX):
        return False
    return name_or_path in CLASSES or "all" not in parts(_existing(name_or_path))


def hold_out(train: Dataset, size: int) -> tuple[Dataset, Dataset]:
    """Cut a validation set off the training data, the same whatever the training seed: (rest, validation).

    At most 10% of the data and at least one sample are held out.
    """
    if len(train) < 2:
        raise BadInput(f"{train.name} {train.split} holds {len(train)} sample; holding one out needs at least 2")
    size = max(1, min(size, len(train) // 10))
    order = shuffled(len(train), 0, "validation")
    return train.select(order[size:]), train.select(order[:size])


def digest_of_training(name_or_path: str, held_out: int) -> str:
    """The digest of the images that a training on this data sees, less those that it is validated on.

    BadInput where they are not here: beside test images that the user keeps nothing is fetched to tell.
    """
    if name_or_path not in CLASSES:
        return hold_out(load(name_or_path, "train"), held_out)[0].digest
    there = {split: _file(name_or_path, split).exists() for split in ("train", "test")}
    if name_or_path not in _EMBEDDED and there == {"train": False, "test": True}:
        raise BadInput(f"{name_or_path} is here without its training images; put train.npz into $GAUNTLET_DATA/{name_or_path}/")
    return _digest_of_named(name_or_path, held_out, os.environ.get("GAUNTLET_DATA"))


@cache
def _digest_of_named(name: str, held_out: int, root: str | None) -> str:
    """Of a set that a board asks for once for each of its rows."""
    del root  # where `load` finds it
    return hold_out(load(name, "train"), held_out)[0].digest


def crop_and_flip(x: Tensor, rng: Rng, pad: int = 4, flip: bool = True) -> Tensor:
    """A random window of each zero-padded image, mirrored half of the time; [N, C, H, W] and dtype as given."""
    height, width = x.shape[2:]
    windows = F.pad(x, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    down, right = rng.at("crop").integers(2 * pad + 1, (2,)).unbind(1)
    x = windows[torch.arange(len(x), device=x.device), :, down, right]
    if not flip:
        return x
    return torch.where(rng.at("flip").uniform((1, 1, 1)) < 0.5, x.flip(3), x)


def _existing(text: str) -> Path:
    with sources.readable(f"dataset {text!r}"):
        path = Path(text).expanduser()
        if text and path.exists():
            return path
    if path.suffix.lower() == ".npz" or {"/", os.sep} & set(text):
        raise BadInput(f"dataset {text!r} does not exist; give the path of an .npz file or of a folder")
    raise UnknownName("dataset", text, CLASSES)


def _share(text: str, size: int, split: str) -> Tensor:
    """Positions of the fixed 80/20 split of a source that has none of its own."""
    if size < 2:
        raise BadInput(f"dataset {text!r} holds {size} sample; splitting it in train and test needs at least 2")
    order = shuffled(size, 0, "split")
    test = max(1, size // 5)
    return order[:test] if split == "test" else order[test:]


def _named(name: str, split: str) -> Dataset:
    file = _file(name, split)
    if name in _EMBEDDED:
        (x, y), source = _EMBEDDED[name](split), "embedded"
    elif file.exists():
        (x, y), source = read(sources.NpzPart(file)), f"$GAUNTLET_DATA/{name}/{split}.npz"
    else:
        (x, y), source = _download(name, split), "cache"
    if y.max() >= CLASSES[name]:
        raise BadInput(f"{name} {split} ({source}) has the label {int(y.max())}; {name} has {CLASSES[name]} classes, from 0")
    return Dataset(name, split, x, y, torch.arange(len(x)), CLASSES[name], source, published=True)


def _file(name: str, split: str) -> Path:
    """Where a named set lies that the user keeps; nowhere that exists without $GAUNTLET_DATA."""
    root = os.environ.get("GAUNTLET_DATA")
    return Path(root, name, f"{split}.npz").expanduser() if root else Path(os.devnull, name)


def _digits(split: str) -> tuple[Tensor, Tensor]:
    """The 8 x 8 handwritten digits inside scikit-learn: 360 for test, 1437 for train, at fixed places."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = shuffled(len(found.target), 0, "digits")
    order = order[:360] if split == "test" else order[360:]
    x = sources.as_images(np.rint(found.images * 255 / 16).astype(np.uint8), "digits")
    return x[order], sources.as_labels(found.target, "digits")[order]


def _structured(split: str) -> tuple[Tensor, Tensor]:
    """Patches with robust and non-robust features (bench.science.lab.structured): 512 for training, 500 for test."""
    from bench.science.lab.structured import World, as_images

    size, seed = (500, 1) if split == "test" else (512, 0)
    x, y = World().draw(size, torch.Generator().manual_seed(seed))
    order = shuffled(size, 0, "structured")
    return as_images(x[order]), y[order]


_EMBEDDED = {"digits": _digits, "structured": _structured}
"""Sets that need no file."""


def _download(name: str, split: str) -> tuple[Tensor, Tensor]:
    """A named set through torchvision, fetched once into $GAUNTLET_CACHE or ~/.cache/gauntlet."""
    cache = os.environ.get("GAUNTLET_CACHE") or "~/.cache/gauntlet"
    try:
        import torchvision

        kind = getattr(torchvision.datasets, _TORCHVISION[name])
        which: dict[str, Any] = {"split": split} if name == "svhn" else {"train": split == "train"}
        with redirect_stdout(sys.stderr):
            found = kind(Path(cache).expanduser(), download=True, **which)
    # Sockets, archives, checksums and assertions: what torchvision lets through has no common type.
    except Exception as failure:
        raise BadInput(
            f"{name} is not here: put train.npz and test.npz (x uint8 NHWC, y int64) at $GAUNTLET_DATA/{name}/, or "
            f"have network for the download into {cache}, which failed: {sources.reason(failure)}"
        ) from None
    if name == "svhn":
        return sources.as_images(found.data.transpose(0, 2, 3, 1), name), sources.as_labels(found.labels, name)
    return sources.as_images(np.asarray(found.data), name), sources.as_labels(np.asarray(found.targets), name)
