"""`gauntlet doctor`: does a defense or an attack keep what the harness relies on, and if not, what to do."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.doctor import attack_checks, declaration_checks, defense_checks
from bench.doctor.conformance import Finding, carry_out
from bench.errors import BadInput, UnknownName
from bench.plugins import registry
from bench.training import configure

WIDTH = 80
"""Of the last column."""


def examine_plugin(name: str, settings: Mapping[str, str] | None = None) -> list[Finding]:
    """The findings on the defense or the attack of this name; on both, where both are called so.

    settings: hyper-parameters of the defense, as text, where it cannot be tried at its defaults ({"teacher": "net.pt"}).
    """
    defenses, attacks = registry.defense_names(), registry.attack_names()
    if ":" not in name and name not in (*defenses, *attacks):
        raise UnknownName("defense or attack", name, [*defenses, *attacks, registry.YOURS])
    findings = []
    if name in defenses:
        findings += _defense(name, settings or {})
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


def _defense(name: str, settings: Mapping[str, str]) -> list[Finding]:
    source = _source(registry.get_defense(name))
    findings = list(carry_out(declaration_checks.CHECKS, {name: name}, source))
    found, reason = defense_checks.cases(name, _own(name, settings))
    if not found:
        return [*findings, Finding("everything else", None, f"cannot be tried on digits: {reason}")]
    return findings + list(carry_out(defense_checks.CHECKS, found, source))


def _own(name: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """Hyper-parameters of a defense, read as the command line reads them."""
    made, _, _ = configure(name, "digits", "digits", settings)
    if others := set(settings) - made.hyper_parameters():
        raise BadInput(f"{min(others)} is an option of every training; here only {name!r} itself is tried, leave it out")
    return {key: getattr(made, key) for key in settings}


def _source(thing: type | Callable[..., Any]) -> Path:
    """The file of a plug-in."""
    return Path(getattr(sys.modules.get(thing.__module__), "__file__", None) or "")
