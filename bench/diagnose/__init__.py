"""Whether a number can be trusted: checks that an honest gradient and a finished attack pass, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.diagnose import answers, gradients, searches
from bench.diagnose.binarization import ACTIVE, binarization
from bench.diagnose.finding import worst
from bench.diagnose.paths import paths
from bench.diagnose.probe import Probe, choose
from bench.diagnose.substitute import transferred
from bench.files.progress import Reporter
from bench.results.schema import Diagnosis, Finding

CHECKS: tuple[Callable[[Probe], Finding | list[Finding]], ...] = (
    gradients.unavailable, gradients.saturated, gradients.faithful, answers.stochastic, answers.company, answers.two_faced,
    answers.unstable, searches.overestimate, searches.blind, searches.single_step, searches.random_search, searches.converged,
    searches.searched, searches.larger_balls, searches.unbounded, searches.losses_apart, searches.exact, transferred, paths,
)  # fmt: skip

__all__ = ["ACTIVE", "CHECKS", "Probe", "choose", "examine"]


def examine(probe: Probe, report: Reporter, *, active: bool = False) -> Diagnosis:
    """Make every check on a probe; active: the binarization test too."""
    began = time.monotonic()
    found: list[Finding] = []
    for check in (*CHECKS, *([binarization] if active else [])):
        made = check(probe)
        found += made if isinstance(made, list) else [made]
        report.advance(1.0, f"{found[-1].check}: {found[-1].verdict}")
    findings = tuple(found)
    return Diagnosis(verdict=worst(findings), n=len(probe.y), findings=findings, seconds=round(time.monotonic() - began, 3))
