"""Gradient scattering between nearby weights, over eps and over the distance, and the cosine of perturbations."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from bench.errors import BadInput
from bench.measures.probe import AT_EPS
from bench.measures.registry import Found, Positive, Probe, Samples, Shares, Whole, measure
from bench.science.ascent import Ascent
from bench.science.scattering import Scattering, plateau
from bench.science.scattering import scattering as between
from bench.science.weights import filter_normalised, weights_of

_NAMES = (
    "length", "gradient", "change", "by weights", "by perturbations", "cosine", "cosine of perturbations", "cosine of signs",
)  # fmt: skip


@measure("scattering")
def scattering(
    probe: Probe,
    *,
    n: Samples = 250,
    radii: Shares = (0.0, 0.25, 0.5, 1.0),
    distances: Shares = (0.0001, 0.001, 0.01, 0.1),
    steps: Whole = 10,
    step: Positive = 0.25,
    checkpoints: bool = False,
) -> Found:
    """Change of the adversarial loss gradient between nearby weights, how much of it perturbations make, and their cosine.

    radii: as multiples of eps. distances: of the other weights, in a random direction, as multiples of each filter's norm.
    checkpoints: between successive weights that the training kept instead, at eps.
    """
    ascent = Ascent(steps, step)
    far = torch.stack([probe.part(f"distance-{d}", lambda d=d: _row(probe, AT_EPS, d, ascent)) for d in distances])  # type: ignore[misc]
    near = min(distances)
    over, at_eps = probe.over_radii(radii, lambda radius: _row(probe, radius, near, ascent))
    eps = torch.tensor([probe.threat.radius * radius for radius in radii])
    curves = {
        "over eps": {"eps": eps, **dict(zip(_NAMES, over.T, strict=True))},
        "over the distance": {"distance": torch.tensor(distances), **dict(zip(_NAMES, far.T, strict=True))},
    }
    values = dict(zip(_NAMES, at_eps.tolist(), strict=True))
    for part in ("change", "by weights", "by perturbations"):
        values[f"{part} over gradient"] = values[part] / max(values["gradient"], 1e-30)
    values |= _plateau(probe)
    if checkpoints:
        curves["between kept epochs"] = _course(probe, ascent)
    notes = (
        f"over eps, and the values, which are at eps, at weights that are {near:g} of each filter's norm away",
        "by weights: were the perturbations those of the first weights; by perturbations: what they change at the second",
    )
    return Found(values, curves, notes=notes)


def _row(probe: Probe, share: float, distance: float, ascent: Ascent) -> Tensor:
    """At one radius, for weights at one distance in a direction that is the same for all."""
    weights = weights_of(probe.net)
    draw = torch.randn(len(weights), generator=torch.Generator().manual_seed(probe.seed)).to(weights)
    return _numbers(probe, distance * filter_normalised(probe.net, draw), share, ascent)


def _numbers(probe: Probe, v: Tensor, share: float, ascent: Ascent) -> Tensor:
    parts = [(x, y, rng.at("scattering")) for x, y, rng in probe.batches()]
    found: Scattering = between(probe.net, parts, v, probe.threat.scaled(share), ascent)
    scalars = [*found[:6], found.deltas.nanmean(), found.signs.nanmean()]
    return torch.stack([scalar.double().cpu() for scalar in scalars])


def _course(probe: Probe, ascent: Ascent) -> dict[str, Tensor]:
    """From each kept epoch to the next, under the epoch that it ends at."""
    kept = probe.kept()
    rows = []
    for (_, one), (epoch, other) in pairwise(kept):
        here, v = replace(probe, net=one), weights_of(other) - weights_of(one)
        rows.append(probe.part(f"epoch-{epoch}", lambda h=here, v=v: _numbers(h, v, 1.0, ascent)))  # type: ignore[misc]
    table = torch.stack(rows)
    return {"epoch": torch.tensor([epoch for epoch, _ in kept[1:]]), **dict(zip(_NAMES, table.T, strict=True))}


def _plateau(probe: Probe) -> dict[str, float]:
    """How long the training loss stayed that of a constant answer; nothing for a model from elsewhere."""
    losses = [entry["loss"] for entry in probe.trained.get("history", ()) if "loss" in entry]
    if not losses:
        return {}
    epochs = plateau(losses, probe.classes)
    size, samples = probe.trained["settings"].get("batch_size"), probe.trained["training"].get("samples")
    try:
        per_epoch = samples / size
    except (TypeError, ZeroDivisionError):
        raise BadInput("the record of the training does not say how many updates an epoch had; train again") from None
    return {
        "plateau epochs": epochs,
        "plateau updates, at most": round((epochs + 1) * per_epoch) if epochs < len(losses) else float("nan"),
    }
