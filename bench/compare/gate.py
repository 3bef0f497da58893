"""The regression gate: has a candidate lost samples that its baseline had, beyond chance and what is tolerated?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

from bench.compare.comparable import doubted, require_attacked, require_same, require_same_work, without_additions
from bench.errors import BadInput, UnknownName
from bench.results import METRICS, Card, Outcomes, fell_to, find_cards, outcomes_of, read_card
from bench.statistics import drop_p, paired_interval

ALPHA = 0.025
"""One-sided, so that a drop is a regression where its 95 % interval lies above what is tolerated."""
_NAMES = ("the baseline", "the candidate")


@dataclass(frozen=True)
class Check:
    """What the gate found."""

    regression: bool
    metric: str
    baseline_name: str
    candidate_name: str
    baseline: float
    """Its accuracy, or its seconds."""
    candidate: float
    drop: float
    """The baseline's accuracy less the candidate's, as a share of the samples; of seconds, the part it is slower by."""
    tolerance: float
    n: int
    alpha: float | None = None
    """None for seconds, which no test is made of."""
    p: float | None = None
    """Exact and one-sided."""
    interval: tuple[float, float] | None = None
    """Of the drop, 95 %."""
    lost: tuple[int, ...] = ()
    """Ids of the samples that only the baseline is right on."""
    won: tuple[int, ...] = ()
    """Ids of the samples that only the candidate is right on."""
    lost_to: Mapping[str, int] = field(default_factory=dict)
    """How many of the lost ones fell first to each attack, the most first; "clean" where the clean image is wrong already."""
    measured: str = ""
    """On what: data set, threat model, plan and samples."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As `gauntlet check --json` prints it; b and c are the numbers of samples lost and won."""
        return json.dumps({**asdict(self), "b": len(self.lost), "c": len(self.won)}, indent=2)


def check_regression(
    baseline: str | Path, candidate: str | Path, metric: str = "robust", alpha: float = ALPHA, tolerance: float = 0.0
) -> Check:
    """Compare a candidate with its baseline, sample by sample; BadInput where nothing was measured or they do not compare.

    A drop is a regression where an exact one-sided test at level alpha finds it larger than the tolerance, a share of the
    samples. Of `seconds` there is one number on either side, so no test: more than (1 + tolerance) times is a regression.
    """
    if metric not in (*METRICS, "seconds"):
        raise UnknownName("metric", metric, (*METRICS, "seconds"))
    if not 0 < alpha < 1:
        raise BadInput(f"alpha {alpha}: a level lies between 0 and 1, such as 0.05")
    if not 0 <= tolerance < (inf if metric == "seconds" else 1):
        raise BadInput(
            f"tolerance {tolerance}: give a share such as 0.01 (a point), of seconds such as 0.5 (half as many again)"
        )
    cards = _single(baseline, _NAMES[0]), _single(candidate, _NAMES[1])
    if metric == "seconds":
        return _seconds(cards[0][0], cards[1][0], tolerance)
    first, second = (outcomes_of(card, path) for card, path in cards)
    notes = require_same(first, second, _NAMES)
    for outcomes, name in zip((first, second), _NAMES, strict=True):
        notes += without_additions([outcomes], name)
        if metric == "robust":
            require_attacked(outcomes.card, name)
    if metric == "robust" and second.card.doubt > first.card.doubt:
        raise BadInput(f"{doubted(second.card, _NAMES[1])}, and a drop would not show; mend it, or gate a model without that")
    return _paired(first, second, metric, alpha, tolerance, notes)


def _single(place: str | Path, name: str) -> tuple[Card, Path]:
    found = find_cards(place)
    if len(found) > 1:
        told = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
        raise BadInput(f"{name} {place} holds {len(found)} cards: {told}; name one")
    return read_card(found[0]), found[0]


def _paired(first: Outcomes, second: Outcomes, metric: str, alpha: float, tolerance: float, notes: list[str]) -> Check:
    was, now = first.of(metric), second.of(metric)
    lost, won, n = first.ids[was & ~now], first.ids[now & ~was], len(was)
    p = drop_p(len(lost), len(won), n, tolerance)
    if not was.any():
        notes = [*notes, "the baseline is right on no sample, so no drop could have been seen"]
    elif (least := drop_p(int(was.sum()), 0, n, tolerance)) >= alpha:
        notes = [
            *notes,
            f"no drop could have failed: were all {int(was.sum())} samples lost that the baseline is right on, p would be "
            f"{least:.2g}, and alpha is {alpha:g}; take more samples" + (", or a smaller tolerance" if tolerance else ""),
        ]
    return Check(
        regression=p < alpha,
        metric=metric,
        baseline_name=first.card.name,
        candidate_name=second.card.name,
        baseline=float(was.mean()),
        candidate=float(now.mean()),
        drop=(len(lost) - len(won)) / n,
        tolerance=tolerance,
        n=n,
        alpha=alpha,
        p=p,
        interval=paired_interval(len(lost), len(won), n),
        lost=tuple(lost.tolist()),
        won=tuple(won.tolist()),
        lost_to=fell_to(second, lost) if metric == "robust" else {},
        measured=_measured(second.card),
        notes=(*_weights(first.card, second.card), *notes),
    )


def _measured(card: Card) -> str:
    return f"{card.dataset} {card.data.split}, {card.threat.norm} {card.threat.eps}, plan {card.plan.name}, n {card.n}"


def _weights(first: Card, second: Card) -> list[str]:
    if first.identity != second.identity:
        return []
    same = "the same model: neither its weights nor its answers have changed"
    return [f"{same}, so only code, versions or the seed of the evaluation can differ"]


def _seconds(first: Card, second: Card, tolerance: float) -> Check:
    notes = require_same_work(first, second, _NAMES)
    for card, name in zip((first, second), _NAMES, strict=True):
        if not 0 < card.seconds < inf:
            raise BadInput(f"{name} measured nothing: its card says {card.seconds} seconds; evaluate the model again")
    if first.device != second.device:
        notes = [*notes, f"device: {first.device} for {_NAMES[0]}, {second.device} for {_NAMES[1]}"]
    slower = second.seconds / first.seconds - 1
    return Check(
        regression=slower > tolerance,
        metric="seconds",
        baseline_name=first.name,
        candidate_name=second.name,
        baseline=first.seconds,
        candidate=second.seconds,
        drop=slower,
        tolerance=tolerance,
        n=first.n,
        measured=_measured(second),
        notes=(*_weights(first, second), *notes, "one number on either side: a plain threshold, not a test"),
    )
