"""Robust features first or last? The structured-data lab over ten seeds, and the worlds of the reviewers' questions.

python tests/studies/features.py
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from finding import Finding, Table, decided, published

from bench.evaluation import Execution
from bench.measures import Measurement, performed
from bench.pictures.figure import Chart, Curve, rising_axis

SHORT = {"radii": [0.0, 1.0], "rates": []}
"""Standard training and that at eps alone."""
WORLDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "two non-robust features": {"nonrobust": 2, "size": 6},
    "overlap 0.2": {"overlap": 0.2},
    "feature noise 0.02": {"feature_noise": 0.02},
    "cosine 0.3": {"cosine": 0.3},
    "gradient step": {"inner": "gradient", "rate": 100.0},
    "ten inner steps": {"inner_steps": 10, "rate": 0.25},
    "relu": {"act": "relu", "lr": 0.02},
    "gelu": {"act": "gelu", "lr": 0.05},
    "softplus": {"act": "softplus", "lr": 0.02},
}
THREE = SHORT | {"classes": 3, "size": 9, "filters": 3, "n": 30, "lr": 1.2, "steps": 2500, "stop": 4.0}
"""The instance of three classes on which the constants were first chosen."""
INITS, SEEDS_OF_THREE = (0.15, 0.5), 5
COLUMNS = ("share of A", "clean", "robust", "robust only", "non-robust only")


def main() -> None:
    """Print and write the finding."""
    parser = published(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", help="worlds; all unless given")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=Path("results/studies"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, world in WORLDS.items():
        if chosen.only and name not in chosen.only:
            continue
        options = {"steps": chosen.steps, **(world if name == "as it is" else SHORT | world)}
        found[name] = performed("structured", options, 0, chosen.seeds, Execution(chosen.results, quiet=True)).found
    main_ = found["as it is"]
    three = {
        init: performed("structured", THREE | {"init": init}, 0, SEEDS_OF_THREE, Execution(chosen.results, quiet=True)).found
        for init in INITS
    }
    tables = [_over_eps(main_), _worlds(found), _transition(main_), _three(three)]
    values = {name: dict(document.values) for name, document in found.items()}
    numbers = {"values": values, "over time": {k: v for k, v in main_.curves.items() if k.startswith("A and B")}}
    Finding("features", decided(chosen), tables, _figure(main_), numbers).publish(chosen.write)


def _cell(document: Measurement, name: str, row: int, percent: bool = True) -> str:
    curve, factor = document.curves["over eps"], 100 if percent else 1
    mean, low, high = (curve[key][row] or 0.0 for key in (name, f"{name}, low", f"{name}, high"))
    return f"{factor * mean:.0f} ({factor * max(low, 0):.0f} to {factor * min(high, 1):.0f})"


def _over_eps(document: Measurement) -> Table:
    rows = tuple(
        (f"{eps:g}", *(_cell(document, name, row) for name in COLUMNS))
        for row, eps in enumerate(document.curves["over eps"]["eps"])
    )
    return Table(("eps of the training", *COLUMNS), rows)


def _worlds(found: dict[str, Measurement]) -> Table:
    rows = []
    for name, document in found.items():
        last = len(document.curves["over eps"]["eps"]) - 1
        for kind, row in (("standard", 0), ("adversarial", last)):
            rows.append((name, kind, *(_cell(document, column, row) for column in COLUMNS)))
    return Table(("world", "training", *COLUMNS), tuple(rows))


def _three(found: dict[float, Measurement]) -> Table:
    """Standard and adversarial training of three classes, from small and from larger weights."""
    rows = []
    for init, document in found.items():
        for row, (kind, which) in enumerate((("standard", "least"), ("adversarial", "largest"))):
            median = 100 * (document.values[f"share of A, {which} eps"] or 0.0)
            cells = (_cell(document, name, row) for name in ("share of A", "clean", "robust"))
            steps = document.curves["over eps"]["steps"][row] or 0.0
            rows.append((f"{init:g}", kind, f"{median:.0f}", *cells, f"{steps:.0f}"))
    heads = ("init", "training", "share of A, median", "mean", "clean", "robust", f"steps, of {THREE['steps']}")
    return Table(heads, tuple(rows))


def _transition(document: Measurement) -> Table:
    curve = document.curves["phase transition"]
    columns = [curve[key] for key in ("time", "time, low", "time, high")]
    rows = []
    for row, inverse in enumerate(curve["1 / rate"]):
        told = ("-" if column[row] is None else f"{column[row]:.0f}" for column in columns)
        rows.append((f"{1 / (inverse or 1.0):g}", *told))
    return Table(("inner rate", "departure, step", "low", "high"), tuple(rows))


def _figure(document: Measurement) -> Chart:
    """A and B over the steps, of standard and of adversarial training."""
    curves = []
    for key, curve in document.curves.items():
        if not key.startswith("A and B"):
            continue
        kind = "standard" if " 0 eps" in key else "adversarial"
        for name in ("A", "B"):
            keep = [place for place, step in enumerate(curve["step"]) if step is not None]
            points = tuple((float(curve["step"][i] or 0), float(curve[name][i] or 0)) for i in keep)
            band = tuple((float(curve[f"{name}, low"][i] or 0), float(curve[f"{name}, high"][i] or 0)) for i in keep)
            label = f"{kind}, {'robust' if name == 'A' else 'non-robust'}"
            curves.append(Curve(label, points, len(curves), band, dots=False))
    ends = [end for curve in curves for pair in curve.band for end in pair]
    across = [x for curve in curves for x, _ in curve.points]
    return Chart(
        "How much of the robust and of the non-robust features the network has over the steps, in standard and in adversarial "
        "training; means over classes and seeds with intervals.",
        rising_axis("step", across), rising_axis("amount of a feature", [max(e, 0.0) for e in ends]), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
