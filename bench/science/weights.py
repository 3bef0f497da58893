"""The weights of a network as one vector, in the order in which it has them: what curvature and landscapes are taken in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.core import raw_cross_entropy

Batch = tuple[Tensor, Tensor]
"""Images and labels."""
_TINY = 1e-10


def weights_of(net: nn.Module) -> Tensor:
    """All weights, [P]."""
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def pieces(net: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """A vector [P] in the shapes and under the names of the weights, without a copy."""
    named = dict(net.named_parameters())
    parts = vector.split([weight.numel() for weight in named.values()])
    return {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}


@contextmanager
def moved(net: nn.Module, vector: Tensor) -> Iterator[None]:
    """The network with these weights [P] for as long as this lasts."""
    before = [weight.detach().clone() for weight in net.parameters()]
    with torch.no_grad():
        for weight, value in zip(net.parameters(), pieces(net, vector).values(), strict=True):
            weight.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(net.parameters(), before, strict=True):
                weight.copy_(value)


def _loss(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    """The summed cross-entropy of a batch as a function of the weights; statistics that are kept stay as they are."""

    def value(weights: dict[str, Tensor]) -> Tensor:
        return raw_cross_entropy(functional_call(net, weights, (x,)), y).sum()

    return value


def gradient(net: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """Of the mean cross-entropy over all batches for the weights, [P]; the network in the mode that it is in."""
    weights = {name: weight.detach().requires_grad_() for name, weight in net.named_parameters()}
    total = torch.zeros_like(weights_of(net))
    for x, y in batches:
        with torch.enable_grad():
            found = torch.autograd.grad(_loss(net, x, y)(weights), list(weights.values()), materialize_grads=True)
        total += torch.cat([piece.flatten() for piece in found])
    return total / sum(len(y) for _, y in batches)


def hessian_product(net: nn.Module, batches: Sequence[Batch]) -> Callable[[Tensor], Tensor]:
    """v [P] -> H v, H the Hessian of the mean cross-entropy over all batches; exact, by a backward pass over a backward one.

    Memory is that of one batch, whose backward pass is kept where there is no other. Of a network with ReLU it is the Hessian
    almost everywhere, which knows no kinks.
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in net.named_parameters()}
    inputs, count = list(weights.values()), sum(len(y) for _, y in batches)

    def slopes(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(_loss(net, x, y)(weights), inputs, create_graph=True, materialize_grads=True)

    kept = slopes(*batches[0]) if len(batches) == 1 else None

    def product(v: Tensor) -> Tensor:
        directions, total = pieces(net, v).values(), torch.zeros_like(v)
        for x, y in batches:
            found = [pair for pair in zip(kept or slopes(x, y), directions, strict=True) if pair[0].requires_grad]
            ends, along = zip(*found, strict=True)
            turned = torch.autograd.grad(ends, inputs, along, retain_graph=kept is not None, materialize_grads=True)
            total += torch.cat([piece.flatten() for piece in turned])
        return total / count

    return product


def filter_normalised(net: nn.Module, draw: Tensor) -> Tensor:
    """A direction [P] out of a draw [P], each filter of it as long as that of the weights; 0 for biases and norms.

    After Li et al. (2018): what a plot shows then does not depend on the scale of a layer that a norm undoes.
    """
    parts = []
    for weight, piece in zip(net.parameters(), pieces(net, draw).values(), strict=True):
        if weight.dim() < 2:
            parts.append(torch.zeros_like(piece))
            continue
        own, drawn = (part.detach().flatten(1).norm(dim=1, keepdim=True) for part in (weight, piece))
        parts.append((piece.flatten(1) * own / (drawn + _TINY)).view_as(piece))
    return torch.cat([part.flatten() for part in parts])
