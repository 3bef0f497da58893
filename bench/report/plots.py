"""Pictures of rows by name, as `gauntlet plot` draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import BadInput, UnknownName
from bench.measures import read_measured_arrays, read_measurement
from bench.pictures import TONES, Figure
from bench.report import figures
from bench.report.entries import read_entries
from bench.report.measured import views
from bench.report.sections import Part, Row, leaderboard_of
from bench.results import find_cards

_OF_PART: dict[str, Callable[[Part], Figure | None]] = {"tradeoff": figures.tradeoff, "cost": figures.cost}
_OF_ROWS: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
    "rounds": lambda rows: figures.rounds([(row, row.entry.falls) for row in rows]),
    "restarts": figures.restarts, "steps": figures.steps, "eps": figures.eps, "training": figures.training,
}  # fmt: skip
_OF_ROW: dict[str, Callable[[Row], Figure | None]] = {
    "waterfall": lambda row: figures.waterfall(row, row.entry.falls),
    "classes": lambda row: _falling(row, figures.classes),
    "overlap": lambda row: _falling(row, figures.overlap),
    "loss": figures.loss,
}
MEASURE = "measure"
KINDS = (*_OF_PART, *_OF_ROWS, *_OF_ROW, MEASURE)
_ABOUT = {
    "tradeoff": "a data set, threat model and plan",
    "cost": "the cost of at least two trainings",
    "rounds": "a portfolio and its records",
    "restarts": "an attack with restarts",
    "steps": "an attack with a grid",
    "eps": "a sweep over eps, a certificate or distances",
    "training": "a training's history of two epochs",
    "loss": "a training's history of two epochs",
    "classes": "records of 2 to 40 classes",
    "overlap": "two attacks on all samples, or a pilot",
    "waterfall": "a row",
}


def plot(kind: str, places: Sequence[str]) -> Figure:
    """The picture of this kind of the rows that these cards, folders and patterns name; BadInput where there is none."""
    if kind not in KINDS:
        raise UnknownName("picture", kind, KINDS)
    if kind == MEASURE:
        return _measured(places)
    cards = list(dict.fromkeys(path for place in places for path in find_cards(place)))
    entries, refused = read_entries(cards, falls=True)
    if not entries:
        raise BadInput(f"no row can be read there: {refused[0]}")
    parts = [part for section in leaderboard_of(entries, Path()).sections for part in section.parts]
    rows = [row for part in parts for row in part.rows]
    figure = _drawn(kind, parts, rows)
    if figure is None:
        raise BadInput(f"{kind} needs {_ABOUT[kind]}, and the {len(rows)} rows given have none")
    return figure


def _drawn(kind: str, parts: Sequence[Part], rows: Sequence[Row]) -> Figure | None:
    if kind in _OF_PART:
        if len(parts) > 1:
            told = "; ".join(dict.fromkeys(part.plan for part in parts))
            raise BadInput(
                f"the rows are of {len(parts)} sections, whose numbers do not compare ({told}); name rows of one, such as "
                '"[!b]*/fast-*" for all but those that are broken on purpose'
            )
        return _OF_PART[kind](parts[0])
    if kind in _OF_ROWS:
        if len(rows) > TONES:
            raise BadInput(f"{len(rows)} curves cannot be told apart; name at most {TONES} rows")
        return _OF_ROWS[kind](rows)
    if len(rows) > 1:
        raise BadInput(f"{kind} is a picture of one row, and {len(rows)} are named")
    return _OF_ROW[kind](rows[0])


def _measured(places: Sequence[str]) -> Figure:
    """A picture of a file of `gauntlet measure`: its first, or that whose title holds the word after a colon."""
    if len(places) > 1:
        raise BadInput(f"{MEASURE} is a picture of one file, and {len(places)} are named")
    file, _, word = (places[0], "", "") if Path(places[0]).is_file() else places[0].rpartition(":")
    path = Path(file or places[0])
    found = read_measurement(path)
    shown = views(found, read_measured_arrays(path, found))
    fitting = [view.figure for view in shown if word.lower() in view.title.lower()]
    if not fitting:
        told = ", ".join(view.title for view in shown) or "none"
        raise BadInput(f"{path} has no picture that is called {word!r}; it has: {told}")
    return fitting[0]


def _falling(row: Row, picture: Callable[..., Figure | None]) -> Figure | None:
    return picture(row.entry.falls) if row.entry.falls else None
