"""Randomness keyed by (seed, sample id, stream): a sample gets the same noise whatever its batch, shard or device.

A draw is a pure function of the key and the position, an integer hash in two keyed rounds (the finaliser constants are
those of lowbias32), so nothing is stored, nothing advances, and torch's global generator is never touched.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

_GOLDEN32 = -1640531527
_MIX_A = 0x7FEB352D
_MIX_B = -2073254261
_MIX64 = (-4658895280553007687, -7723592293110705685)


def _mix64(value: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64, which wraps."""
    value = (value ^ ((value >> 30) & ((1 << 34) - 1))) * _MIX64[0]
    value = (value ^ ((value >> 27) & ((1 << 37) - 1))) * _MIX64[1]
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def _mix32(value: Tensor) -> Tensor:
    """An in-place avalanche on int32, which wraps; the masks make the arithmetic shifts logical."""
    value ^= (value >> 16) & 0xFFFF
    value *= _MIX_A
    value ^= (value >> 15) & 0x1FFFF
    value *= _MIX_B
    value ^= (value >> 16) & 0xFFFF
    return value


def _fractions(bits: Tensor) -> Tensor:
    """24 bits as a number in [0, 1), float32."""
    return bits.to(torch.float32).mul_(2.0**-24)


def _name(stream: int, names: Sequence[str | int]) -> int:
    digest = blake2b(repr((stream, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True, eq=False)
class Rng:
    """Noise for a batch of samples.

    ids: int64 [N], the samples' stable ids. Drawing twice from the same Rng gives the same numbers: name each use with
    `at("start")`, `at("step", k)`.
    """

    seed: int
    ids: Tensor
    stream: int = 0

    def at(self, *names: str | int) -> Rng:
        """The stream of this name, independent of every other."""
        return Rng(self.seed, self.ids, _name(self.stream, names))

    def __getitem__(self, index: Tensor) -> Rng:
        """The same noise for some of the samples."""
        return Rng(self.seed, self.ids[index], self.stream)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1), float32 [N, *shape], on the device of the ids."""
        return _fractions(self._bits(math.prod(shape), self.stream)).view(-1, *shape)

    def uniforms(self, name: str, numbers: range, shape: Sequence[int]) -> Tensor:
        """What `at(name, k).uniform(shape)` gives for each of these k, drawn at once: float32 [N, len(numbers), *shape]."""
        streams = [_name(self.stream, (name, number)) for number in numbers]
        return _fractions(self._bits(math.prod(shape), *streams)).view(-1, len(streams), *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32 [N, *shape] (Box-Muller)."""
        size = math.prod(shape)
        half = (size + 1) // 2
        first, second = self.uniform((2, half)).unbind(1)
        radius = (-2 * torch.log1p(-first)).sqrt_()
        angle = second * (2 * math.pi)
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
        return both[:, :size].reshape(-1, *shape)

    def integers(self, high: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Integers in [0, high), int64 [N, *shape]; high may differ per sample ([N, 1, ...])."""
        return (self.uniform(shape).double() * high).long()

    def permutation(self, size: int) -> Tensor:
        """A random order of range(size) per sample, int64 [N, size]."""
        return self._bits(size, self.stream).argsort(dim=1, stable=True)

    def _bits(self, size: int, *streams: int) -> Tensor:
        """24 random bits per stream and position, int32 [N * len(streams), size]."""
        root = _mix64(self.ids * _MIX64[0] + _name(self.seed, ("seed",)))
        # Stream by stream, as a tensor of them would make a GPU wait for its copy.
        key = _mix64(torch.stack([root ^ stream for stream in streams], 1).flatten())
        # An int32 takes the lower half of an int64.
        first, second = (half.to(torch.int32).unsqueeze(1) for half in (key, key >> 32))
        position = torch.arange(size, dtype=torch.int32, device=self.ids.device) * _GOLDEN32
        bits = _mix32(position + first)
        bits ^= second
        return (_mix32(bits) >> 8) & 0xFFFFFF


def shuffled(size: int, seed: int, *names: str | int) -> Tensor:
    """A random order of range(size), int64 [size], that depends on nothing but the seed and the names."""
    return Rng(seed, torch.zeros(1, dtype=torch.int64)).at(*names).permutation(size)[0]


@contextmanager
def isolated(seed: int, *names: str | int) -> Iterator[None]:
    """Code that draws from the global generators of torch (weight initialisation, dropout), numpy or Python draws here from
    its own, seeded ones; all are put back."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(_name(seed, names) % 2**63 if names else seed)
            random.seed(torch.initial_seed())
            np.random.seed(torch.initial_seed() % 2**32)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
