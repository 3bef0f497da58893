"""What a network was trained on, known by content: a sketch of every image, which small changes to the image leave alone.

A digest tells that a file differs and not what of it was seen: one byte changes it. A sketch is compared by distance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data import sources
from bench.data.datasets import Dataset
from bench.errors import BadInput
from bench.files import atomic

SEEN = "seen.npz"
"""Beside the record of a training on a user's own data."""
_SIDE, _BATCH = 8, 256
_FILE_BYTES = 2**28
_SAME, _PIXEL = 0.6, 130.0
"""Mean distance of two sketches up to which images count as one, and what a single pixel of an image may add to it. So close to
a training image lie 3 of the first 500 test images of MNIST, none of CIFAR-10 and 2 of the 360 of digits; recoded, darkened or
with a pixel changed, an image mostly stays so close to itself (tests/data/test_seen.py)."""


def sketch(data: Dataset) -> Tensor:
    """The grey values of 8 x 8 parts of each image, less their mean and over their spread, as uint8 [N, 64]."""
    parts = []
    for index in torch.arange(len(data)).split(_BATCH):
        x, _ = data.batch(index)
        gray = F.adaptive_avg_pool2d(x.double().mean(1, keepdim=True), _SIDE).flatten(1)
        gray = gray - gray.mean(1, keepdim=True)
        spread = gray.std(1, keepdim=True)
        parts.append((gray / (spread + 1e-6) * 32 + 128).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(parts)


def among(data: Dataset, seen: Tensor) -> Tensor:
    """Which images of a data set are among those of these sketches [M, 64], as they were or a little changed; bool [N]."""
    own = sketch(data)
    height, width = data.x.shape[2:]
    reach = (_SAME + _PIXEL / max(height * width, _SIDE**2)) * _SIDE**2
    found = _equal(own, seen)
    others = seen.float()
    for index in (~found).nonzero().squeeze(1).split(_BATCH):
        found[index] = torch.cdist(own[index].float(), others, p=1).amin(1) <= reach
    return found


def doubles(data: Dataset, seen: Tensor) -> int:
    """How many images of a data set are among those of these sketches as they were."""
    return int(_equal(sketch(data), seen).sum())


def holds_all(data: Dataset, seen: Tensor) -> bool:
    """Whether a data set holds all images of these sketches as they were."""
    return bool(_equal(seen, sketch(data)).all())


def _equal(some: Tensor, others: Tensor) -> Tensor:
    return torch.from_numpy(np.isin(_rows(some), _rows(others)))


def _rows(sketches: Tensor) -> sources.Array:
    return np.ascontiguousarray(sketches.numpy()).view(f"V{_SIDE**2}").ravel()


def remember(folder: Path, *trained: Dataset) -> None:
    """Keep the sketches of what a training used, validation included, in its folder."""
    with atomic(folder / SEEN) as part, part.open("wb") as file:
        np.savez_compressed(file, seen=torch.cat([sketch(data) for data in trained]).numpy())


def remembered(folder: Path) -> Tensor | None:
    """The sketches that a training left, [M, 64]; None where it left none."""
    path = folder / SEEN
    if not path.is_file():
        return None
    found = sources.arrays(path, _FILE_BYTES).get("seen")
    if found is None or found.dtype != np.uint8 or found.ndim != 2 or found.shape[1] != _SIDE**2 or not len(found):
        raise BadInput(f"{path} does not say what the network was trained on; fetch it again, or train again")
    return torch.from_numpy(found)
