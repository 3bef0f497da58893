"""`gauntlet doctor`: does a defense or an attack keep what the harness relies on, and if not, what to do."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.doctor import attack_checks, declaration_checks, defense_checks
from bench.doctor.conformance import Finding, carry_out
from bench.errors import UnknownName
from bench.plugins import registry

WIDTH = 80
"""Of the last column."""


def examine_plugin(name: str) -> list[Finding]:
    """The findings on the defense or the attack of this name; on both, where both are called so."""
    defenses, attacks = registry.defense_names(), registry.attack_names()
    if ":" not in name and name not in (*defenses, *attacks):
        raise UnknownName("defense or attack", name, [*defenses, *attacks, registry.YOURS])
    findings = []
    if name in defenses:
        findings += _defense(name)
    if name in attacks or ":" in name:
        found = attack_checks.cases(name)
        findings += carry_out(attack_checks.CHECKS, found, _source(registry.get_attack(name).run))
    return findings


def render(name: str, findings: Sequence[Finding]) -> str:
    """A table, and a sentence on what it says."""
    said = {True: "ok", False: "FAILED", None: "-"}
    rows, told = [], ""
    for finding in findings:
        remedy = "as above" if finding.remedy and finding.remedy == told else finding.remedy
        told = finding.remedy or told
        # A path stays in one piece, to be copied.
        wrapped = textwrap.fill(remedy, WIDTH, break_long_words=False, break_on_hyphens=False)
        rows.append((finding.check, said[finding.ok], wrapped))
    failed = sum(finding.ok is False for finding in findings)
    verdict = f"{failed} of {len(findings)} checks failed" if failed else "all is well"
    return f"{tabulate(rows, headers=['check', '', 'what to do'], tablefmt='simple')}\n\n{name}: {verdict}"


def _defense(name: str) -> list[Finding]:
    source = _source(registry.get_defense(name))
    findings = list(carry_out(declaration_checks.CHECKS, {name: name}, source))
    found, reason = defense_checks.cases(name)
    if not found:
        return [*findings, Finding("everything else", None, f"cannot be tried on digits: {reason}")]
    return findings + list(carry_out(defense_checks.CHECKS, found, source))


def _source(thing: type | Callable[..., Any]) -> Path:
    """The file of a plug-in."""
    return Path(getattr(sys.modules.get(thing.__module__), "__file__", None) or "")
