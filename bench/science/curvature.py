"""The spectrum of a symmetric matrix that is known by its products alone, such as the Hessian of a loss: Lanczos.

The adversarial loss is taken at perturbations that stay where they are (Liu et al., NeurIPS 2020, do so too): how they would
move with the weights is not a part of this Hessian, and is what bench.science.scattering measures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""v [P] -> H v."""


class Ritz(NamedTuple):
    """What a Krylov space knows of a spectrum; float64, largest first."""

    values: Tensor
    """[k] approximations of eigenvalues, never above the largest nor below the smallest."""
    residuals: Tensor
    """[k] |H u - value u| of their unit vectors u; an eigenvalue lies no further away than that."""
    weights: Tensor
    """[k] the squared share of the first vector in each."""


def lanczos(product: Product, first: Tensor, steps: int) -> Ritz:
    """The Ritz values of the Krylov space of `first` [P] after so many products, each vector made orthogonal to all, twice.

    Memory is steps x P numbers of the kind of `first`; inner products are summed in float64.
    """
    steps = min(steps, len(first))
    basis = first.new_empty(steps + 1, len(first))
    basis[0] = first / first.norm()
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for number in range(steps):
        w, space = product(basis[number]), basis[: number + 1]
        diagonal.append(_inner(w, basis[number]))
        for _ in range(2):
            w = w - _inner(space, w).to(w.dtype) @ space
        length = _inner(w, w).sqrt()
        beside.append(length)
        if float(length) <= 1e-10 * max(float(torch.stack(diagonal).abs().max()), 1e-300):
            break
        basis[number + 1] = w / length.to(w.dtype)
    middle = torch.diag(torch.stack(diagonal))
    off = torch.stack(beside)
    if len(diagonal) > 1:
        middle += torch.diag(off[:-1], 1) + torch.diag(off[:-1], -1)
    values, vectors = torch.linalg.eigh(middle)
    return Ritz(values.flip(0), (off[-1] * vectors[-1].abs()).flip(0), vectors[0].square().flip(0))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """a [..., P] . b [P] in float64, piece by piece so that no copy of a is made."""
    total = torch.zeros(a.shape[:-1], dtype=torch.float64, device=a.device)
    for piece, other in zip(a.split(2**16, -1), b.split(2**16), strict=True):
        total += piece.double() @ other.double()
    return total


class Density(NamedTuple):
    """A spectral density as weighted points, float64."""

    nodes: Tensor
    weights: Tensor
    """Sum to 1."""

    def moment(self, power: int) -> Tensor:
        """The mean of the eigenvalues to this power."""
        total: Tensor = (self.weights * self.nodes**power).sum()
        return total

    def over(self, grid: Tensor, width: float) -> Tensor:
        """The density on a grid, every point a Gaussian of this width."""
        bumps = torch.exp(-0.5 * ((grid[:, None] - self.nodes) / width) ** 2) / (width * (2 * torch.pi) ** 0.5)
        found: Tensor = bumps @ self.weights
        return found


def density(product: Product, size: int, draws: int, steps: int, generator: torch.Generator, like: Tensor) -> Density:
    """Stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; for networks Ghorbani et al. 2019), a mean over random signs.

    Its first moment is an estimate of the trace over P; exact for a diagonal matrix.
    """
    nodes, weights = [], []
    for _ in range(draws):
        signs = torch.randint(0, 2, (size,), generator=generator).to(like) * 2 - 1
        found = lanczos(product, signs, steps)
        nodes.append(found.values)
        weights.append(found.weights / draws)
    return Density(torch.cat(nodes), torch.cat(weights))
