"""A look at the gradient, which every evaluation takes and a portfolio goes by."""

from __future__ import annotations

from bench.core import Rng, shuffled
from bench.diagnose import Probe, noticed
from bench.evaluation.engine import Evaluation
from bench.results import Finding

LOOK = 64
"""Samples that it is taken at."""


def look(run: Evaluation) -> tuple[Finding, ...]:
    """What is noticed of the gradient in the ball of an evaluation; looked at once."""
    if run.threat not in run.looked:
        run.looked[run.threat] = noticed(right(run))
    return run.looked[run.threat]


def right(run: Evaluation) -> Probe:
    """A few of the samples that an evaluation found right, to look at the network's gradient on."""
    order = shuffled(len(run.data), run.seed, "noticed")
    index = order[run.clean[order]][:LOOK]
    x, y = run.data.batch(index)
    rng = Rng(run.seed, run.data.ids[index.to(run.data.ids.device)]).at("noticed")
    return Probe(run.judge, x, y, run.broken[index].to(y.device), rng, batch_size=run.batch_size)
