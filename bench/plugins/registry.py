"""Attacks and defenses by name: the decorators that register them and the only code that loads them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as validated

from bench.errors import BadInput, PluginWarning, UnknownName
from bench.plugins import keywords
from bench.plugins.contract import Defense
from bench.plugins.declared import BROKEN, Access, Kind, check_attack, check_defense, code_of, is_ours
from bench.plugins.userfile import import_file, told

LIBRARIES = ("foolbox", "torchattacks")
"""Packages whose attacks are named `package:Name`; each has an adapter in bench.compat, imported when it is asked for."""
YOURS = "yours with --plugin FILE"
DefenseClass = TypeVar("DefenseClass", bound=type[Defense])
AttackFunction = TypeVar("AttackFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Attack:
    """A registered attack: its function and what it asks of the harness."""

    name: str
    run: Callable[..., Any]
    access: Access
    norms: frozenset[str]
    seeded: bool
    """Whether another restart is another run."""
    whole: bool
    """Whether it wants all its samples in one call; else the harness batches."""

    @property
    def about(self) -> str:
        """One line of what it is."""
        return (inspect.getdoc(self.run) or "").split("\n")[0]

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """Its keyword parameters and their defaults."""
        return keywords.parameters(self.run)

    @cached_property
    def hints(self) -> Mapping[str, Any]:
        """Their annotations."""
        return keywords.hints(self.run)

    def configure(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The full parameters of a run, each given value checked against its annotation."""
        return keywords.configure(f"attack {self.name!r}", self.run, given)


_attacks: dict[str, Attack] = {}
_defenses: dict[str, type[Defense]] = {}
_owners: dict[tuple[str, str], tuple[str, str]] = {}
"""Of a kind and a name: where the owner comes from, and what it is called there."""
_codes: dict[tuple[str, str], str] = {}
"""Of a kind and a name: a digest of the code, as it was when it was registered."""
_loaded: dict[Path, None] = {}
"""Files that `load_plugin` ran."""
_shipped: dict[str, str] = {}
"""Top-level modules that entry points named, and their distributions."""


def attack(
    name: str, *, access: Access, norms: Collection[str], seeded: bool = True, whole: bool = False
) -> Callable[[AttackFunction], AttackFunction]:
    """Register a function `(view, x, y, threat, rng, *, parameters) -> z` as an attack."""

    def register(run: AttackFunction) -> AttackFunction:
        made = Attack(name, run, access, frozenset(norms), seeded, whole)
        check_attack(name, access, norms, made.parameters)
        _claim("attack", name, run)
        _attacks[name] = made
        return run

    return register


@dataclass_transform(frozen_default=True)
def defense(name: str) -> Callable[[DefenseClass], DefenseClass]:
    """Register a subclass of Defense as a frozen dataclass whose fields are its validated hyper-parameters."""
    if isinstance(name, type):
        raise BadInput(f'defense {name.__name__}: @defense needs a name; write @defense("my_defense")')

    def register(cls: DefenseClass) -> DefenseClass:
        check_defense(name, cls)
        made: Any = validated(frozen=True, config=ConfigDict(extra="forbid"))(cls)
        made.__setattr__ = _refuse
        _claim("defense", name, made)
        made.name = name
        _defenses[name] = made
        return made  # type: ignore[no-any-return]

    return register


def _refuse(self: Defense, key: str, value: object) -> None:
    """What a frozen dataclass raises, in our words: its settings are its identity."""
    del value
    raise BadInput(
        f"defense {self.name!r} sets self.{key}, and a defense is frozen, its fields are its settings: keep a tensor for "
        f"the next batch with ctx.remember({key!r}, tensor), read it as ctx.memory[{key!r}], and work the rest out in loss"
    )


def get_attack(name: str) -> Attack:
    """The attack of this name; `package:Name` is one of another library."""
    package, colon, inside = name.partition(":")
    if colon and package in LIBRARIES:
        adapted: Attack = importlib.import_module(f"bench.compat.{package}").adapt(inside)
        return adapted
    _load("attacks")
    if name not in _attacks:
        raise UnknownName("attack", name, [*_attacks, *(f"{package}:Name" for package in LIBRARIES), YOURS])
    return _attacks[name]


def get_defense(name: str) -> type[Defense]:
    """The defense of this name."""
    _load("defenses")
    if name.startswith(BROKEN) and name not in _defenses:
        _load("defenses.broken")
    if name not in _defenses:
        raise UnknownName("defense", name, [*_defenses, YOURS])
    return _defenses[name]


def attack_names() -> list[str]:
    """The names of all attacks."""
    _load("attacks")
    return sorted(_attacks)


def defense_names() -> list[str]:
    """The names of all defenses that are meant to hold."""
    _load("defenses")
    return sorted(name for name in _defenses if not name.startswith(BROKEN))


def broken_names() -> list[str]:
    """The names of the defenses that look robust and are not, which the diagnosis is tried on."""
    _load("defenses")
    _load("defenses.broken")
    return sorted(name for name in _defenses if name.startswith(BROKEN))


def owner(kind: Kind, name: str) -> str:
    """Where what has this name comes from: a module of ours, a file, a distribution or, for `package:Name`, the package."""
    return _owners[kind, name][0] if (kind, name) in _owners else name.partition(":")[0]


def code(kind: Kind, name: str) -> str:
    """A digest of the code that was registered under a name; empty for ours, and for a library's."""
    return _codes.get((kind, name), "")


def make_defense(name: str, settings: Mapping[str, Any]) -> Defense:
    """A defense with these hyper-parameters; the rest keep their defaults."""
    cls = get_defense(name)
    keywords.check_numbers(f"defense {name!r}", settings)
    try:
        made = cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInput(f"defense {name!r}: {key} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None
    keywords.check_numbers(f"defense {name!r}", {key: getattr(made, key) for key in settings})
    return made


def load_plugin(path: str | Path) -> None:
    """Run a user's file, which registers what it defines."""
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"no plug-in file at {file}")
    # Ours and what is installed first, so that a collision of names is blamed on the newcomer.
    for collection in ("attacks", "defenses"):
        _load(collection)
    import_file(file, stay=True)
    _loaded[file.resolve()] = None


def loaded_plugins() -> tuple[Path, ...]:
    """The files of users that were loaded, in order."""
    return tuple(_loaded)


@cache
def _load(collection: Literal["attacks", "defenses", "defenses.broken"]) -> None:
    try:
        package = importlib.import_module(f"bench.{collection}")
    except ModuleNotFoundError:
        where = Path(__file__).parents[1]
        raise BadInput(f"bench is imported from the source folder {where}, not installed: run `pip install .` first") from None
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in sorted(entry_points(group=f"gauntlet.{collection}"), key=str):
        _enter(entry)


def _enter(entry: EntryPoint) -> None:
    """Import what another distribution ships; where that fails, say so and go on without it."""
    name = f"distribution {entry.dist.name} {entry.dist.version}" if entry.dist else "a distribution without a name"
    _shipped.setdefault(entry.module.partition(".")[0], name)
    try:
        entry.load()
    except (Exception, SystemExit) as error:
        reason = f"{told(error)}; repair or uninstall it"
        warnings.warn(
            f"{name} is left out: its entry point {entry.name!r} ({entry.value}): {reason}", PluginWarning, stacklevel=2
        )


def _claim(kind: str, name: str, new: Any) -> None:
    mine = (_origin(new.__module__), new.__qualname__)
    # The same thing may come again: a cell that is run twice, a module that is reloaded.
    theirs = _owners.setdefault((kind, name), mine)
    if theirs != mine:
        raise BadInput(
            f"two {kind}s are called {name!r}: {theirs[0]} owns the name (for {theirs[1]}), "
            f"{mine[0]} wants it too (for {mine[1]}); rename the latter in its @{kind}(...)"
        )
    _codes[kind, name] = code_of(new)


def _origin(module: str) -> str:
    """Where a module comes from, as a user knows it."""
    root = module.partition(".")[0]
    if is_ours(module):
        return module
    if root in _shipped:
        return f"{_shipped[root]} ({module})"
    return str(getattr(sys.modules.get(module), "__file__", None) or module)
