"""The audit of a card: which samples are attacked again, and what is said of it among the checks of `verify`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.audit.judgement import judge
from bench.audit.rerun import rerun
from bench.audit.schedule import schedule_problems
from bench.core import device, shuffled
from bench.errors import GauntletError
from bench.files import Reporter
from bench.results import read_records
from bench.verify import ATTEMPTS, Check, Given, NotHere, Verified, load_data, load_model, read_evidence

NAME = "audit"
"""Of the check."""


def audited(rows: Sequence[Verified], count: int, seed: int | None, given: Given, *, quiet: bool = False) -> list[Verified]:
    """The rows with one check more: whether so many samples of each, attacked again, do as its records say.

    seed: chooses the samples; one that nobody knows beforehand unless given. A row that does not hold is not audited.
    """
    seed = secrets.randbits(32) if seed is None else seed
    with Reporter("audit", len(rows), quiet=quiet) as report, device.exact_float32():
        return [_audited(row, count, seed, given, report) for row in rows]


def _audited(row: Verified, count: int, seed: int, given: Given, report: Reporter) -> Verified:
    # That attacks were run is what an audit shows of a row in which nothing fell.
    others = [one for one in row.checks if one.name != ATTEMPTS]
    if not all(one.ok for one in others):
        return row
    found = _check(row, count, seed, given, report)
    return row._replace(checks=[*(others if found.ok else row.checks), found])


def _check(row: Verified, count: int, seed: int, given: Given, report: Reporter) -> Check:
    card = row.card
    assert card is not None
    evidence = read_evidence(card, row.path.parent)
    try:
        samples = load_data(card, row.path, evidence, given, [])
        under = load_model(card, row.path, samples, given, []) if samples else None
        if samples is None or under is None or evidence.samples is None:
            return Check(NAME, None, ("its data or its model are not here",))
        if under.noisy or under.batch_dependent:
            return Check(NAME, None, ("its answers depend on chance or on the batch, so no attempt repeats itself: stated",))
        records = read_records(row.path.parent / card.records.file, card.records.rows)
        survivors = frozenset(evidence.samples.ids.tolist()) - frozenset(records["id"][records["broken"]].tolist())
        chosen = samples.select(_chosen(samples.ids.cpu(), survivors, count, seed))
        report.say(f"{row.path}: {len(chosen)} of {card.n} samples again")
        batch_size = given.batch_size or (256 if samples.x.device.type == "cpu" else 1024)
        otherwise = schedule_problems(card, records, under, samples, batch_size, report)
        attempts = rerun(card, records, under, chosen, batch_size, report)
    except NotHere as error:
        return Check(NAME, None, (str(error),))
    except GauntletError as error:
        return Check(NAME, None, (f"an attack of its plan does not run here: {error}",))
    found = judge(attempts.rows, survivors)
    stated = [f"{name} takes all samples at once and was not run again: stated" for name in attempts.whole]
    problems = [*otherwise, *found.problems]
    if not len(attempts.rows):
        return Check(NAME, None, tuple(stated) or (found.seen,))
    told = (*(problems or [found.seen]), *stated, f"samples chosen by --rerun-seed {seed}")
    return Check(NAME, not problems, told)


def _chosen(ids: Tensor, survivors: frozenset[int], count: int, seed: int) -> Tensor:
    """Positions of so many samples, in order: survivors, whose number is what a row claims, and others where they are few."""
    order = shuffled(len(ids), seed, "audit")
    stood = torch.tensor([int(ids[place]) in survivors for place in order])
    return torch.cat([order[stood], order[~stood]])[:count].sort().values
