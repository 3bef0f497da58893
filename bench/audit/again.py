"""What a card states beside its attacks, made again: some of its certificates, and its diagnosis."""

from __future__ import annotations

from scipy.stats import hypergeom

from bench.audit.judgement import ALPHA
from bench.audit.row import Row
from bench.core import Rng, shuffled
from bench.diagnose import diagnose
from bench.errors import GauntletError
from bench.evaluation import Unproved, probe_of, proved
from bench.plugins import Defense
from bench.results import ORDER, Certified
from bench.verify import Check


def certificate(row: Row, count: int, seed: int) -> Check:
    """Whether as many of some samples can be proved as the card says of all: fewer than chance allows fail."""
    said = row.card.certified
    assert said is not None
    proving = next((defense for defense in reversed(row.under.defenses) if defense.name == said.defense), None)
    if proving is None:
        return Check(
            "certificate", False, (f"defense {said.defense[:80]!r} has no part in this model, and proves nothing of it",)
        )
    try:
        return _proved_again(row, said, proving, count, seed)
    except Unproved as error:
        return Check("certificate", False, (f"defense {proving.name!r} proves nothing of this model: {error}",))


def _proved_again(row: Row, said: Certified, proving: Defense, count: int, seed: int) -> Check:
    size = min(said.n, len(row.samples))
    chosen = shuffled(size, seed, "certificate")[:count].sort().values
    net, threat, certain = row.under.model.net.to(row.samples.x.device), row.balls()[-1], 0
    for index in chosen.split(row.batch_size):
        x, y = row.samples.batch(index)
        rng = Rng(row.card.seed, row.samples.ids[index.to(x.device)]).at("certify")
        found = proved(proving, net, x, threat, rng)
        if found is None:
            return Check("certificate", False, (f"defense {proving.name!r} proves nothing of this model",))
        labels, radii = found
        certain += int(((labels == y) & (radii >= threat.radius)).sum())
    of, told = round(said.accuracy * said.n), f"{certain} of {len(chosen)} samples proved again"
    if hypergeom.cdf(certain, size, min(of, size), len(chosen)) < ALPHA:
        return Check("certificate", False, (f"{told}, and the card says {said.accuracy:.1%} of {said.n} are certain",))
    return Check("certificate", True, (f"{told}, as the card says ({said.accuracy:.1%})",))


def diagnosis(row: Row) -> Check:
    """Whether the diagnosis that is made here is as good as the one on the card."""
    said = row.card.diagnosis
    if said is None:
        return Check("diagnosis", None, ("the card has none; `gauntlet diagnose` makes one",))
    try:
        probe = probe_of(row.card, row.under, row.samples, row.broken, row.dataset, row.batch_size)
        found = diagnose(probe, row.report)
    except GauntletError as error:
        return Check("diagnosis", None, (str(error),))
    if ORDER.index(found.verdict) <= ORDER.index(said.verdict):
        return Check("diagnosis", True, (f"{found.verdict}, as the card says",))
    worst = next(finding for finding in found.findings if finding.verdict == found.verdict)
    return Check(
        "diagnosis", False, (f"{found.verdict} here, and the card says {said.verdict}: {worst.check}: {worst.told}",)
    )  # fmt: skip
