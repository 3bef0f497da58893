"""Where a row lies below the folder of results: DATASET/THREAT/."""

from __future__ import annotations

from pathlib import Path

from bench.core.threat import ThreatModel


def section(results: Path, dataset: str, threat: ThreatModel) -> Path:
    """The folder of everything measured on a data set under a threat model: "mnist/linf-0.3"."""
    return results / Path(dataset).stem / folder_name(threat)


def folder_name(threat: ThreatModel) -> str:
    """A threat model as a folder's name: "linf-8_255"."""
    return f"{threat.norm}-{threat.eps_text.replace('/', '_')}"
