"""How a measured value becomes a finding."""

from __future__ import annotations

from bench.results.schema import ORDER, Finding, Verdict


def graded(check: str, value: float, limits: tuple[float, float], fine: str, wrong: str, n: int = 0) -> Finding:
    """limits: above the first the value is suspicious, above the second the defense is broken.

    n: the samples that the value is a share of; a single one of them may be an accident and proves nothing.
    """
    least = tuple(max(limit, 1.5 / n) if n else limit for limit in limits)
    verdict = ORDER[sum(value > limit for limit in least)]
    told = fine if verdict == "ok" else wrong
    return Finding(check=check, value=round(value, 4), threshold=round(least[0], 4), verdict=verdict, told=told)


def inapplicable(check: str, why: str) -> Finding:
    """A check that cannot be made here."""
    return Finding(check=check, value=None, threshold=None, verdict="ok", told=f"does not apply: {why}")


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """The verdict of all of them."""
    return max((finding.verdict for finding in findings), key=ORDER.index, default="ok")
