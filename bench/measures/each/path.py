"""Loss and margin over the steps of an attack."""

from __future__ import annotations

import torch

from bench.measures.probe import Batch
from bench.measures.registry import Found, Positive, Probe, Samples, Whole, measure
from bench.science.ascent import Ascent
from bench.science.path import path as way

_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@measure("path")
def path(probe: Probe, *, n: Samples = 250, steps: Whole = 50, step: Positive = 0.1) -> Found:
    """Loss and margin at every step of a projected ascent, per sample and in quantiles; step is a fraction of eps."""
    ascent = Ascent(steps, step)

    def compute(batch: Batch) -> tuple[torch.Tensor, ...]:
        found = way(probe.net, batch.x, batch.y, probe.threat, batch.rng.at("path"), ascent)
        return found.loss.T, found.margin.T, found.falls

    loss, margin, falls = probe.gathered(compute)
    # What a half of the whole rise takes tells a climb that is still going on from one that ended early.
    rise = loss.mean(0)[1:]
    half = (rise >= (rise[0] + rise[-1]) / 2).nonzero()[0, 0]
    values = {
        "clean loss": loss[:, 0].mean(), "final loss": loss[:, -1].mean(), "falling steps": falls.mean(),
        "steps to half of the rise": half, "fooled at the end": (margin[:, -1] > 0).double().mean(),
        "ever fooled": (margin > 0).any(1).double().mean(),
    }  # fmt: skip
    at = torch.arange(-1, steps + 1)
    curves = {
        name: {"step": at, "mean": rows.mean(0), **{f"{share:.0%}": rows.quantile(share, 0) for share in _SHARES}}
        for name, rows in (("loss", loss), ("margin", margin))
    }
    notes = ("step -1 is the clean image, step 0 the random start",)
    return Found({k: float(v) for k, v in values.items()}, curves, {"loss": loss, "margin": margin}, notes)
