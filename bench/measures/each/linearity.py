"""How long perturbations are, and how linear the loss is that far from an image."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.measures.probe import Batch
from bench.measures.registry import Found, Positive, Probe, Samples, Shares, Whole, measure
from bench.science.ascent import Ascent
from bench.science.linearity import linearity as between
from bench.science.linearity import worst_error


@measure("linearity")
def linearity(
    probe: Probe, *, n: Samples = 250, radii: Shares = (0.125, 0.25, 0.5, 1.0), steps: Whole = 10, step: Positive = 0.25
) -> Found:
    """l2 size of perturbations, first-order error and local linearity over a grid of radii, which are multiples of eps."""
    exact, ascent = probe.exact(), Ascent(steps, step)
    table, at_eps = exact.over_radii(radii, lambda radius: _row(exact, radius, ascent))
    eps = [probe.threat.radius * radius for radius in radii]
    names = ("l2 size", "eps sqrt(d)", "error, median", "error of the mean", "cosine", "worst error", "loss change")
    curve = {"eps": torch.tensor(eps, dtype=torch.float64), **{name: table[:, i] for i, name in enumerate(names)}}
    values = dict(zip(names, at_eps.tolist(), strict=True))
    notes = (
        "the values are at eps",
        "the error is |L(x+d) - L(x) - g.d| / |L(x+d) - L(x)| at the end of the ascent; of the mean, after both means",
        "the worst error is the largest |L(x+d) - L(x) - g.d| found, by this ascent and by one of its own",
    )
    return Found(values, {"over eps": curve}, notes=notes)


def _row(exact: Probe, share: float, ascent: Ascent) -> Tensor:
    """One radius."""
    threat = exact.threat.scaled(share)

    def compute(batch: Batch) -> tuple[Tensor, ...]:
        x, y, rng = batch
        z = ascent.end(exact.net, x, y, threat, rng.at("linearity"))
        found = between(exact.net, x, y, z)
        worst = worst_error(exact.net, x, y, threat, rng.at("worst"), ascent)
        worst = torch.maximum(worst, (found.change - found.predicted).abs())
        return found.length, found.error, found.change, found.change - found.predicted, found.cosine, worst

    length, error, change, left, cosine, worst = exact.gathered(compute)
    ball = threat.radius * exact.x[0].numel() ** 0.5 if threat.norm == "linf" else threat.radius
    return torch.stack(
        [
            length.mean(), length.new_tensor(ball), error.nanmedian(), left.mean().abs() / change.mean().abs(), cosine.mean(),
            worst.mean(), change.mean(),
        ]
    )  # fmt: skip
