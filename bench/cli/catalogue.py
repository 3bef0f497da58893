"""What `gauntlet list` shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from textwrap import fill

from tabulate import tabulate

from bench import data, plans
from bench.cli import details
from bench.errors import UnknownName
from bench.measures import get_measure, measure_names
from bench.models import architectures
from bench.plugins import Defense, registry


def _table(rows: Sequence[tuple[object, ...]], *headers: str) -> str:
    return str(tabulate(rows, headers=headers, tablefmt="simple"))


def _defenses() -> str:
    known = [registry.get_defense(name) for name in registry.defense_names()]
    rows = [(cls.name, cls.paper, cls.passes, _first_line(cls)) for cls in known]
    fields = [(cls.name, fill(details.in_short(cls.name) or "none", 100)) for cls in known]
    return (
        f"{_table(rows, 'defense', 'paper', 'passes per step', 'what it is')}\n\n"
        f"{_table(fields, 'defense', 'hyper-parameters and their defaults')}\n\n"
        "`gauntlet list NAME` says what each of them means, with the options of its training and their defaults."
    )


def _broken() -> str:
    known = [registry.get_defense(name) for name in registry.broken_names()]
    return _table([(cls.name, cls.paper, _first_line(cls)) for cls in known], "broken on purpose", "after", "what it is")


def _first_line(cls: type[Defense]) -> str:
    return (inspect.getdoc(cls) or "").split("\n")[0]


def _attacks() -> str:
    known = [registry.get_attack(name) for name in registry.attack_names()]
    rows = [(a.name, a.access, ", ".join(sorted(a.norms)), a.about) for a in known]
    others = " and ".join(f"{package}:NAME" for package in sorted(registry.LIBRARIES, reverse=True))
    return f"{_table(rows, 'attack', 'access', 'norms', 'what it is')}\n\nAlso {others}, for the attacks of these packages."


def _models() -> str:
    rows = [(name, architectures.describe(name)) for name in architectures.names()]
    return _table(rows, "model", "what it is")


def _datasets() -> str:
    rows = [
        (name, data.CLASSES[name], "embedded" if name in ("digits", "structured") else "GAUNTLET_DATA or download")
        for name in data.names()
    ]
    return _table(rows, "dataset", "classes", "comes from")


def _plans() -> str:
    rows = [(known.name, known.about) for known in plans.PLANS.values()]
    return _table(rows, "plan", "what it is")


def _measures() -> str:
    known = [get_measure(name) for name in measure_names()]
    rows = [(found.name, fill(found.about, 90)) for found in known]
    options = [
        (found.name, fill(", ".join(f"{key}={value}" for key, value in found.parameters.items()), 90)) for found in known
    ]
    return f"{_table(rows, 'measure', 'what it is')}\n\n{_table(options, 'measure', 'options and their defaults')}"


_TABLES: dict[str, Callable[[], str]] = {
    "defenses": _defenses, "attacks": _attacks, "models": _models, "datasets": _datasets, "plans": _plans,
    "measures": _measures,
}  # fmt: skip


def catalogue(what: str) -> str:
    """The table of one kind of thing, or all of them ("broken" is shown alone); or what there is to say of one by its name.

    Of a model, a data set or a plan that is the table it stands in.
    """
    if what == "all":
        return "\n\n".join(table() for table in _TABLES.values())
    tables = {**_TABLES, "broken": _broken}
    if what in tables:
        return tables[what]()
    defenses, attacks = [*registry.defense_names(), *registry.broken_names()], registry.attack_names()
    if what.partition(":")[0] in registry.LIBRARIES:
        return details.of_attack(what)
    if what not in defenses + attacks:
        others = {
            "models": architectures.names(),
            "datasets": data.names(),
            "plans": [*plans.PLANS],
            "measures": measure_names(),
        }
        if kind := next((kind for kind, names in others.items() if what in names), None):
            return tables[kind]()
        known = [*tables, "all", *defenses, *attacks, *(name for names in others.values() for name in names)]
        raise UnknownName("kind or name", what, list(dict.fromkeys(known)))
    # Where a defense and an attack have one name, both are meant.
    told = [tell(what) for known, tell in ((defenses, details.of_defense), (attacks, details.of_attack)) if what in known]
    return "\n\n".join(told)
