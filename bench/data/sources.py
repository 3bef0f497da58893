"""Samples in npz files, and arrays as images and labels; read as files that nobody vouches for."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BadInput, GauntletError
from bench.files import opened

Array = NDArray[Any]
HIGHEST_LABEL = 65535


@dataclass(frozen=True)
class NpzPart:
    """The samples of one split under two keys of an npz file."""

    path: Path
    x: str = "x"
    y: str = "y"

    def images(self, limit: int | None = None) -> Tensor:
        """Images, uint8 or float32 [N, C, H, W]; BadInput where they would take more than so many bytes."""
        return as_images(_array(self.path, self.x, limit), f"{self.path}: {self.x}")

    def targets(self, limit: int | None = None) -> Tensor:
        """Labels, int64 [N]."""
        return as_labels(_array(self.path, self.y, limit), f"{self.path}: {self.y}")


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Whatever goes wrong with an untrusted file or a download becomes one sentence about `what`."""
    try:
        yield
    except GauntletError:
        raise
    # A damaged file can make zipfile, zlib, numpy and PIL raise nearly anything, and torchvision asserts.
    except Exception as failure:
        raise BadInput(f"{what} cannot be read ({reason(failure)}); check that it is whole and yours to read") from None


def reason(failure: Exception) -> str:
    """An exception on one line."""
    return " ".join(f"{type(failure).__name__}: {failure}".split())


def keys_of(path: Path) -> list[str]:
    """The names of the arrays in an npz file."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        pass
    with opened(path) as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"<"):
        raise BadInput(f"{path} is an HTML page, not an npz file; download the file itself")
    if start.startswith(b"pk"):
        raise BadInput(f"{path} is a truncated npz file; copy or download it again")
    raise BadInput(f"{path} is not an npz file; make one with numpy.savez(path, x=images, y=labels)")


def arrays(path: Path, limit: int) -> dict[str, Array]:
    """The arrays of an npz file that hold no more than so many bytes together, by name."""
    with readable(f"{path}"):
        keys = keys_of(path)
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > limit:
            raise BadInput(f"{path} unpacks to {size} bytes, and at most {limit} can be what it should hold; it is not read")
    return {key: _array(path, key) for key in keys}


def refuse_more(what: str, promised: int, limit: int | None) -> None:
    """BadInput where a file promises more bytes than anybody needs of it."""
    if limit is not None and promised > limit:
        raise BadInput(f"{what} promises {promised} bytes, and at most {limit} can be needed of it; it is not read")


def _array(path: Path, key: str, limit: int | None = None) -> Array:
    """One array of an npz file, read only when its header promises exactly the bytes that the zip directory lists."""
    with readable(f"{path}"):
        keys = keys_of(path)
        if key not in keys:
            raise BadInput(f"{path} needs the key {key}; it holds {', '.join(keys[:9]) or 'nothing'}")
    with readable(f"{path}: {key}"), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
        with archive.open(info) as member:
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = readers[np.lib.format.read_magic(member)](member)
            promised = member.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise BadInput(f"{path}: {key} holds Python objects, which are never unpickled; save an array of numbers")
        if info.file_size != promised:
            raise BadInput(
                f"{path}: {key} has {info.file_size} bytes where its header promises {promised}; make the file again"
            )
        refuse_more(f"{path}: {key}", promised, limit)
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[f"{key}.npy"])


def as_images(x: Array, what: str) -> Tensor:
    """Images [N, H, W] or [N, H, W, C] as uint8 or float32 [N, C, H, W]."""
    if x.ndim not in (3, 4):
        raise BadInput(f"{what} has shape {x.shape}; give images as [N, H, W] or [N, H, W, C]")
    if x.size == 0:
        raise BadInput(f"{what} is empty (shape {x.shape}); give at least one image")
    x = x[..., None] if x.ndim == 3 else x
    if x.shape[3] not in (1, 3) and x.shape[1] in (1, 3):
        raise BadInput(f"{what} has shape {x.shape}, channels first; transpose to NHWC with x.transpose(0, 2, 3, 1)")
    if x.shape[3] > 4:
        raise BadInput(f"{what} has shape {x.shape}, so {x.shape[3]} channels; give [N, H, W, C] with at most 4")
    images = torch.from_numpy(np.ascontiguousarray(_in_range(x, what).transpose(0, 3, 1, 2)))
    # numpy lets an axis of length 1 keep any stride, and a convolution sums in another order for another stride.
    return images.view(-1).view(images.shape)


def _in_range(x: Array, what: str) -> Array:
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind not in "iuf":
        raise BadInput(f"{what} has dtype {x.dtype}; give uint8, or floats in [0, 1]")
    low, high = x.min(), x.max()
    if np.isnan(low):
        raise BadInput(f"{what} contains NaN; give floats in [0, 1]")
    if x.dtype.kind == "f":
        if low < 0 or high > 1:
            raise BadInput(f"{what} ranges from {low:g} to {high:g}, outside [0, 1]; divide by 255 or undo the scaling")
        return x.astype(np.float32)
    if low < 0 or high > 255:
        raise BadInput(f"{what} is {x.dtype} from {low} to {high}; give uint8 from 0 to 255, or floats in [0, 1]")
    return x.astype(np.uint8)


def as_labels(y: Array, what: str) -> Tensor:
    """Labels as int64 [N]."""
    if y.ndim != 1 or y.size == 0:
        raise BadInput(f"{what} has shape {y.shape}; give one label per image, [N]")
    if y.dtype.kind not in "iu":
        raise BadInput(f"{what} has dtype {y.dtype}; give integers, as from y.astype('int64')")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high > HIGHEST_LABEL:
        raise BadInput(f"{what} goes from {low} to {high}; number the classes from 0, at most {HIGHEST_LABEL}")
    return torch.from_numpy(y.astype(np.int64))
