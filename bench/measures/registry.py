"""Measures by name, as attacks are: a function whose keyword parameters are its options."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from bench.errors import UnknownName
from bench.measures.probe import Probe
from bench.plugins import configure, parameters

Samples = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=4)], ...], Field(min_length=1, max_length=64)]
"""Radii as multiples of eps."""
Curve = Mapping[str, Tensor]
"""Columns of equal length, [n] each; the first is what the others are drawn over."""


@dataclass(frozen=True)
class Found:
    """What a measure came to."""

    values: Mapping[str, float]
    """A number each; NaN for what is not there."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    """What is too much for a table, such as kernels."""
    notes: tuple[str, ...] = ()
    """What has to be known to read it, a sentence each."""


@dataclass(frozen=True)
class Measure:
    """A registered measure."""

    name: str
    run: Callable[..., Found]
    kind: str = "measure"
    """What it is called where an option is wrong."""

    @property
    def about(self) -> str:
        """One line of what it is."""
        return (inspect.getdoc(self.run) or "").split("\n")[0]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Its options and their defaults; `n`, which every measure of a network has, is how many samples it takes."""
        return parameters(self.run)

    def configure(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options of a run, each given value checked against its annotation."""
        return configure(f"{self.kind} {self.name!r}", self.run, given, "option")


_measures: dict[str, Measure] = {}
Run = Callable[..., Found]


def measure(name: str) -> Callable[[Run], Run]:
    """Register a function `(probe: Probe, *, options) -> Found`."""

    def register(run: Run) -> Run:
        _measures[name] = Measure(name, run)
        return run

    return register


def get_measure(name: str) -> Measure:
    """The measure of this name."""
    _load()
    if name not in _measures:
        raise UnknownName("measure", name, _measures)
    return _measures[name]


def measure_names() -> list[str]:
    """The names of all measures."""
    _load()
    return sorted(_measures)


@cache
def _load() -> None:
    package = importlib.import_module("bench.measures.each")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


__all__ = ["Curve", "Found", "Measure", "Positive", "Probe", "Samples", "Share", "Shares", "Whole", "get_measure", "measure"]
