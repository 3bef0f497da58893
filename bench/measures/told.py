"""A measurement as a terminal shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from bench.escape import line
from bench.results import Measurement

ROWS = 12
"""Of a curve that are shown; the file has them all."""


def render(found: Measurement, path: Path, told: str = "") -> str:
    """Values, curves in short, notes, and where the whole lies."""
    of = " · ".join(filter(None, [found.model, found.data, f"{found.norm} {found.eps or ''}".strip(), f"seed {found.seed}"]))
    parts = [f"{found.measure}: {found.about}\n{of}"]
    parts.append(tabulate([(name, number(value)) for name, value in found.values.items()], tablefmt="plain"))
    for name, curve in found.curves.items():
        rows = _thinned(list(zip(*curve.values(), strict=True)))
        shown = [[number(value) for value in row] for row in rows]
        parts.append(f"{name}\n{tabulate(shown, headers=list(curve), tablefmt='simple', disable_numparse=True)}")
    parts += [f"note: {note}" for note in found.notes]
    parts.append(f"{path}{f' ({told})' if told else ''}")
    return "\n\n".join("\n".join(map(line, part.split("\n"))) for part in parts)


def _thinned(rows: list[Sequence[float | None]]) -> list[Sequence[float | None]]:
    """So many rows at most, from the first to the last."""
    if len(rows) <= ROWS:
        return rows
    return [rows[round(index * (len(rows) - 1) / (ROWS - 1))] for index in range(ROWS)]


def number(value: float | None) -> str:
    """Four digits of it; a dash for what is not there."""
    return "-" if value is None else f"{value:.4g}"
