"""Catastrophic overfitting as an event with a time: Kaplan-Meier curves, exact log-rank tests, and how many recover.

What overfitting.py has seen is recorded in docs/findings/collapse.json, from which this says the same without a training:

    python tests/studies/collapse.py
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finding import FOLDER, Finding, Table, published

from bench.pictures.figure import Axis, Chart, Curve, percent_axis
from bench.statistics import holm, kaplan_meier, log_rank

NAME = "collapse"
DRAWN = ("fgsm_at", "zerograd", "fast_at", "n_fgsm")
"""The curves of the figure; what else never collapses would lie upon that of n_fgsm."""


@dataclass(frozen=True)
class Cell:
    """The trainings of one cell, by what is known of each."""

    label: str
    epochs: int
    passes: int
    seeds: int
    collapsed: tuple[int, ...]
    """In which epoch, counted from 1, of those that did."""
    recovered: int
    """How many of these ended with PGD-10 accuracy above half of the best before."""

    def times(self) -> tuple[list[float], list[bool]]:
        """For each training the epoch until which it was seen, and whether it collapsed in it."""
        whole = self.seeds - len(self.collapsed)
        return [*map(float, self.collapsed), *[float(self.epochs)] * whole], [True] * len(self.collapsed) + [False] * whole


def cell(label: str, histories: Sequence[Sequence[dict[str, Any]]], fell: Sequence[int | None], passes: float) -> Cell:
    """From the histories of its trainings, and the place in each at which it collapsed."""
    recovered = sum(
        at is not None and history[-1]["pgd"] > max(entry["pgd"] for entry in history[:at]) / 2
        for at, history in zip(fell, histories, strict=True)
    )
    collapsed = tuple(at + 1 for at in fell if at is not None)
    return Cell(label, len(histories[0]), round(passes), len(histories), collapsed, recovered)


def finding(cells: Sequence[Cell], settings: dict[str, str]) -> Finding:
    """Each cell against plain FGSM training and against fast_at, of those with as many epochs; Holm over each column."""
    return Finding(NAME, settings, [_table(cells)], _figure(cells), {"cells": [asdict(one) for one in cells]})


def _table(cells: Sequence[Cell]) -> Table:
    columns = []
    for base in ("fgsm_at", "fast_at"):
        own = next(one for one in cells if one.label == base)
        others = [one for one in cells if one.epochs == own.epochs and one is not own]
        p = [log_rank(*own.times(), *one.times()) for one in others]
        told = {one.label: f"{a:.2g} ({b:.2g})" for one, a, b in zip(others, p, holm(p).tolist(), strict=True)}
        columns.append(told)
    rows = tuple(
        (
            one.label, f"{one.epochs}", f"{one.passes}", f"{len(one.collapsed)} of {one.seeds}",
            ", ".join(map(str, one.collapsed)) or "-", str(one.recovered) if one.collapsed else "-",
            *(told.get(one.label, "") for told in columns),
        )
        for one in cells
    )  # fmt: skip
    heads = ("cell", "epochs", "passes", "collapsed", "in epoch", "recovered", "against fgsm_at", "against fast_at")
    return Table(heads, rows)


def _figure(cells: Sequence[Cell]) -> Chart:
    known = {one.label: one for one in cells}
    last = float(max(known[label].epochs for label in DRAWN if label in known))
    curves = []
    for tone, label in enumerate(label for label in DRAWN if label in known):
        found = kaplan_meier(*known[label].times())
        points = [(0.0, 100.0), *((time, 100 * left) for time, left in zip(found.times, found.left, strict=True))]
        band = [(100.0, 100.0), *((100 * low, 100 * high) for low, high in zip(found.low, found.high, strict=True))]
        points, band = [*points, (last, points[-1][1])], [*band, band[-1]]
        curves.append(Curve(label, tuple(points), tone, tuple(band), dots=False, steps=True))
    epochs = Axis("epoch", 0.0, last, tuple((float(epoch), str(epoch)) for epoch in range(0, int(last) + 1, 2)))
    about = "The share of trainings that have not collapsed, over the epochs, by method: Kaplan-Meier, Greenwood's intervals."
    return Chart(about, epochs, percent_axis("trainings that have not collapsed, %"), tuple(curves))


def recorded(path: Path) -> tuple[list[Cell], dict[str, str]]:
    """The cells of a finding that was written, and its settings."""
    content = json.loads(path.read_text())
    return [Cell(**{**one, "collapsed": tuple(one["collapsed"])}) for one in content["numbers"]["cells"]], content["settings"]


def added(cells: Sequence[Cell], settings: dict[str, str], path: Path) -> list[Cell]:
    """What is recorded there with these settings, and these cells in their places or behind it."""
    known = {}
    if path.exists():
        before, under = recorded(path)
        known = {one.label: one for one in before if under == settings}
    return [*(known | {one.label: one for one in cells}).values()]


def main() -> None:
    """Say again what is recorded."""
    chosen = published(argparse.ArgumentParser(description=__doc__)).parse_args()
    finding(*recorded(FOLDER / f"{NAME}.json")).publish(chosen.write)


if __name__ == "__main__":
    main()
