"""Data that a Python session holds: tensors, arrays, a Dataset or a DataLoader of torch, under a name like a file's."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import BadInput

PREFIX = "live:"
"""Begins the name of what is only in memory."""
_held: dict[str, tuple[Tensor, Tensor]] = {}
_ASKED = "give images [N, C, H, W] in [0, 1] or uint8 with labels [N], as (x, y), a torch Dataset or a DataLoader of such pairs"


def hold(data: Any) -> str:
    """Keep data for as long as the process lives; the name that `load` knows it by, the same for the same content."""
    x, y = _checked(*_pair(data))
    digest = sha256(f"{tuple(x.shape)} {x.dtype}".encode() + x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()
    name = f"{PREFIX}data-{digest[:8]}"
    _held[name] = (x, y)
    return name


def held(name: str) -> tuple[Tensor, Tensor]:
    """The images and labels of a name that `hold` gave."""
    if name not in _held:
        raise BadInput(f"data {name!r} was only in the memory of another process; hand it in again, or save it as an .npz file")
    return _held[name]


def _pair(data: Any) -> tuple[Any, Any]:
    if isinstance(data, tuple | list) and len(data) == 2:
        return data[0], data[1]
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise BadInput(f"data of type {type(data).__name__}: {_ASKED}")
    batched = isinstance(data, torch.utils.data.DataLoader)
    try:
        pairs = [
            (torch.as_tensor(x), torch.as_tensor(y)) for x, y in (data if batched else map(data.__getitem__, range(len(data))))
        ]
        join = torch.cat if batched else torch.stack
        return join([x for x, _ in pairs]), join([y for _, y in pairs])
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise BadInput(f"data of type {type(data).__name__} ({error}): {_ASKED}") from None


def _checked(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    try:
        images, labels = (torch.as_tensor(np.asarray(p) if not isinstance(p, Tensor) else p).detach().cpu() for p in (x, y))
    except (TypeError, ValueError) as error:
        raise BadInput(f"data cannot be read ({error}): {_ASKED}") from None
    if images.dim() != 4 or labels.dim() != 1 or len(images) != len(labels) or not len(images):
        raise BadInput(f"data has images {list(images.shape)} and labels {list(labels.shape)}: {_ASKED}")
    if labels.is_floating_point() or int(labels.min()) < 0:
        raise BadInput(f"labels are {labels.dtype}, the least {labels.min()}: give whole numbers from 0")
    if images.dtype != torch.uint8:
        images = images.float()
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise BadInput(f"images hold values from {low:g} to {high:g}: scale them to [0, 1], and let the network normalise")
    return images.contiguous(), labels.long().contiguous()
