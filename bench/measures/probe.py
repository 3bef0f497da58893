"""What a measure is given: a network, the samples it is measured on, and a place for what must survive an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel
from bench.data import Dataset
from bench.errors import BadInput
from bench.files import Reporter, atomic, opened

AT_EPS = 1.0
"""The radius whose numbers are the values of a measure over radii."""


class Batch(NamedTuple):
    """Some of the samples."""

    x: Tensor
    y: Tensor
    rng: Rng


class Other(NamedTuple):
    """Another network on the same samples, by what it is called."""

    name: str
    net: nn.Module


@dataclass(frozen=True)
class Probe:
    """A network in eval mode on class-balanced samples; the same seed gives the same noise for a sample in every batch."""

    net: nn.Module
    x: Tensor
    """float32 [N, C, H, W], on the device of the network; float64 for `exact`."""
    y: Tensor
    ids: Tensor
    classes: int
    threat: ThreatModel
    seed: int
    batch: int
    trained: Mapping[str, Any]
    """The record of its training; empty for a model from elsewhere."""
    report: Reporter
    place: Path
    """The folder of what is done already."""
    train: Callable[[], Dataset]
    """The images that its training saw, on the CPU."""
    against: Other | None = None
    kept: Callable[[], list[tuple[int, nn.Module]]] = list
    """The networks of the epochs that its training kept, first to last, with the number of the epoch."""

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def rng(self) -> Rng:
        """The noise of all samples."""
        return Rng(self.seed, self.ids)

    def batches(self) -> Iterator[Batch]:
        """All samples, so many at a time."""
        for rows in torch.arange(len(self), device=self.x.device).split(self.batch):
            yield Batch(self.x[rows], self.y[rows], self.rng[rows])

    def gathered(self, compute: Callable[[Batch], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What is computed of every batch, [n, ...] each, put together."""
        return tuple(torch.cat(parts) for parts in zip(*(compute(batch) for batch in self.batches()), strict=True))

    def exact(self) -> Probe:
        """The same in float64."""
        against = self.against and Other(self.against.name, deepcopy(self.against.net).double())
        return replace(self, net=deepcopy(self.net).double(), x=self.x.double(), against=against)

    def part(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """A tensor that is computed once: after an interruption it is read from where it was put."""
        path = self.place / f"{name}.npy"
        if path.is_file():
            try:
                with opened(path) as file:
                    return torch.from_numpy(np.load(file, allow_pickle=False))
            except (OSError, ValueError, EOFError):
                path.unlink()
        found = compute().cpu()
        with atomic(path) as unfinished, unfinished.open("wb") as stream:
            np.save(stream, found.numpy(), allow_pickle=False)
        self.report.advance(1, name)
        return found

    def over_radii(self, radii: Sequence[float], row: Callable[[float], Tensor]) -> tuple[Tensor, Tensor]:
        """A row of numbers for each multiple of eps, [radii, k], and that at eps, [k], which need not be among them."""
        rows = {radius: self.part(f"radius-{radius}", partial(row, radius)) for radius in dict.fromkeys((*radii, AT_EPS))}
        return torch.stack([rows[radius] for radius in radii]), rows[AT_EPS]

    def other(self, what: str) -> Other:
        """The network that --set against= names; BadInput where none is named and `what` needs one."""
        if self.against is None:
            raise BadInput(f"{what} is between two networks; name the other with --set against=RUN")
        return self.against
