"""What is asked of a model, and how the asking is carried out: the two values that everything else is resolved from."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator
from torch import nn

from bench.core import Name, Norm, ThreatModel
from bench.data import hold as hold_data
from bench.errors import BadInput, UnknownName
from bench.executors import Executor, InProcess
from bench.models import hold as hold_model
from bench.plans import PLANS, Plan
from bench.plans import load as load_plan

DEFAULT_EPS = {"digits": "0.2", "mnist": "0.3", "cifar": "8/255", "structured": "0.03125"}
"""linf budgets for each family of data sets."""


class Request(BaseModel):
    """What somebody asks for, as a value that travels: checked where it is made, the same bytes everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BadInput(
                f"{where} = {shorten(repr(first['input']), 80)}: {first['msg'].removeprefix('Value error, ')}"
            ) from None

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The request from what people have at hand: live networks and data, numbers, paths."""
        return cls(**given)

    def to_json(self) -> str:
        """The request in canonical form; `model_validate_json` reads it back."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def key(self) -> str:
        """Eight hex digits that tell this request from any other."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]


def _reference(model: Any) -> Any:
    """A live network by the name that it is held under."""
    return hold_model(model) if isinstance(model, nn.Module) else str(model) if isinstance(model, Path) else model


def _source(dataset: Any) -> Any:
    """Tensors, a Dataset or a DataLoader by the name that they are held under."""
    if dataset is None or isinstance(dataset, str | Path):
        return dataset if dataset is None else str(dataset)
    return hold_data(dataset)


def _radius(eps: Any) -> Any:
    """However a radius is spelt, it is one value."""
    spelt = isinstance(eps, str | int | float | Fraction) and not isinstance(eps, bool)
    return ThreatModel.parse("l1", eps).eps_text if spelt else eps


def _plan(plan: Any) -> Any:
    return load_plan(plan) if isinstance(plan, str | Path) else plan


Reference = Annotated[str, BeforeValidator(_reference)]
Source = Annotated[str, BeforeValidator(_source)]
Radius = Annotated[str, BeforeValidator(_radius)]


class EvaluationRequest(Request):
    """A question about a model; equal requests are the same question, here or on another machine.

    What is left out is taken from the model's training, else from the data.
    """

    model: Reference
    """A run folder, `run:`, `ckpt:`, `py:` or `robustbench:`; in Python also an nn.Module."""
    dataset: Source | None = None
    norm: str | None = None
    eps: tuple[Radius, ...] = ()
    """Radii, each an exact fraction in input units; several are a sweep, and the row is that of the largest."""
    plan: Annotated[Plan, BeforeValidator(_plan)] = PLANS["fast"]
    n: int | None = None
    """Test samples, 1000 or all where there are fewer: the first of a named set, of other data as many of each class."""
    seed: int = 0
    eot: int | None = None
    """Answers of a randomised model that attacks see the mean of."""
    test_time: str = ""
    """A defense to add without training, such as "smoothing?sigma=0.25"."""
    name: Name | None = None
    """The row's label."""

    @field_validator("eps", mode="after")
    @classmethod
    def _in_order(cls, radii: tuple[str, ...]) -> tuple[str, ...]:
        balls = {ThreatModel.parse("l1", radius) for radius in radii}
        return tuple(ball.eps_text for ball in sorted(balls, key=lambda ball: ball.eps))

    @field_validator("seed", mode="after")
    @classmethod
    def _in_range(cls, seed: int) -> int:
        if not -(2**63) <= seed < 2**63:
            raise BadInput(f"seed {str(seed)[:20]}...: give one of 64 bits, such as 0")
        return seed

    @field_validator("eot", mode="after")
    @classmethod
    def _some(cls, eot: int | None) -> int | None:
        if eot is not None and eot < 1:
            raise BadInput(f"eot {eot}: an expectation needs at least one answer")
        return eot


@dataclass(frozen=True)
class Execution:
    """How work is carried out; nothing of it changes a result. As a context manager it ends its workers."""

    results: Path = Path("results")
    """Where files go that belong to no run folder."""
    device: str = "auto"
    batch_size: int | None = None
    """Images per batch of an attack."""
    quiet: bool = False
    fresh: bool = False
    """Attack anew where a card is there already, which is set aside."""
    executor: Executor = field(default_factory=InProcess)
    """Who attacks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()


def radii(eps: str | float | None, sweep: Sequence[str | float]) -> tuple[Any, ...]:
    """One radius or those of a sweep, as a request has them; none where the model's own training is to say."""
    if eps is not None and sweep:
        raise BadInput(f"both eps {eps} and a sweep over {', '.join(map(str, sweep))} are given; leave one out")
    return tuple(sweep) or (() if eps is None else (eps,))


def refuse_unknown(what: str, unknown: Mapping[str, object], function: Callable[..., object]) -> None:
    """UnknownName for the first keyword that a function of the Python API does not have."""
    for key in unknown:
        raise UnknownName(f"argument of {what}", key, [*inspect.signature(function).parameters][:-1])


def choose_threat(norm: str | None, eps: str | None, trained: dict[str, str], family: str) -> ThreatModel:
    """What the user said, else what the model was trained for, else the usual linf budget of the data."""
    norm = norm or trained.get("norm", "linf")
    if eps is None and trained.get("norm") == norm:
        eps = trained["eps"]
    if norm not in get_args(Norm):
        raise UnknownName("norm", norm, get_args(Norm))
    if eps is None and norm != "linf":
        raise BadInput(f"no default eps for {norm}; give one, such as --eps 0.5")
    return ThreatModel.parse(norm, eps or DEFAULT_EPS[family])
