"""The empirical neural tangent kernel of a network on a few images, and the figures that are read from it.

The kernel of two images is the inner product of the gradients that an output has for the weights at them; what it shows over
a training is how the feature map moves (Tsilivis & Kempe, NeurIPS 2022; Loo, Hasani, Amini & Rus, NeurIPS 2022). Networks are
in eval mode, gradients in the precision of the weights, kernels in float64 and without a scale that a training could change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bench.core import evaluating

Outputs = Literal["sum", "trace", "classes", "full"]
_CHUNK = 32
"""Images whose gradients are taken in one go."""
_PIECE = 16384
"""Weights over which a product is summed in float32; float64 takes it from there."""
_ENTRIES = {"cpu": 2**28}
"""Numbers of the gradients in memory at once, 1 GiB; elsewhere four times as many."""


def kernel(net: nn.Module, x: Tensor, outputs: Outputs = "sum", *, entries: int | None = None) -> Tensor:
    """The kernel on images x [..., n, C, H, W] of every set of n: float64 [..., n, n], for "classes" [K, ..., n, n].

    outputs: "sum" is the kernel of the sum of the K logits over sqrt(K), at one gradient per image; "classes" are the kernels
    of the single logits and "trace" is their mean, at K gradients per image. "full" is the whole one, [..., nK, nK], image by
    image and in it class by class, as Tsilivis & Kempe take it. entries: how many numbers of the gradients may
    be in memory at once. Where all of them are more, the weights are taken in blocks of whole tensors, with passes of their
    own for every block.
    """
    with evaluating(net):
        takes = {"sum": lambda: _gram(net, x, _sum, entries), "full": lambda: _full(net, x, entries)}
        found = takes.get(outputs, lambda: _classes(net, x, entries))()
    return found.mean(0) if outputs == "trace" else found


def passes(net: nn.Module, n: int, *, entries: int | None = None) -> int:
    """How many images go through the network, forwards and backwards, for the gradients of one output at n images."""
    return n * len(list(_blocks(net, n, entries)))


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between kernels [..., n, n] as vectors, [...]."""
    a, b = a.double(), b.double()
    product: Tensor = (a * b).sum((-2, -1))
    return product / (_norm(a) * _norm(b))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """The kernel distance 1 - similarity, [...]: 0 for kernels that are equal up to a scale, at most 1."""
    return 1 - similarity(a, b)


def effective_rank(k: Tensor) -> Tensor:
    """exp of the entropy of the eigenvalues' shares (Roy & Vetterli 2007), [...]: n for the identity, 1 for rank one."""
    entropy: Tensor = torch.special.entr(_shares(k)).sum(-1)
    return entropy.exp()


def participation_ratio(k: Tensor) -> Tensor:
    """The squared sum of the eigenvalues over the sum of their squares, [...]; between 1 and n."""
    return 1 / _shares(k).square().sum(-1)


def top_mass(k: Tensor, rank: int = 10) -> Tensor:
    """How much of the sum of the squared eigenvalues the largest ones make up, [...]."""
    squares: Tensor = _shares(k).square()
    return squares[..., -rank:].sum(-1) / squares.sum(-1)


def leading(k: Tensor, rank: int = 20) -> Tensor:
    """The kernels restricted to the spaces of their largest eigenvalues, [..., n, n]."""
    values, vectors = torch.linalg.eigh(k.double())
    restricted: Tensor = (vectors[..., -rank:] * values[..., None, -rank:]) @ vectors[..., -rank:].mT
    return restricted


def polar(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """How far the kernels [T, n, n] of a training are from the first, in units of the last one's way, and at which angle.

    Two times float64 [T]; the angles are in radians.
    """
    way = _norm(kernels.double() - kernels[0].double())
    return way / way[-1], similarity(kernels, kernels[0]).clamp(-1, 1).arccos()


def specialisation(kernels: Tensor, y: Tensor) -> Tensor:
    """How well the kernel of class c fits the labels of class d, over how well the kernels [K, n, n] do so on average.

    float64 [K, K], of which the mean diagonal is the scalar in use: 1 where no class has features of its own, at most K
    (after Shan & Bordelon 2021). Label vectors are one-vs-rest and centred, which is our choice: without centring, what all
    kernels have in common dominates. Every class has to be among the labels y [n].
    """
    own = (y == torch.arange(len(kernels), device=y.device).unsqueeze(1)).double()
    own = own - own.mean(1, keepdim=True)
    fit = similarity(kernels.unsqueeze(1), own.unsqueeze(2) * own.unsqueeze(1))
    return fit / fit.mean(0)


def _norm(k: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(k)
    return norm


def _shares(k: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(k.double()).clamp_min(0)
    shares: Tensor = values / values.sum(-1, keepdim=True)
    return shares


def _sum(logits: Tensor) -> Tensor:
    scale: float = len(logits) ** 0.5
    return logits.sum() / scale


def _classes(net: nn.Module, x: Tensor, entries: int | None) -> Tensor:
    return torch.stack([_gram(net, x, lambda logits, c=c: logits[c], entries) for c in range(_logits(net, x))])


def _logits(net: nn.Module, x: Tensor) -> int:
    """How many there are."""
    with torch.no_grad():
        return int(net(x.flatten(0, -4)[:1]).shape[1])


def of_classes(full: Tensor, classes: int) -> Tensor:
    """The kernels of the single logits, [K, n, n], out of the full one [nK, nK]."""
    blocks = full.view(len(full) // classes, classes, -1, classes)
    return torch.stack([blocks[:, c, :, c] for c in range(classes)])


def _full(net: nn.Module, x: Tensor, entries: int | None) -> Tensor:
    """The kernel of all logits: the gradients of all of them at an image are as many rows."""
    count = _logits(net, x)
    repeated = x.repeat_interleave(count, -4)
    which = torch.arange(count, device=x.device).repeat(repeated.shape[-4] // count)
    return _gram(
        net,
        repeated,
        lambda logits, which: logits.gather(0, which.view(1)).squeeze(),
        entries,
        which.expand(repeated.shape[:-3]),
    )


def _blocks(net: nn.Module, n: int, entries: int | None) -> Iterator[dict[str, Tensor]]:
    """The weights in blocks whose gradients at n images are at most so many numbers, or that are a single tensor."""
    block: dict[str, Tensor] = {}
    for name, weight in net.named_parameters():
        most = _ENTRIES.get(weight.device.type, 2**30) if entries is None else entries
        if block and n * (sum(map(Tensor.numel, block.values())) + weight.numel()) > most:
            yield block
            block = {}
        block[name] = weight.detach()
    if block:
        yield block


def _gram(net: nn.Module, x: Tensor, output: Callable[..., Tensor], entries: int | None, which: Tensor | None = None) -> Tensor:
    """The kernel of a scalar of the logits [K] of one image; which [..., n]: what else the scalar depends on."""
    fixed = {name: tensor.detach() for name, tensor in (*net.named_parameters(), *net.named_buffers())}

    def value(block: dict[str, Tensor], image: Tensor, *rest: Tensor) -> Tensor:
        logits: Tensor = functional_call(net, {**fixed, **block}, (image.unsqueeze(0),))
        return output(logits.squeeze(0), *rest)

    images = (x.flatten(0, -4), *(() if which is None else (which.flatten(),)))
    gram = torch.zeros(*x.shape[:-3], x.shape[-4], dtype=torch.float64, device=x.device)
    for block in _blocks(net, len(images[0]), entries):
        parts_of = zip(*(part.split(_CHUNK) for part in images), strict=True)
        chunks = [vmap(grad(value), (None, *[0] * len(images)))(block, *chunk) for chunk in parts_of]
        for name in block:
            parts = [chunk.pop(name).flatten(1) for chunk in chunks]
            rows = (torch.cat(parts) if len(parts) > 1 else parts[0]).view(*x.shape[:-3], -1)
            for piece in rows.split(_PIECE, -1):
                gram += piece @ piece.mT
    return gram
