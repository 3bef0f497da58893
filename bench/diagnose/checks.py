"""The checks of a diagnosis, in order, and the verdict of all of them."""

from __future__ import annotations

import time

from bench.diagnose import agreement, answers, gradients, paths, searches
from bench.diagnose.binarization import binarization
from bench.diagnose.finding import Check, worst
from bench.diagnose.probe import Probe
from bench.diagnose.readings import inside
from bench.diagnose.substitute import transferred
from bench.files import Reporter
from bench.results import Diagnosis, Finding

CHECKS: tuple[Check, ...] = (
    answers.constant, gradients.unavailable, gradients.saturated, gradients.faithful, answers.stochastic, answers.company,
    answers.two_faced, answers.unstable, searches.overestimate, searches.blind, searches.single_step, searches.random_search,
    searches.converged, searches.searched, searches.larger_balls, searches.unbounded, searches.losses_apart, searches.exact,
    transferred, inside, agreement.hidden, paths.silent, paths.unfinished, paths.seeming,
)  # fmt: skip


def noticed(probe: Probe) -> tuple[Finding, ...]:
    """What every evaluation notices by itself, for a few passes, on samples that it found right; nothing where there are none.

    Whether there is a gradient, and where there is, whether it is that of the answers.
    """
    if not len(probe.y):
        return ()
    there = gradients.unavailable(probe)
    return (there, gradients.faithful(probe)) if there.verdict == "ok" else (there,)


NONE_RIGHT = Finding(
    check="right answers", value=0.0, threshold=None, verdict="suspicious",
    told="the model has no sample right, so that nothing can be attacked and its robust accuracy of 0 says nothing about "
    "robustness: see whether weights, normalisation and the order of the labels are those it was trained with",
)  # fmt: skip


ONE_RIGHT = Finding(
    check="right answers", value=1.0, threshold=None, verdict="suspicious",
    told="the model has a single sample right, of which nothing that is said is more than an accident: give more with --n",
)  # fmt: skip


def diagnose(probe: Probe, report: Reporter, *, active: bool = False) -> Diagnosis:
    """Make every check on a probe; active: the binarization test too."""
    began = time.monotonic()
    if not len(probe.y):
        return Diagnosis(verdict=NONE_RIGHT.verdict, n=0, findings=(NONE_RIGHT,), seconds=0.0)
    found = [ONE_RIGHT] if len(probe.y) == 1 else []
    for check in (*CHECKS, *([binarization] if active else [])):
        found.append(check(probe))
        report.advance(1.0, f"{check.name}: {found[-1].verdict}")
    findings = tuple(found)
    return Diagnosis(verdict=worst(findings), n=len(probe.y), findings=findings, seconds=round(time.monotonic() - began, 3))
