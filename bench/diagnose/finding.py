"""How a measured value becomes a finding."""

from __future__ import annotations

from bench.measured import ORDER, Finding, Verdict


def graded(check: str, value: float, limits: tuple[float, float], fine: str, wrong: str) -> Finding:
    """limits: above the first the value is suspicious, above the second the defense is broken."""
    verdict = ORDER[sum(value > limit for limit in limits)]
    told = fine if verdict == "ok" else wrong
    return Finding(check=check, value=round(value, 4), threshold=limits[0], verdict=verdict, told=told)


def inapplicable(check: str, why: str) -> Finding:
    """A check that cannot be made here."""
    return Finding(check=check, value=None, threshold=None, verdict="ok", told=f"does not apply: {why}")


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """The verdict of all of them."""
    return max((finding.verdict for finding in findings), key=ORDER.index, default="ok")
