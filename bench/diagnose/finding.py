"""What a check is: a value, two limits, two sentences; and how it becomes a finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.diagnose.probe import Probe
from bench.results import ORDER, Finding, Verdict


class Inapplicable(Exception):
    """Why a check cannot be made on this probe."""


@dataclass(frozen=True)
class Measured:
    """A value, and what else the sentences about it mention."""

    value: float
    words: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    """Where it does not depend on the limits."""


Measure = Callable[[Probe], float | Measured]


@dataclass(frozen=True)
class Check:
    """One check of a diagnosis. Its sentences are templates of `value` and of the words that its measure gives."""

    name: str
    limits: tuple[float, float]
    """Above the first the value is suspicious, above the second the defense is broken."""
    fine: str
    wrong: str
    """What it means for the number, and what to do next."""
    measure: Measure
    repeatable: bool = False
    """Whether it says nothing about a network whose answers are random."""
    any: bool = False
    """Whether it is made on images of all kinds, and not on those alone that the network has right."""
    share: bool = True
    """Whether the value is a share of the probe's samples; a single one of them may be an accident and proves nothing."""
    part: int = 1
    """One in so many of the samples is enough for it."""

    def __call__(self, probe: Probe) -> Finding:
        """Make the check."""
        probe = probe.part(self.part) if len(probe.y) else probe
        try:
            if not len(probe.y) and not self.any:
                raise Inapplicable("the network has none of the images right")
            if self.repeatable and probe.noisy:
                raise Inapplicable("the answers are random")
            measured = self.measure(probe)
        except Inapplicable as reason:
            told = f"does not apply: {reason}"
            return Finding(check=self.name, value=None, threshold=None, verdict="ok", told=told)
        measured = measured if isinstance(measured, Measured) else Measured(measured)
        least = [max(limit, 1.5 / len(probe.y)) if self.share and not self.any else limit for limit in self.limits]
        verdict = measured.verdict or ORDER[sum(measured.value > limit for limit in least)]
        sentence = self.fine if verdict == "ok" else self.wrong
        return Finding(
            check=self.name, value=round(measured.value, 4), threshold=round(least[0], 4), verdict=verdict,
            told=sentence.format(value=measured.value, **measured.words),
        )  # fmt: skip


def check(name: str, limits: tuple[float, float], *, fine: str, wrong: str, **rest: Any) -> Callable[[Measure], Check]:
    """A check by what it measures; rest: repeatable, any, share and part, as Check has them."""
    return lambda measure: Check(name, limits, fine, wrong, measure, **rest)


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """The verdict of all of them."""
    return max((finding.verdict for finding in findings), key=ORDER.index, default="ok")
