"""A diagnosis for a reader and for a machine."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from tabulate import tabulate

from bench.results import ORDER, Card, Diagnosis, Finding

WIDTH = 110


def render(card: Card, path: Path) -> str:
    """Every check with its value, what is wrong in full sentences, and the verdict in the last line."""
    diagnosis = _of(card)
    rows = [(f.check, _number(f.value), _number(f.threshold), f.verdict) for f in diagnosis.findings]
    table = tabulate(rows, headers=("check", "value", "sound up to", "verdict"), tablefmt="simple", disable_numparse=True)
    low, high = card.interval
    title = f"{card.name} · {card.dataset} · {card.threat.norm} {card.threat.eps} · plan {card.plan.name}"
    number = f"robust accuracy {card.robust_accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) of {card.n} samples"
    checked = f"checked on {diagnosis.n} samples that the model has right"
    return "\n".join(
        [title, number, checked, "", table, "", *_reasons(diagnosis), f"card: {path}", f"verdict: {diagnosis.verdict}"]
    )


def to_json(card: Card, path: Path) -> str:
    """The same for a machine."""
    about = {"name": card.name, "dataset": card.dataset, "threat": card.threat.model_dump(), "plan": card.plan.name}
    number = {"robust_accuracy": card.robust_accuracy, "interval": card.interval, "card": str(path)}
    return json.dumps({**about, **number, **_of(card).model_dump(mode="json")}, indent=2)


def _of(card: Card) -> Diagnosis:
    if card.diagnosis is None:
        raise ValueError(f"the card of {card.name} holds no diagnosis")
    return card.diagnosis


def _reasons(diagnosis: Diagnosis) -> list[str]:
    """The worst first."""
    found = [finding for finding in diagnosis.findings if finding.verdict != "ok"]
    return [_sentence(finding) for finding in sorted(found, key=lambda finding: -ORDER.index(finding.verdict))]


def _sentence(finding: Finding) -> str:
    return textwrap.fill(f"{finding.verdict}: {finding.check}: {finding.told}", WIDTH, subsequent_indent="  ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
