"""Slices of the clean and of the adversarial loss, through the weights and through the images."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.core import raw_cross_entropy, slopes
from bench.errors import BadInput
from bench.measures.registry import Found, Positive, Probe, Samples, Whole, measure
from bench.science.ascent import Ascent
from bench.science.landscape import Height, directions, height, input_directions, input_slice, roughness
from bench.science.weights import moved, weights_of

_NAMES = ("clean", "adversarial", "accuracy", "robust accuracy")


@measure("landscape")
def landscape(
    probe: Probe,
    *,
    n: Samples = 100,
    of: Literal["weights", "input"] = "weights",
    dimensions: Literal[1, 2] = 1,
    points: Annotated[int, Field(ge=3, le=201)] = 25,
    reach: Positive = 1.0,
    steps: Whole = 10,
    step: Positive = 0.25,
) -> Found:
    """Clean and adversarial loss on a line or a plane through the weights, attacked anew at each point, or through the images.

    reach: how far to both sides: in the weights as a multiple of each filter's norm, in the images of eps. points: along each
    side of the slice; 2-D slices take as many squared. Norms keep their statistics.
    """
    if dimensions == 2 and points % 2 == 0:
        raise BadInput(f"a plane of {points} x {points} points has no line through its middle; give an odd number of points")
    at = torch.linspace(-reach, reach, points, dtype=torch.float64)
    if of == "input":
        return _input(probe, at, dimensions)
    ascent, weights = Ascent(steps, step), weights_of(probe.net)
    along = directions(probe.net, dimensions, torch.Generator().manual_seed(probe.seed))
    parts = [(x, y, rng.at("landscape")) for x, y, rng in probe.batches()]

    def heights(offset: Tensor) -> Tensor:
        with moved(probe.net, weights + offset.to(weights)):
            found: Height = height(probe.net, parts, probe.threat, ascent)
        return torch.stack(found)

    def row(b: float) -> Tensor:
        second = b * along[1] if dimensions == 2 else torch.zeros_like(weights)
        return torch.stack([heights(float(a) * along[0] + second) for a in at])

    across = at.tolist() if dimensions == 2 else [0.0]
    grid = torch.stack([probe.part(f"row-{number}", lambda b=b: row(b)) for number, b in enumerate(across)])  # type: ignore[misc]
    here = heights(torch.zeros_like(weights))
    return _found(grid, here, at, "in the weights, kept statistics; each filter of the direction as long as the weights' own")


def _found(grid: Tensor, here: Tensor, at: Tensor, note: str) -> Found:
    """grid [rows, points, 4]: a line through the middle as a curve, the whole as an array."""
    middle, step = grid[len(grid) // 2], float(at[1] - at[0])
    values = {f"{name} at the centre": here[i] for i, name in enumerate(_NAMES)}
    for i, name in enumerate(_NAMES[:2]):
        values |= {f"{name} at most": grid[..., i].max(), f"{name} roughness": roughness(middle[:, i], step)}
    curve = {"position": at, **{name: middle[:, i] for i, name in enumerate(_NAMES)}}
    arrays = {name: grid[..., i] for i, name in enumerate(_NAMES)} | {"position": at} if len(grid) > 1 else {}
    return Found({k: float(v) for k, v in values.items()}, {"slice": curve}, arrays, (note,))


def _input(probe: Probe, at: Tensor, dimensions: int) -> Found:
    """x + a d + b r: d the steepest direction, r a random one."""
    grid = probe.part("input", lambda: _planes(probe, at, dimensions))
    middle = grid[:, len(grid[0]) // 2]
    step = float(at[1] - at[0])
    values = {
        "at the centre": float(grid[:, len(grid[0]) // 2, len(at) // 2].mean()) if len(at) % 2 else float("nan"),
        "at most": float(grid.mean(0).max()), "roughness": float(roughness(middle, step).mean()),
        "roughness, 95 %": float(roughness(middle, step).quantile(0.95)),
    }  # fmt: skip
    rows = {"mean": middle.mean(0), **{f"{share:.0%}": middle.quantile(share, 0) for share in (0.05, 0.5, 0.95)}}
    curve = {"position": at, **rows}
    note = "x + a d + b r in units of eps: d is the steepest direction at x, r a random one; outside the box too"
    return Found(values, {"slice": curve}, {"loss": grid, "position": at}, (note,))


def _planes(probe: Probe, at: Tensor, dimensions: int) -> Tensor:
    """The loss of every sample at every point, [n, rows, points]."""
    eps, parts = probe.threat.radius, []
    across = at.tolist() if dimensions == 2 else [0.0]
    for x, y, rng in probe.batches():
        along = input_directions(slopes(probe.net, x, y, raw_cross_entropy), rng.at("input"), probe.threat)
        rows = [torch.stack([input_slice(probe.net, x, y, along, (eps * float(a), eps * b)) for a in at], 1) for b in across]
        parts.append(torch.stack(rows, 1))
    return torch.cat(parts).double()
