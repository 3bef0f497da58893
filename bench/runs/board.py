"""The file of a leaderboard as a value: what is trained, what is attacked, and what others have published beside it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.core import Label, Name, ThreatModel
from bench.errors import GauntletError
from bench.files import read_toml, refusal
from bench.plans import load as load_plan

MOST = 10_000
"""Points of a grid, and trainings of a board."""


def _several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _seeds(given: Any) -> Any:
    """How many, or which."""
    if isinstance(given, bool):
        raise ValueError("give a number of seeds, or a list of them")
    if isinstance(given, int):
        if not 1 <= given <= MOST:
            raise ValueError(f"{given} seeds; give 1 to {MOST}, or a list of them")
        return tuple(range(given))
    return given


def _points(given: Any) -> Any:
    if not isinstance(given, list | tuple):
        raise ValueError(f"{given!r}: give a list, as in [{given!r}], or write it into settings")
    return given


def _apart(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len({*seeds}) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise ValueError(f"{[*seeds]}: give one or more seeds, each once, from 0 on")
    return seeds


def _ball(text: str) -> str:
    norm, _, eps = text.partition(" ")
    if not eps:
        raise ValueError(f"{text!r}: write the norm and the radius in input units, as in 'linf 8/255'")
    return str(_told(lambda: ThreatModel.parse(norm, eps)))


def _plan(text: str) -> str:
    _told(lambda: load_plan(text))
    return text


def _told(checked: Any) -> Any:
    """The same, with a refusal that the place in the file is added to."""
    try:
        return checked()
    except GauntletError as error:
        raise ValueError(str(error)) from None


def _listed(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("an empty list; give one or more, or leave it out")
    return tuple(dict.fromkeys(values))


Many = Annotated[int, Field(ge=1, le=10**9)]
Threats = Annotated[tuple[Annotated[str, AfterValidator(_ball)], ...], BeforeValidator(_several), AfterValidator(_listed)]
Plans = Annotated[tuple[Annotated[str, AfterValidator(_plan)], ...], BeforeValidator(_several), AfterValidator(_listed)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_seeds), AfterValidator(_apart)]
Value = str | bool | int | float | list[Any]
Percent = Annotated[float, Field(ge=0, le=100)]


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(Table):
    """An evaluation; what is left out is taken from the row, and then from the board."""

    plan: Plans | None = None
    """Built-in plans or .toml files, one or a list."""
    n: Many | None = None
    """Test samples."""
    seeds: Seeds | None = None
    """Of the training: how many from 0 on, or a list of them."""
    diagnose: bool | None = None
    """Whether to say if the number can be trusted, where the plan does not ask for it anyway."""


class Published(Table):
    """What others say of a row; it stands beside ours and has no rank."""

    source: Label
    """Where it can be read."""
    threat: Annotated[str, AfterValidator(_ball)] | None = None
    """The ball that it is of, where a row has several."""
    robust: Percent | None = None
    clean: Percent | None = None
    attack: Label | None = None
    """What it was measured with."""
    n: Many | None = None
    note: Label | None = None
    """In what it differs from the row: another size, other data."""


class Measured(NamedTuple):
    """One evaluation of a row, everything about it said."""

    plan: str
    n: int | None
    seeds: tuple[int, ...]
    diagnose: bool


class Subject(Measure):
    """What rows have in common, whoever trains them."""

    name: Name | None = None
    """The row's label."""
    threat: Threats | None = None
    test_time: str = ""
    """A defense to add without training, such as "smoothing?sigma=0.25"."""
    eot: Annotated[int, Field(ge=1)] | None = None
    also: tuple[Measure, ...] = ()
    """Further evaluations, such as of a second plan."""
    published: tuple[Published, ...] = ()


class Row(Subject):
    """A defense that is trained here."""

    defense: str
    model: str | None = None
    """Architecture."""
    settings: Mapping[str, Value] = {}
    """Hyper-parameters of the defense or of its training."""
    grid: Mapping[str, Annotated[tuple[Value, ...], BeforeValidator(_points)]] = {}
    """Several values of settings: a row for each combination."""

    @model_validator(mode="after")
    def _sound(self) -> Row:
        if both := {*self.grid} & {*self.settings}:
            raise ValueError(f"{min(both)!r} stands in settings and in grid; leave it out of one")
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ValueError(f"the grid of {empty[0]!r} has no values")
        if (points := math.prod(map(len, self.grid.values()))) > MOST:
            raise ValueError(f"its grid has {points} points; give at most {MOST}")
        return self

    def points(self) -> Iterator[dict[str, Value]]:
        """Every combination of the grid, in order; a single empty one without a grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


class External(Subject):
    """A network that others have trained."""

    reference: str
    """ckpt:, py: or robustbench:, as `gauntlet evaluate` takes it."""


class Board(Measure):
    """A leaderboard; equal boards are the same leaderboard, however they are written."""

    title: Label
    about: str = ""
    """What a reader should know, such as what was left out and why."""
    dataset: str
    threat: Threats
    plan: Plans
    seeds: Seeds = (0,)
    diagnose: bool = False
    model: str | None = None
    settings: Mapping[str, Value] = {}
    """Of every training, unless a row says otherwise."""
    also: tuple[Measure, ...] = ()
    """Further evaluations of every row that has no plan of its own."""
    rows: tuple[Row, ...] = ()
    external: tuple[External, ...] = ()
    broken: tuple[Row, ...] = ()
    """Defenses that are broken on purpose; they stand in a section of their own."""

    @model_validator(mode="after")
    def _published(self) -> Board:
        every: tuple[Row | External, ...] = (*self.rows, *self.external, *self.broken)
        for row, said in ((one, said) for one in every for said in one.published):
            balls, called = row.threat or self.threat, row.defense if isinstance(row, Row) else row.reference
            if said.threat is None and len(balls) > 1:
                raise ValueError(f"{called} has {len(balls)} threats and a published figure; say of which, by its threat")
            if said.threat not in (None, *balls):
                raise ValueError(f"{called}: a published figure is of {said.threat}, which is none of its threats")
        return self

    @model_validator(mode="after")
    def _some(self) -> Board:
        if not (self.rows or self.external or self.broken):
            raise ValueError("there are no rows; write [[rows]] with a defense, or [[external]] with a reference")
        if (size := sum(map(self._size, (*self.rows, *self.broken)))) > MOST:
            raise ValueError(f"its grids, threats and seeds make {size} trainings; give at most {MOST}")
        return self

    def _size(self, row: Row) -> int:
        """Trainings of a row."""
        seeds = {seed for measure in self.measures(row) for seed in measure.seeds}
        return math.prod(map(len, row.grid.values())) * len(row.threat or self.threat) * len(seeds)

    def measures(self, row: Subject) -> list[Measured]:
        """What is evaluated of a row, each once, in order; one with a plan of its own has none of the board's further ones."""
        found = []
        for extra in (None, *(self.also if row.plan is None else ()), *row.also):
            levels: list[Measure] = [*([extra] if extra else []), row, self]
            plan, n, seeds, diagnose = (_first(levels, key) for key in ("plan", "n", "seeds", "diagnose"))
            found += [Measured(name, n, seeds, diagnose) for name in plan]
        return list(dict.fromkeys(found))

    def show(self) -> str:
        """The board as the TOML file that `read_board` reads back, in one form however it was written."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return tomli_w.dumps(content)


def _first(levels: Sequence[Measure], key: str) -> Any:
    """What the innermost level says that says anything."""
    return next((value for level in levels if (value := getattr(level, key)) is not None), None)


def settings_text(values: Mapping[str, Value]) -> str:
    """Settings as `--set` has them, for a label."""
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())


def read_board(path: Path) -> Board:
    """The board of a file; a GauntletError names the file, the row, the key and the remedy."""
    content = read_toml(path, "board", "`gauntlet new board NAME` writes one to begin with")
    try:
        return Board.model_validate(content)
    except ValidationError as error:
        raise refusal(error, f"board {path}", _table, lambda where: _place(content, where)) from None


_TABLES: Mapping[str, type[BaseModel]] = {
    "rows": Row, "broken": Row, "external": External, "also": Measure, "published": Published,
}  # fmt: skip


def _table(where: list[str]) -> type[BaseModel]:
    """What kind of table a place is in."""
    return next((_TABLES[part] for part in reversed(where) if part in _TABLES), Board)


def _place(content: Mapping[str, Any], where: Sequence[str | int]) -> str:
    """A place in words: "rows 3 (fast_at), seeds"."""
    parts: list[str] = []
    inside: Any = content
    for step in where:
        try:
            inside = inside[step]
        except (LookupError, TypeError):  # what is missing, or the place within a value
            inside = None
        if not isinstance(step, int):
            parts.append(step)
        elif isinstance(inside, dict):
            called = next((str(inside[key]) for key in ("name", "defense", "reference") if key in inside), "")
            parts[-1:] = [f"{parts[-1]} {step + 1}" + (f" ({called})" if called else "")]
    return ", ".join(parts)
