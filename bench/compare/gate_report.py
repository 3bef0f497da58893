"""What the gate tells: lines for a terminal, Markdown for a CI job's page, JUnit XML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from bench.compare.gate import Check
from bench.escape import line
from bench.escape import markdown as escaped
from bench.files import write_text

NAMED = 20
"""Samples named in a text; the rest are counted."""


def render(found: Check) -> str:
    """The verdict in a few lines."""
    lines = [f"{'regression' if found.regression else 'fine'}: {headline(found)}", f"measured: {line(found.measured)}"]
    if found.p is not None:
        lines.append(_test(found))
    if found.lost:
        lines.append(f"lost: {_named(found.lost)}")
    if found.lost_to:
        lines.append(f"lost to: {line(_by_attack(found))}")
    return "\n".join([*lines, *(f"note: {line(note)}" for note in found.notes)])


def _by_attack(found: Check) -> str:
    """What broke the samples that were lost, the first of it for each."""
    return ", ".join(f"{name} {count}" for name, count in found.lost_to.items())


def headline(found: Check) -> str:
    """What happened, in a sentence."""
    if found.metric == "seconds":
        change = f"{abs(found.drop):.1%} {'slower' if found.drop > 0 else 'faster'}"
        told = f"{found.baseline:.1f} to {found.candidate:.1f} seconds, {change}"
        return f"{told} (tolerated: {found.tolerance:.1%})"
    way = {1: "fell", -1: "rose", 0: "is unchanged"}[(found.drop > 0) - (found.drop < 0)]
    by = f" by {100 * abs(found.drop):.2f} points" if found.drop else ""
    values = f"from {found.baseline:.1%} to {found.candidate:.1%}" if found.drop else f"at {found.candidate:.1%}"
    return f"{found.metric} accuracy {way}{by}, {values} on {found.n} samples"


def _test(found: Check) -> str:
    low, high = (100 * end for end in found.interval or (0.0, 0.0))
    name = "exact McNemar" if not found.tolerance else f"exact, of a drop beyond {100 * found.tolerance:g} points"
    return (
        f"lost b = {len(found.lost)}, won c = {len(found.won)}; one-sided p = {found.p:.2g} ({name}), alpha {found.alpha:g}; "
        f"drop {100 * found.drop:.2f} points, 95 % interval {low:.2f} to {high:.2f}"
    )


def _named(ids: Sequence[int]) -> str:
    rest = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"{len(ids)} samples, ids {', '.join(map(str, ids[:NAMED]))}{rest}"


def markdown(found: Check) -> str:
    """The summary for a page."""
    values = ["{:.1f} s", "{:.1f} s"] if found.metric == "seconds" else ["{:.2%}", "{:.2%}"]
    rows = [
        ("baseline", found.baseline_name, values[0].format(found.baseline)),
        ("candidate", found.candidate_name, values[1].format(found.candidate)),
    ]
    measure = "seconds" if found.metric == "seconds" else f"{found.metric} accuracy"
    parts = [
        f"## Gauntlet: {'regression' if found.regression else 'fine'}",
        escaped(headline(found)) + ".",
        f"Measured on {escaped(found.measured)}.",
        "\n".join([f"| | model | {measure} |", "| --- | --- | ---: |", *(f"| {a} | {escaped(b)} | {c} |" for a, b, c in rows)]),
    ]
    if found.p is not None:
        parts.append(escaped(_test(found)) + ".")
    if found.lost_to:
        rows_of = "\n".join(f"| {escaped(name)} | {count} |" for name, count in found.lost_to.items())
        parts.append(f"| what broke the lost samples first | samples |\n| --- | ---: |\n{rows_of}")
    if found.lost:
        parts.append(f"<details><summary>{len(found.lost)} samples lost</summary>\n\nids {_ids(found.lost)}\n\n</details>")
    return "\n\n".join([*parts, *(f"- {escaped(note)}" for note in found.notes)]) + "\n"


def _ids(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:1000])) + (", ..." if len(ids) > 1000 else "")


def junit(outcome: Check | Exception, metric: str) -> str:
    """JUnit XML with the gate as its one test case."""
    failed, stopped = isinstance(outcome, Check) and outcome.regression, not isinstance(outcome, Check)
    counts = {"tests": "1", "failures": str(int(failed)), "errors": str(int(stopped)), "skipped": "0", "time": "0"}
    suites = ElementTree.Element("testsuites", {"name": "gauntlet check", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "gauntlet check", **counts})
    case = ElementTree.SubElement(suite, "testcase", {"classname": "gauntlet.check", "name": line(metric), "time": "0"})
    if isinstance(outcome, Check):
        kind, text, message = ("failure" if failed else "system-out"), render(outcome), headline(outcome)
    else:
        kind, text, message = "error", line(outcome), line(outcome)
    told = ElementTree.SubElement(case, kind, {} if kind == "system-out" else {"message": message, "type": kind})
    told.text = text
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def publish(outcome: Check | Exception, metric: str, junit_file: Path | None, summary_file: Path | None) -> list[str]:
    """Write the files asked for, and append the summary to the page of a GitHub job, where this is one.

    Returns why the page could not be written to: that is no reason to fail a change.
    """
    page = markdown(outcome) if isinstance(outcome, Check) else f"## Gauntlet: nothing measured\n\n{escaped(outcome)}\n"
    if junit_file:
        write_text(junit_file, junit(outcome, metric))
    if summary_file:
        write_text(summary_file, page)
    if job := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(job).open("a", encoding="utf-8") as file:
                file.write(page)
        except OSError as error:
            return [f"no summary on the page of the job: {job}: {error.strerror}"]
    return []
