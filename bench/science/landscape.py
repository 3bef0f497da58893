"""The loss on lines and planes through a network's weights or an image, the attack made anew at every point; and Bezier curves.

Directions in the weights are filter-normalised (Li et al. 2018), so that a slice does not depend on scales that a norm undoes.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel, forward, raw_cross_entropy
from bench.science.ascent import Ascent
from bench.science.weights import filter_normalised, weights_of


class Height(NamedTuple):
    """Of a network at one point: means over the samples."""

    clean: Tensor
    adversarial: Tensor
    accuracy: Tensor
    robust_accuracy: Tensor
    """Under that ascent alone, which is no evaluation."""


@torch.no_grad()
def height(net: nn.Module, parts: list[tuple[Tensor, Tensor, Rng]], threat: ThreatModel, ascent: Ascent) -> Height:
    """Clean and adversarial loss of the network as it is now; every sample is attacked from its own start, always the same."""
    rows = []
    for x, y, rng in parts:
        sums = []
        right = torch.ones_like(y, dtype=torch.bool)
        for z in (x, ascent.end(net, x, y, threat, rng)):
            logits = forward(net, z)
            right = right & (logits.argmax(1) == y)
            sums += [raw_cross_entropy(logits, y).double().sum(), right.double().sum()]
        rows.append(torch.stack(sums))
    clean, accuracy, adversarial, robust = torch.stack(rows).sum(0) / sum(len(y) for _, y, _ in parts)
    return Height(clean, adversarial, accuracy, robust)


def directions(net: nn.Module, count: int, generator: torch.Generator) -> Tensor:
    """Random filter-normalised directions in the weights, [count, P]; nearly orthogonal, as random ones are."""
    own = weights_of(net)
    draws = (torch.randn(len(own), generator=generator).to(own) for _ in range(count))
    return torch.stack([filter_normalised(net, draw) for draw in draws])


def input_directions(gradient: Tensor, rng: Rng, norm: ThreatModel) -> tuple[Tensor, Tensor]:
    """Of an image: the steepest direction of the loss and a random one, [N, C, H, W] each, of unit length in the norm.

    For linf they are the signs of the gradient and random signs.
    """
    random = rng.uniform(gradient.shape[1:]).to(gradient) - 0.5
    if norm.norm == "linf":
        return gradient.sign(), torch.where(random < 0, -1.0, 1.0).to(gradient)
    length = norm.distance(random, torch.zeros_like(random)).view(-1, 1, 1, 1)
    return norm.steepest(gradient), random / length


@torch.no_grad()
def input_slice(net: nn.Module, x: Tensor, y: Tensor, along: tuple[Tensor, Tensor], at: tuple[float, float]) -> Tensor:
    """The losses at x + a d + b r, [N]; outside the box too, because a plane has no edges."""
    return raw_cross_entropy(forward(net, x + at[0] * along[0] + at[1] * along[1]), y)


def roughness(values: Tensor, step: float) -> Tensor:
    """The mean size of the second difference along the last dimension over step^2, [...]; 0 on a straight line."""
    second: Tensor = values[..., 2:] - 2 * values[..., 1:-1] + values[..., :-2]
    return second.abs().mean(-1) / step**2


def bernstein(degree: int, t: float) -> Tensor:
    """The shares that the degree + 1 points of a Bezier curve have in its point t, float64; they sum to 1."""
    return torch.tensor([comb(degree, j) * (1 - t) ** (degree - j) * t**j for j in range(degree + 1)], dtype=torch.float64)


def on_curve(points: Tensor, t: float) -> Tensor:
    """The weights [P] at t of the Bezier curve through the first and the last of points [m, P], which the others bend."""
    found: Tensor = bernstein(len(points) - 1, t).to(points) @ points
    return found
