"""Gauntlet: how robust is this classifier, really? A robustness benchmarking harness for PyTorch.

    from bench import evaluate
    card, path = evaluate("py:mine.py:net", dataset="cifar10", eps="8/255", plan_name="standard")

To measure
    evaluate            attack a model with a plan: its card, and where that is
    train               train a defense: its run folder
    run                 both, for one or several seeds
    transfer_matrix     which models fall to examples made on others
To judge
    verify_cards        rows against their files, their data and their models; no attack is run
    compare_rows        who wins, by how much, with what certainty
    check_regression    a gate for CI
    leaderboard         the rows below a folder as a pandas DataFrame
    read_card           a card.json as a Card
To extend
    bench.attack        all that an attack imports
    bench.defense       all that a defense imports
    load_plugin         register what a file of yours defines
    examine_plugin      does it keep what the harness relies on
Values
    Card, Plan, ThreatModel, Defense, Given (what verify_cards may be told)

`help(bench.evaluate)` has the arguments of one; `bench/` has a room for everything, and CONTRIBUTING.md their table. Names are
imported when they are first used, so that importing the package costs nothing.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from bench.compare import check_regression, compare_rows
    from bench.core import ThreatModel
    from bench.doctor import examine_plugin
    from bench.evaluation import evaluate, transfer_matrix
    from bench.plans import Plan
    from bench.plugins import Defense, load_plugin
    from bench.report import leaderboard
    from bench.results import Card, read_card
    from bench.runs import run, train
    from bench.verify import Given, verify_cards

_ROOMS = {
    "Card": "results", "Defense": "plugins", "Given": "verify", "Plan": "plans", "ThreatModel": "core",
    "check_regression": "compare", "compare_rows": "compare", "evaluate": "evaluation", "examine_plugin": "doctor",
    "leaderboard": "report", "load_plugin": "plugins", "read_card": "results", "run": "runs", "train": "runs",
    "transfer_matrix": "evaluation", "verify_cards": "verify",
}  # fmt: skip
__all__ = [
    "Card", "Defense", "Given", "Plan", "ThreatModel", "check_regression", "compare_rows", "evaluate", "examine_plugin",
    "leaderboard", "load_plugin", "read_card", "run", "train", "transfer_matrix", "verify_cards",
]  # fmt: skip

_FORMER = {
    "core": "device expectation hyperplane judge live=iterates losses rng surrogate targets threat views",
    "plugins": "registry schedules userfile",
    "proofs": "bounds intervals smoothed",
    "science": "ntk",
    "models": "batchnorm",
    "plans": "plan",
    "results": "archive card",
    "report": "tables",
    "runs": "jobs",
    "statistics": "stats=proportions",
    "training": "recipe step=network",
}
"""Modules that plug-ins and scripts of users imported from `bench` itself, by the room that has them now."""


class _Former(MetaPathFinder, Loader):
    """Lets files go on that were written against a module's former place, with a sentence that names the new one."""

    def __init__(self) -> None:
        names = ((name.partition("="), room) for room, listed in _FORMER.items() for name in listed.split())
        self.places = {f"bench.{old}": f"bench.{room}.{new or old}" for (old, _, new), room in names}

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        """The spec of a module that has moved."""
        del path, target
        return ModuleSpec(name, self) if name in self.places else None

    def exec_module(self, module: "ModuleType") -> None:
        """Hand on what stands in the new place."""
        import warnings

        from bench.errors import PluginWarning

        there = import_module(self.places[module.__name__])
        told = (
            f"{module.__name__} is now {there.__name__}; a plug-in imports all it needs from bench.defense or bench.attack, as "
            "in `from bench.defense import Defense, defense`"
        )
        warnings.warn(told, PluginWarning, stacklevel=2)
        module.__dict__.update({name: value for name, value in vars(there).items() if not name.startswith("__")})


sys.meta_path.append(_Former())

_CHECKOUT = Path(__file__).resolve().parents[1]
if (_CHECKOUT / "pyproject.toml").is_file() and not (_CHECKOUT / "bench" / "attacks").is_dir():
    __path__.append(str(_CHECKOUT))  # where attacks/ and defenses/ lie beside bench/, as they do in a clone


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"bench.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
