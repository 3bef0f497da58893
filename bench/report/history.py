"""What a training said of itself, epoch by epoch, from the record beside its weights; the record may be a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bench.errors import BadInput, GauntletError
from bench.files import read_json, regular
from bench.plugins import budget_factor, learning_rate

BYTES = 2**24
EPOCHS = 10_000
CURVES = ("clean", "fgsm", "pgd", "loss")


class History(NamedTuple):
    """A training over its epochs, which are numbered from 1."""

    epochs: int
    curves: dict[str, tuple[float, ...]]
    """clean, fgsm and pgd as shares of the validation images; loss."""
    seconds: float
    rate: tuple[float, ...] = ()
    """The learning rate in the middle of each epoch; empty where the record does not tell its schedule."""
    budget: tuple[float, ...] = ()
    """The budget in the middle of each epoch as a share of eps, where the recipe schedules it."""


def read_history(path: Path) -> History | None:
    """The history in a train.json; None where there is none, BadInput where it is damaged."""
    if not path.is_file():
        return None
    try:
        regular(path, BYTES)
        content = read_json(path, BYTES)
        epochs = content["history"][:EPOCHS]
        curves = {name: tuple(_number(epoch[name]) for epoch in epochs) for name in CURVES if all(name in e for e in epochs)}
        seconds = _number(epochs[-1].get("seconds", 0.0)) if epochs else 0.0
    except (GauntletError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(f"{path} holds no history of a training: {' '.join(str(error).split())[:200]}") from None
    if not epochs:
        return None
    settings = content.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    return History(len(epochs), curves, seconds, _rates(settings, len(epochs)), _budget(settings, len(epochs)))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise ValueError(f"{str(value)[:60]!r} is no number of a training")
    return float(value)


def _rates(settings: dict[str, object], epochs: int) -> tuple[float, ...]:
    try:
        peak, factor = _number(settings["lr"]), learning_rate(str(settings["schedule"]))
        return tuple(peak * factor(at) for at in _middles(settings, epochs))
    except (GauntletError, KeyError, ValueError):
        return ()


def _budget(settings: dict[str, object], epochs: int) -> tuple[float, ...]:
    try:
        factor = budget_factor(str(settings.get("eps_schedule") or ""))
        return tuple(factor(at) for at in _middles(settings, epochs)) if factor else ()
    except (GauntletError, KeyError, ValueError):
        return ()


def _middles(settings: dict[str, object], epochs: int) -> list[float]:
    """The progress of the training in the middle of each epoch."""
    planned = max(int(_number(settings["epochs"])), epochs, 1)
    return [(epoch + 0.5) / planned for epoch in range(epochs)]
