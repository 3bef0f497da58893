"""Where a row lies below the folder of results: DATASET/THREAT/; what lies beside it."""

from __future__ import annotations

from pathlib import Path

from bench.core.threat import ThreatModel
from bench.results.card import Card

ADDED = "added-"
"""How the names of files begin that hold examples handed in later."""
MEASURES = "measures"
"""The folder beside the evaluations of a model with what `gauntlet measure` wrote of it."""
WATCHED = "watch"
"""The folder of a run with what was looked at while it was trained."""


def section(results: Path, dataset: str, threat: ThreatModel) -> Path:
    """The folder of everything measured on a data set under a threat model: "mnist/linf-0.3"."""
    return results / Path(dataset).stem / folder_name(threat)


def folder_name(threat: ThreatModel) -> str:
    """A threat model as a folder's name: "linf-8_255"."""
    return f"{threat.norm}-{threat.eps_text.replace('/', '_')}"


def unlisted(card: Card | None, folder: Path) -> list[str]:
    """Files of examples handed in later that lie beside a card which does not list them, in order."""
    known = {addition.archive.file for addition in card.additions} if card else set()
    return sorted(path.name for path in folder.glob(f"{ADDED}*") if path.name not in known)
