"""Square attack (Andriushchenko et al. 2020) for linf and l2: random search with windows that shrink, no gradients."""

from functools import cache
from math import sqrt
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.attack import Live, Rng, Score, ThreatModel, attack, margin

_DRAWN = 64
"""Queries whose noise is drawn at once."""
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@attack("square", access="score", norms={"linf", "l2"})
def square(
    model: Score,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 5000,
    p_init: Annotated[float, Field(gt=0, le=1)] = 0.8,
    rescale: bool = False,
    start: Literal["pattern", "known"] = "pattern",
    first: Annotated[int, Field(ge=0)] = 0,
) -> Tensor:
    """Keep a random window whenever the margin falls; rescale fits the schedule of sizes to the number of queries.

    start: the source's stripes or bumps, or the closest candidate of earlier attacks. first: the place in the schedule where
    it begins; from a candidate that is nearly there, large windows only do harm.
    """
    pattern, propose = (_stripes, _square) if threat.norm == "linf" else (_grid, _move)
    live = Live(x)
    z = candidate = model.known(x) if start == "known" else pattern(x, threat.radius, rng.at("start"))
    best = x.new_full((len(x),), -torch.inf)
    for query in range(queries):
        if query % _DRAWN == 0:
            noise = rng.uniforms("query", range(query, min(query + _DRAWN, queries)), (5 + x.shape[1],))
        logits = model.logits(candidate)
        loss = margin(logits, y)
        live.keep(candidate, loss, logits.argmax(1) != y)
        better = loss > best
        best = torch.where(better, loss, best)
        z = torch.where(better.view(-1, 1, 1, 1), candidate, z)
        model, x, y, z, best, rng, noise = live.drop(model, x, y, z, best, rng, noise)
        if not len(live):
            break
        place = first + (query * (10_000 - first) // queries if rescale else query)
        area = share(place, p_init) * x[0, 0].numel()
        candidate = propose(z, x, threat.radius, sqrt(area), noise[:, query % _DRAWN])
    return live.result


def share(query: int, p_init: float) -> float:
    """The part of the image that a window covers, halved at fixed queries (the first window is query 0)."""
    return p_init * 0.5 ** sum(query > halving for halving in _HALVINGS)


def _signs(noise: Tensor) -> Tensor:
    return (noise < 0.5).float() * 2 - 1


def _stripes(x: Tensor, eps: float, rng: Rng) -> Tensor:
    return (x + eps * _signs(rng.uniform((x.shape[1], 1, x.shape[3])))).clamp_(0, 1)


def _square(z: Tensor, x: Tensor, eps: float, side: float, noise: Tensor) -> Tensor:
    """Set one square per sample to the faces of the ball, with a sign per channel."""
    window = _window(x, max(min(round(side), min(x.shape[2:]) - 1), 1), noise[:, :2])
    value = (x + eps * _signs(noise[:, 5:, None, None])).clamp_(0, 1).flatten(2)
    return z.flatten(2).scatter(2, window, value.gather(2, window)).view_as(x)


def _window(x: Tensor, side: int, noise: Tensor) -> Tensor:
    """The pixels of a square at a random place in each sample, as flat indices, int64 [N, C, side * side]."""
    channels, _, width = x.shape[1:]
    span = torch.arange(side, device=x.device)
    rows, columns = ((noise[:, i, None].double() * (x.shape[2 + i] - side + 1)).long() + span for i in range(2))
    return (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1).unsqueeze(1).expand(-1, channels, -1)


def _grid(x: Tensor, eps: float, rng: Rng) -> Tensor:
    """Tile the image with windows of random sign (about five a side) and scale the whole to the sphere."""
    channels, height, width = x.shape[1:]
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    tiles = _bumps(side, rng.at("turn").uniform((1, down * across)))
    tiles = tiles * _signs(rng.at("sign").uniform((channels, down * across, 1)))
    picture = tiles.view(len(x), channels, down, across, side, side).transpose(3, 4).flatten(4).flatten(2, 3)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + down * side, left : left + across * side] = picture
    return _on_sphere(x, delta.flatten(2), eps)


def _move(z: Tensor, x: Tensor, eps: float, side: float, noise: Tensor) -> Tensor:
    """Empty two windows and put their mass, with what is left of eps, into the first: its old shape plus a new one."""
    size = min(max(round(side), 3) | 1, *x.shape[2:])
    first, second = _window(x, size, noise[:, :2]), _window(x, size, noise[:, 2:4])
    delta = (z - x).flatten(2)
    rest = delta.scatter(2, first, 0.0).scatter(2, second, 0.0)
    freed = (delta - rest).square().sum(2, keepdim=True)
    unused = (eps**2 - delta.square().sum((1, 2), keepdim=True)).clamp_min(0) / x.shape[1]
    old = delta.gather(2, first)
    fresh = _bumps(size, noise[:, 4:5]) * _signs(noise[:, 5:, None])
    patch = F.normalize(fresh + F.normalize(old, dim=2), dim=2) * (unused + freed).sqrt()
    return _on_sphere(x, rest.scatter(2, first, patch), eps)


def _on_sphere(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return (x + eps * F.normalize(delta.flatten(1), dim=1).view_as(x)).clamp_(0, 1)


def _bumps(side: int, noise: Tensor) -> Tensor:
    """A window of unit norm for each number, one half up and one half down, upright or lying, [..., side * side]."""
    return _patterns(side, noise.device)[(noise < 0.5).long()]


@cache
def _patterns(side: int, device: torch.device) -> Tensor:
    upright = torch.cat([_pyramid(side // 2, side), -_pyramid(side - side // 2, side)])
    return F.normalize(torch.stack([upright, upright.T]).flatten(1), dim=1).to(device)


def _pyramid(height: int, width: int) -> Tensor:
    """A bump of unit norm that falls off in square rings around the centre, [height, width]."""
    down, across = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(down.abs().unsqueeze(1), across.abs())
    terms = 1 / torch.arange(1.0, max(height, width) // 2 + 2).square()
    bump = terms.flip(0).cumsum(0).flip(0)[ring]
    return F.normalize(bump.flatten(), dim=0).view(height, width)
