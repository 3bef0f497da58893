"""The checks of a diagnosis, in order, and the verdict of all of them."""

from __future__ import annotations

import time

from bench.diagnose import answers, gradients, paths, searches
from bench.diagnose.binarization import binarization
from bench.diagnose.finding import Check, worst
from bench.diagnose.probe import Probe
from bench.diagnose.substitute import transferred
from bench.files import Reporter
from bench.results import Diagnosis, Finding

CHECKS: tuple[Check, ...] = (
    answers.constant, gradients.unavailable, gradients.saturated, gradients.faithful, answers.stochastic, answers.company,
    answers.two_faced, answers.unstable, searches.overestimate, searches.blind, searches.single_step, searches.random_search,
    searches.converged, searches.searched, searches.larger_balls, searches.unbounded, searches.losses_apart, searches.exact,
    transferred, paths.silent, paths.unfinished, paths.seeming,
)  # fmt: skip


def diagnose(probe: Probe, report: Reporter, *, active: bool = False) -> Diagnosis:
    """Make every check on a probe; active: the binarization test too."""
    began = time.monotonic()
    found: list[Finding] = []
    for check in (*CHECKS, *([binarization] if active else [])):
        found.append(check(probe))
        report.advance(1.0, f"{check.name}: {found[-1].verdict}")
    findings = tuple(found)
    return Diagnosis(verdict=worst(findings), n=len(probe.y), findings=findings, seconds=round(time.monotonic() - began, 3))
