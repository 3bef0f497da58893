"""The largest eigenvalues of the Hessian of the clean and of the adversarial loss, and its density."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.measures.registry import Found, Positive, Probe, Samples, Whole, measure
from bench.science.ascent import Ascent
from bench.science.curvature import Density, density, lanczos
from bench.science.weights import Batch, hessian_product, weights_of

_SETTLED = 0.01
"""A residual of more than this share of its eigenvalue says that Lanczos has not found it yet."""
EXACT = 2**16
"""Weights up to which a network is taken in float64; beyond it, products are float32 and only their sums are not."""
_ROUNDING = 16
"""Times the precision of a number, as a share of the largest eigenvalue: what products with the Hessian are rounded by."""
_GRID = 201


@measure("curvature")
def curvature(
    probe: Probe,
    *,
    n: Samples = 250,
    top: Whole = 20,
    products: Whole = 80,
    steps: Whole = 10,
    step: Positive = 0.25,
    draws: Annotated[int, Field(ge=0)] = 0,
    losses: Literal["both", "clean", "adversarial"] = "both",
) -> Found:
    """Top eigenvalues of the Hessian for the weights, of the clean loss and of the loss at fixed perturbations.

    products: with the Hessian, of which Lanczos needs more than eigenvalues. draws: of the spectral density, each as many
    products again; 0 for none.
    """
    under = probe.exact() if weights_of(probe.net).numel() <= EXACT else probe
    kinds = ("clean", "adversarial") if losses == "both" else (losses,)
    values: dict[str, float] = {}
    table: dict[str, Tensor] = {"rank": torch.arange(1, top + 1)}
    curves, arrays, unsettled = {}, {}, []
    for kind in kinds:
        batches = _batches(under, kind, Ascent(steps, step))
        ritz = under.part(f"{kind}-top", lambda b=batches: _spectrum(under, b, products))  # type: ignore[misc]
        largest, error = ritz[0, :top], ritz[1, :top] + _ROUNDING * torch.finfo(under.x.dtype).eps * ritz[0].abs().max()
        wide = (error > _SETTLED * largest.abs()).nonzero().flatten().tolist()
        unsettled += [f"{kind} from rank {wide[0] + 1}"] if wide else []
        missing = torch.full((top - len(largest),), torch.nan)
        table |= {kind: torch.cat([largest, missing]), f"{kind} +-": torch.cat([error, missing])}
        values |= {f"{kind} top": float(largest[0]), f"{kind} top +-": float(error[0]), f"{kind} smallest": float(ritz[0, -1])}
        if draws:
            found = under.part(f"{kind}-density", lambda b=batches: _density(under, b, draws, products))  # type: ignore[misc]
            arrays[f"{kind} density"] = found
            values[f"{kind} trace"] = float((found[0] * found[1]).sum()) * weights_of(probe.net).numel()
            curves[f"{kind} density"] = _drawn(found)
    if losses == "both":
        values["top, adversarial over clean"] = values["adversarial top"] / (values["clean top"] or math.nan)
    more = f"not found yet, with a +- of more than {_SETTLED:.0%}: {', '.join(unsettled)}; give --set products={2 * products}"
    notes = (
        *([more] if unsettled else []),
        "+- is the residual, and what is rounded: an eigenvalue of the Hessian lies within it",
        "perturbations stay where they are, and the Hessian of a network with ReLU knows no kinks",
    )
    return Found(values, {"eigenvalues": table, **curves}, arrays, notes)


def _batches(under: Probe, kind: str, ascent: Ascent) -> list[Batch]:
    """The samples, attacked once at the weights as they are."""
    if kind == "clean":
        return [(x, y) for x, y, _ in under.batches()]
    return [(ascent.end(under.net, x, y, under.threat, rng.at("curvature")), y) for x, y, rng in under.batches()]


def _spectrum(under: Probe, batches: list[Batch], products: int) -> Tensor:
    """Ritz values and their residuals, [2, k]."""
    first = torch.randn(weights_of(under.net).numel(), generator=_generator(under)).to(weights_of(under.net))
    return torch.stack(lanczos(hessian_product(under.net, batches), first, products)[:2])


def _density(under: Probe, batches: list[Batch], draws: int, products: int) -> Tensor:
    """Nodes and weights, [2, m]."""
    like = weights_of(under.net)
    return torch.stack(density(hessian_product(under.net, batches), len(like), draws, products, _generator(under), like))


def _drawn(found: Tensor) -> dict[str, Tensor]:
    """The density on a grid, with bumps of a hundredth of the range."""
    low, high = float(found[0].min()), float(found[0].max())
    width = max((high - low) / 100, 1e-12)
    grid = torch.linspace(low - 3 * width, high + 3 * width, _GRID, dtype=torch.float64)
    return {"eigenvalue": grid, "density": Density(*found).over(grid, width)}


def _generator(probe: Probe) -> torch.Generator:
    return torch.Generator().manual_seed(probe.seed)
