"""A look at the gradient, which every evaluation takes and a portfolio goes by."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core import Rng, shuffled
from bench.diagnose import Probe, noticed
from bench.evaluation.engine import Evaluation
from bench.results import Finding

LOOK = 64
"""Samples that it is taken at."""
ROUNDED = 1e-3
"""By how much of the usual lead rounding may change one."""


def look(run: Evaluation) -> tuple[Finding, ...]:
    """What is noticed of the gradient in the ball of an evaluation; looked at once."""
    if run.threat not in run.looked:
        run.looked[run.threat] = noticed(right(run))
    return run.looked[run.threat]


def unsteady(run: Evaluation) -> tuple[Finding, ...]:
    """That examples no longer break their samples when they are judged again, though the network seemed to repeat itself.

    Chance that sets in only where an attack has been is not seen on clean images.
    """
    proven = (run.broken & run.clean).nonzero().squeeze(1)
    gone, leads = 0, []
    for index in proven.split(run.batch_size) if len(proven) and not run.randomised else ():
        x, y = run.data.batch(index)
        again = run.judge.verdict(run.closest[index].to(x.device), x, y)
        leads.append(torch.where(again.fooled, 0, again.margin.abs()).cpu())
    if leads and run.clean.any():
        # What rounding may turn round when other images are beside is no chance.
        x, y = run.data.batch(run.clean.nonzero().squeeze(1)[:LOOK])
        usual = float(run.judge.correct(x, y)[1].abs().median())
        gone = int((torch.cat(leads) > ROUNDED * usual).sum())
    if not gone:
        return ()
    told = (
        f"{gone} of {len(proven)} examples no longer break their samples when they are judged again: the network answers "
        "attacked images by chance, or by the company they are in, and nobody can verify its number; fix its randomness, and "
        "evaluate it anew"
    )
    share = round(gone / len(proven), 4)
    return (Finding(check="same answer twice", value=share, threshold=0.0, verdict="broken", told=told),)


def right(run: Evaluation) -> Probe:
    """A few of the samples that an evaluation found right, to look at the network's gradient on."""
    order = shuffled(len(run.data), run.seed, "noticed")
    return probe_at(run, order[run.clean[order]][:LOOK], "noticed")


def probe_at(run: Evaluation, index: Tensor, stream: str) -> Probe:
    """The samples of an evaluation at index [M], to look at; stream: the name of their randomness."""
    x, y = run.data.batch(index)
    rng = Rng(run.seed, run.data.ids[index.to(run.data.ids.device)]).at(stream)
    return Probe(run.judge, x, y, run.broken[index].to(y.device), rng, batch_size=run.batch_size)
