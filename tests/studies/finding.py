"""What a finding leaves in docs/findings: the tables that its page shows, as canonical JSON, and the figure beside it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from study import told
from tabulate import tabulate

from bench.files import write_text
from bench.pictures import Figure
from bench.pictures.figure import Chart, Curve, rising_axis
from bench.pictures.paper import save
from bench.statistics import mean_interval

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "findings"


@dataclass(frozen=True)
class Table:
    """Rows of text below heads, as a page shows them."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return tabulate(self.rows, headers=self.headers, tablefmt="github", disable_numparse=True)


@dataclass(frozen=True)
class Finding:
    """Its name is that of its page; behind `settings` stands what decides the numbers."""

    name: str
    settings: Mapping[str, Any]
    tables: Sequence[Table]
    figure: Figure
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """The data behind the figure."""

    def publish(self, folder: Path) -> None:
        """Print the tables, and write NAME.json and NAME.svg."""
        for table in self.tables:
            told(table.rows, table.headers)
            print()  # noqa: T201
        content = {
            "finding": self.name, "settings": dict(self.settings), "numbers": rounded(dict(self.numbers)),
            "tables": [{"headers": table.headers, "rows": table.rows} for table in self.tables],
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{self.name}.json", json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
        save(self.figure, folder / f"{self.name}.svg", width=4.6)


def over_epochs(courses: Mapping[str, Sequence[Sequence[float]]], about: str, axis: str, first: int = 1) -> Chart:
    """Of each name the mean over seeds, a course each, with its interval; `first` is the epoch that courses begin with."""
    curves = []
    for name, seeds in courses.items():
        columns = list(zip(*seeds, strict=True))
        points = tuple((float(epoch), mean(column)) for epoch, column in enumerate(columns, first))
        band = tuple((max(low, 0.0), high) for low, high in map(mean_interval, columns))
        curves.append(Curve(name, points, len(curves), band))
    ends = [end for curve in curves for pair in curve.band for end in pair]
    epochs = rising_axis("epoch", [x for curve in curves for x, _ in curve.points])
    return Chart(f"{about}; means and intervals over seeds.", epochs, rising_axis(axis, ends), tuple(curves))


def read_tables(path: Path) -> list[Table]:
    """The tables of a finding's JSON."""
    content = json.loads(path.read_text())
    return [Table(tuple(table["headers"]), tuple(map(tuple, table["rows"]))) for table in content["tables"]]


def rounded(value: Any, digits: int = 7) -> Any:
    """Numbers with so many significant digits, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): rounded(part, digits) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if abs(value) < float("inf") else None
    return value


def published(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The option of every finding."""
    parser.add_argument("--write", type=Path, default=FOLDER, help="where its JSON and its figure go")
    return parser


def decided(chosen: argparse.Namespace) -> dict[str, str]:
    """Of the arguments those that decide the numbers."""
    aside = ("results", "device", "write", "only", "trainings")
    return {key: str(value) for key, value in sorted(vars(chosen).items()) if key not in aside and value not in (None, [])}
