"""Attacks and defenses by name: the decorators that register them and the only code that loads them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from bench.defense import Defense
from bench.errors import BadInput, UnknownName
from bench.userfile import import_file

Access = Literal["decision", "score", "gradient", "module"]
LIBRARIES = ("foolbox", "torchattacks")
"""Packages whose attacks are named `package:Name`; each has an adapter in bench.compat, imported when it is asked for."""
DefenseClass = TypeVar("DefenseClass", bound=type[Defense])
AttackFunction = TypeVar("AttackFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Attack:
    """A registered attack: its function and what it asks of the harness."""

    name: str
    run: Callable[..., Any]
    access: Access
    norms: frozenset[str]
    whole: bool
    """Whether it wants all its samples in one call; else the harness batches."""

    @property
    def about(self) -> str:
        """One line of what it is."""
        return (inspect.getdoc(self.run) or "").split("\n")[0]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Its keyword parameters and their defaults."""
        signature = inspect.signature(self.run)
        return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

    def configure(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The full parameters of a run, each given value checked against its annotation."""
        for key in given:
            if key not in self.parameters:
                raise UnknownName(f"parameter of attack {self.name!r}", key, self.parameters)
        hints = inspect.get_annotations(self.run, eval_str=True)
        chosen = {**self.parameters, **given}
        return {key: _checked(f"attack {self.name!r}: {key}", hints[key], value) for key, value in chosen.items()}


_attacks: dict[str, Attack] = {}
_defenses: dict[str, type[Defense]] = {}


def attack(
    name: str, *, access: Access, norms: Collection[str], whole: bool = False
) -> Callable[[AttackFunction], AttackFunction]:
    """Register a function `(view, x, y, threat, rng, *, parameters) -> z` as an attack."""

    def register(run: AttackFunction) -> AttackFunction:
        _claim("attack", _attacks, name, run, lambda known: known.run)
        _attacks[name] = Attack(name, run, access, frozenset(norms), whole)
        return run

    return register


@dataclass_transform(frozen_default=True)
def defense(name: str) -> Callable[[DefenseClass], DefenseClass]:
    """Register a subclass of Defense as a frozen dataclass whose fields are its validated hyper-parameters."""

    def register(cls: DefenseClass) -> DefenseClass:
        made: Any = validated(frozen=True, config=ConfigDict(extra="forbid"))(cls)
        _claim("defense", _defenses, name, made, lambda known: known)
        made.name = name
        _defenses[name] = made
        return made  # type: ignore[no-any-return]

    return register


def get_attack(name: str) -> Attack:
    """The attack of this name; `package:Name` is one of another library."""
    package, colon, inside = name.partition(":")
    if colon and package in LIBRARIES:
        adapted: Attack = importlib.import_module(f"bench.compat.{package}").adapt(inside)
        return adapted
    _load("attacks")
    if name not in _attacks:
        raise UnknownName("attack", name, [*_attacks, *(f"{package}:Name" for package in LIBRARIES)])
    return _attacks[name]


def get_defense(name: str) -> type[Defense]:
    """The defense of this name."""
    _load("defenses")
    if name not in _defenses:
        raise UnknownName("defense", name, _defenses)
    return _defenses[name]


def attack_names() -> list[str]:
    """The names of all attacks."""
    _load("attacks")
    return sorted(_attacks)


def defense_names() -> list[str]:
    """The names of all defenses."""
    _load("defenses")
    return sorted(_defenses)


def make_defense(name: str, settings: Mapping[str, Any]) -> Defense:
    """A defense with these hyper-parameters; the rest keep their defaults."""
    cls = get_defense(name)
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInput(f"defense {name!r}: {key} = {first['input']!r}: {first['msg']}") from None


def load_plugin(path: str | Path) -> None:
    """Run a user's file, which registers what it defines."""
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"no plug-in file at {file}")
    # Ours first, so that a collision of names is blamed on the newcomer.
    for collection in ("attacks", "defenses"):
        _load(collection)
    import_file(file)


@cache
def _load(collection: Literal["attacks", "defenses"]) -> None:
    try:
        package = importlib.import_module(f"bench.{collection}")
    except ModuleNotFoundError:
        where = Path(__file__).parent
        raise BadInput(f"bench is imported from the source folder {where}, not installed: run `pip install .` first") from None
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=f"gauntlet.{collection}"):
        entry.load()


def _claim(kind: str, known: Mapping[str, Any], name: str, new: Any, owner: Callable[[Any], Any]) -> None:
    if name in known and (taken := owner(known[name])).__module__ != new.__module__:
        raise BadInput(f"two {kind}s are called {name!r}: {taken.__module__} owns the name, {new.__module__} wants it too")


def _checked(what: str, hint: Any, value: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise BadInput(f"{what} = {value!r}: {error.errors()[0]['msg']}") from None
