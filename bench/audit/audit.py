"""The audit of a card: what is done again, and what is said of it among the checks of `verify`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.audit.again import certificate, diagnosis
from bench.audit.judgement import judge
from bench.audit.rerun import rerun
from bench.audit.row import Row
from bench.audit.schedule import schedule_problems
from bench.core import device, shuffled
from bench.errors import GauntletError
from bench.files import Reporter
from bench.results import read_records
from bench.verify import ATTEMPTS, Check, Given, NotHere, Verified, data_of, load_data, load_model, read_evidence

NAME = "audit"
"""Of the check."""

COLUMNS = 5
"""For so many samples one more is attacked that fell to one attack and stood another."""


@dataclass(frozen=True)
class Asked:
    """What is to be done again."""

    samples: int = 0
    """How many of a row's samples are attacked again, and how many proved again."""
    seed: int | None = None
    """Chooses them; one that nobody knows beforehand unless given."""
    diagnosis: bool = False
    """Whether the diagnosis is made again."""


def audited(rows: Sequence[Verified], asked: Asked, given: Given, *, quiet: bool = False) -> list[Verified]:
    """The rows with further checks: whether what is done again comes out as their cards say. What fails is left alone."""
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    with Reporter("audit", len(rows), quiet=quiet) as report, device.exact_float32():
        return [_audited(row, asked, seed, given, report) for row in rows]


def _audited(found: Verified, asked: Asked, seed: int, given: Given, report: Reporter) -> Verified:
    # That attacks were run is what an audit shows of a row in which nothing fell.
    others = [one for one in found.checks if one.name != ATTEMPTS]
    if not all(one.ok or one.apart for one in others):
        return found
    try:
        checks = [*_checks(_loaded(found, given, report), asked, seed)]
    except NotHere as error:
        checks = [Check(NAME, None, (str(error),))]
    shown = any(one.name == NAME and one.ok for one in checks)
    return found._replace(checks=[*(others if shown else found.checks), *checks])


def _loaded(found: Verified, given: Given, report: Reporter) -> Row:
    """The row with its model and its data; NotHere where one of them is missing."""
    card = found.card
    assert card is not None
    evidence = read_evidence(card, found.path.parent)
    samples = load_data(card, found.path, evidence, given, [])
    under = load_model(card, found.path, samples, given, []) if samples else None
    if samples is None or under is None:
        raise NotHere("its data or its model are not here")
    records = read_records(found.path.parent / card.records.file, card.records.rows)
    size = given.batch_size or (256 if samples.x.device.type == "cpu" else 1024)
    broken = torch.zeros(len(samples), dtype=torch.bool)
    for proof in evidence.proofs:
        broken |= torch.isin(samples.ids.cpu(), proof.ids)
    return Row(card, data_of(card, found.path, given), under, samples, records, broken, size, report)


def _checks(row: Row, asked: Asked, seed: int) -> Iterator[Check]:
    if asked.samples:
        yield _attempts(row, asked.samples, seed)
        if row.card.certified:
            yield certificate(row, asked.samples, seed)
    if asked.diagnosis:
        yield diagnosis(row)


def _attempts(row: Row, count: int, seed: int) -> Check:
    if row.under.noisy or row.under.batch_dependent:
        return Check(NAME, None, ("its answers depend on chance or on the batch, so no attempt repeats itself: stated",))
    chosen = row.samples.select(_chosen(row, count, seed))
    row.report.say(f"{row.card.name}: {len(chosen)} of {row.card.n} samples again")
    try:
        otherwise = schedule_problems(row)
        attempts = rerun(row, chosen)
    except GauntletError as error:
        return Check(NAME, None, (f"an attack of its plan does not run here: {error}",))
    stated = attempts.stated
    found = judge(attempts.rows)
    problems = [*otherwise, *found.problems]
    if not len(attempts.rows) and not problems:
        return Check(NAME, None, stated or (found.seen,))
    return Check(NAME, not problems, (*(problems or [found.seen]), *stated, f"samples chosen by --rerun-seed {seed}"))


def _chosen(row: Row, count: int, seed: int) -> Tensor:
    """Positions of so many samples, in order: survivors, whose number is what a row claims, and others where they are few.

    And of a few more that fell to one attack and stood another, whose column claims that.
    """
    ids = row.samples.ids.cpu()
    order = shuffled(len(ids), seed, "audit")
    stood, torn = (torch.isin(ids[order], torch.tensor(sorted(some))) for some in (row.survivors(), row.torn()))
    chosen = torch.cat([order[stood], order[~stood]])[:count]
    more = order[torn & ~torch.isin(order, chosen)][: count // COLUMNS]
    return torch.cat([chosen, more]).sort().values
