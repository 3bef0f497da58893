"""What the studies share: cells that differ in one thing, trained over seeds, and tables of what came out.

A study is a script. Trainings and evaluations that are there already are not done again, so it can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from bench import evaluate, train
from bench.results.card import Card
from bench.results.outcomes import Flags, outcomes_of
from bench.statistics import paired

LOOK = str(Path(__file__).with_name("look.toml"))
"""A plan of seconds, for differences between trainings of one kind."""


@dataclass(frozen=True)
class Cell:
    """One way to train."""

    label: str
    defense: str
    settings: Mapping[str, str] = field(default_factory=dict)
    seeds: int | None = None
    """At most, where a training is long."""


def options(about: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The arguments that every study takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=defaults.get("dataset", "digits"))
    parser.add_argument("--images", type=int, default=defaults.get("images"), help="train on the first so many only")
    parser.add_argument("--model", default=defaults.get("model"))
    parser.add_argument("--eps", default=defaults.get("eps"))
    parser.add_argument("--epochs", default=defaults.get("epochs"))
    parser.add_argument("--seeds", type=int, default=defaults.get("seeds", 3))
    parser.add_argument("--n", type=int, default=defaults.get("n"), help="test images of an evaluation")
    parser.add_argument("--only", nargs="*", help="labels of the cells to run; all unless given")
    parser.add_argument("--results", type=Path, default=Path("results/studies"))
    parser.add_argument("--device", default="auto")
    return parser


def shorten(dataset: str, images: int | None, folder: Path) -> None:
    """From now on the training set is its first so many images, under the same name."""
    root = os.environ.get("GAUNTLET_DATA")
    if images is None or not root or dataset == "digits":
        return
    short = folder / f"{dataset}-{images}"
    target = short / dataset
    if not (target / "train.npz").exists():
        target.mkdir(parents=True, exist_ok=True)
        with np.load(Path(root, dataset, "train.npz")) as source:
            np.savez(target / "train.npz", x=source["x"][:images], y=source["y"][:images])
        if not (target / "test.npz").exists():
            (target / "test.npz").symlink_to(Path(root, dataset, "test.npz").resolve())
    os.environ["GAUNTLET_DATA"] = str(short)


def trained(cell: Cell, seed: int, chosen: argparse.Namespace) -> Path:
    """The run folder of a cell and seed."""
    epochs = {} if chosen.epochs is None else {"epochs": str(chosen.epochs)}
    return train(
        cell.defense, dataset=chosen.dataset, model=chosen.model, eps=chosen.eps, seed=seed, name=cell.label,
        settings={**epochs, **cell.settings}, results=chosen.results / f"{chosen.dataset}-{chosen.images or 'all'}",
        device_name=chosen.device,
    )  # fmt: skip


def record(folder: Path) -> dict[str, Any]:
    """The record of a training."""
    content: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return content


def judged(
    folder: Path, chosen: argparse.Namespace, *, weights: str = "best", plan: str = "fast", test_time: str = ""
) -> tuple[Card, Flags]:
    """The card of a run, and which of its samples stand, in the order of their ids."""
    reference = f"run:{folder}?weights={weights}"
    card, path = evaluate(
        reference, plan_name=plan, n=chosen.n, eps=chosen.eps, device_name=chosen.device, test_time=test_time, quiet=True
    )
    return card, outcomes_of(card, path).planned


def compared(first: Sequence[Flags], second: Sequence[Flags]) -> str:
    """Two ways to train, on the same images and seeds: the first less the second, over seeds in pairs."""
    seeds = min(len(first), len(second))
    one, other = ([float(flags.mean()) for flags in side[:seeds]] for side in (first, second))
    return difference(other, one)


def difference(
    first: Sequence[float], second: Sequence[float], *, unit: str = "points", scale: float = 100.0, digits: int = 1
) -> str:
    """Two ways to train, a number for each seed, shares unless told: the second less the first, over seeds in pairs."""
    found = paired(first, second)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    return f"{mean}{unit and ' '}{unit}, 95% {low} to {high}, p = {found.p:.2g}"


def percent(values: Iterable[float]) -> str:
    """Shares in percent, one after the other."""
    return " ".join(f"{100 * value:.1f}" for value in values)


def told(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> None:
    """Print a table."""
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True), flush=True)  # noqa: T201
