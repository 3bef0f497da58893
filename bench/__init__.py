"""Gauntlet: how robust is this classifier, really? A robustness benchmarking harness for PyTorch.

    from bench import evaluate
    card, path = evaluate("py:mine.py:net", dataset="cifar10", eps="8/255", plan_name="standard")

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Card": "results.card",
    "Defense": "plugins.contract",
    "Plan": "plans.plan",
    "ThreatModel": "core.threat",
    "evaluate": "evaluation.evaluation",
    "leaderboard": "leaderboard.tables",
    "run": "runs.jobs",
    "train": "runs.jobs",
    "transfer_matrix": "evaluation.transfer",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"bench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
