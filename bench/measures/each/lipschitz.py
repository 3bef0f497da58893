"""How fast margins can change in the ball: a bound for all of it, beside what is found at points of it."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.core import Classifier, forward, margin_targeted, slopes
from bench.errors import BadInput
from bench.measures.probe import Batch
from bench.measures.registry import Found, Positive, Probe, Samples, Share, Whole, measure
from bench.proofs.intervals import Unknown
from bench.proofs.slopes import dual_norm, traced
from bench.science.ascent import Ascent


@measure("lipschitz")
def lipschitz(
    probe: Probe,
    *,
    n: Samples = 100,
    radii: Annotated[tuple[Share, ...], Field(min_length=1, max_length=64)] = (0.0, 0.01, 0.1, 1.0),
    steps: Whole = 10,
    step: Positive = 0.25,
) -> Found:
    """A guaranteed local Lipschitz constant of the margins in the ball, by intervals, beside the largest one sampled.

    radii: of balls, as multiples of eps. At eps, the bound says whether the margin outlasts the ball. It is vacuous on large
    networks.
    """
    exact, ascent = probe.exact(), Ascent(steps, step)
    table, at_eps = exact.over_radii(radii, lambda radius: _row(exact, radius, ascent))
    names = ("guaranteed", "sampled", "guaranteed over sampled", "proved", "certain radius")
    curve = {
        "eps": torch.tensor([probe.threat.radius * r for r in radii]),
        **{name: table[:, i] for i, name in enumerate(names)},
    }
    values = dict(zip(names, at_eps.tolist(), strict=True))
    notes = [
        "the values are at eps",
        "medians over samples of the dual norm of a margin's gradient, the largest over wrong classes",
        "proved: the share of samples whose margin is larger than eps times the constant; in exact arithmetic",
    ]
    if values["proved"] == 0:
        notes.append("vacuous at eps: intervals are too wide for this network to prove anything")
    return Found(values, {"over eps": curve}, notes=tuple(notes))


def _row(exact: Probe, share: float, ascent: Ascent) -> Tensor:
    """Medians at one radius."""
    threat = exact.threat.scaled(share)

    def compute(batch: Batch) -> tuple[Tensor, ...]:
        x, y, rng = batch
        # A ball of l2 or l1 lies in the box of its radius.
        low, high = (x - threat.radius).clamp(0, 1), (x + threat.radius).clamp(0, 1)
        bound = _bounds(exact, low, high, y)
        points = (x, threat.random_start(x, rng.at("lipschitz")), ascent.end(exact.net, x, y, threat, rng.at("lipschitz")))
        seen = torch.stack([_sampled(exact, z, y, other) for z in points for other in range(exact.classes)]).amax(0)
        with torch.no_grad():
            logits = forward(exact.net, x)
        gaps = logits.gather(1, y[:, None]) - logits
        outlasts = ((gaps > threat.radius * bound) | _own(y, exact.classes)).all(1)
        certain = torch.where(_own(y, exact.classes), torch.inf, gaps / bound).amin(1).clamp(0, threat.radius)
        return bound.amax(1), seen, outlasts.double(), certain

    bound, seen, proved, certain = exact.gathered(compute)
    ratio = (bound / seen.clamp_min(1e-300)).median()
    return torch.stack([bound.median(), seen.median(), ratio, proved.mean(), certain.median()])


def _own(y: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(y, classes).bool()


def _sampled(exact: Probe, z: Tensor, y: Tensor, other: int) -> Tensor:
    """At a point, of the logit of one class less the true one; 0 where they are the same."""
    found = slopes(exact.net, z, y, lambda logits, true: margin_targeted(logits, true, torch.full_like(true, other)))
    return exact.threat.dual(found)


def _bounds(exact: Probe, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Of the logit of every class less the true one, [N, K]; 0 for the true one itself."""
    try:
        # Behind the boundary of a network from elsewhere lies what is traced.
        within = traced(exact.net.net if isinstance(exact.net, Classifier) else exact.net, low, high)
    except Unknown as reason:
        raise BadInput(f"the slopes of this network have no bounds here: {reason}") from None
    less = torch.eye(exact.classes, dtype=low.dtype, device=low.device) - _own(y, exact.classes).to(low)[:, None]
    return torch.stack([dual_norm(within(less[:, other]), exact.threat.norm) for other in range(exact.classes)], 1)
