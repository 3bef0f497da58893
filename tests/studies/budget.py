"""A budget that is warmed up, once or periodically, with and without the ensemble: is it eps or the rate that helps?

Each against PGD training at a constant budget with as many passes, over seeds in pairs; then what the loss is like at
the end of the constant and of the warmed-up training: scattering of gradients and the largest eigenvalue of the Hessian.
Some once more at a budget that is too large for a constant one.

    python tests/studies/budget.py
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from finding import Finding, Table, decided, published
from study import LOOK, Cell, difference, judged, options, percent, record, shorten, trained

from bench.evaluation import Execution
from bench.measures import MeasureRequest, measured
from bench.pictures.figure import Chart, Curve, percent_axis, rising_axis
from bench.statistics import holm, mean_interval, paired

PERIODS = "[0.5, 0.75, 1.0]"
RATE = "periodic:0.5,0.75,1"
PERIODIC = {"schedule_eps": "cosine", "periods": PERIODS}
CELLS = (
    Cell("constant", "periodic_budget", {"schedule_eps": "const", "eps_max": "1", "periods": "[1.0]"}),
    Cell("cosine", "periodic_budget", {"schedule_eps": "cosine", "periods": "[1.0]"}),
    Cell("periodic", "periodic_budget", PERIODIC),
    Cell("constant, periodic rate", "periodic_budget", {**PERIODIC, "schedule_eps": "const", "eps_max": "1", "schedule": RATE}),
    Cell("periodic, periodic rate", "periodic_budget", {**PERIODIC, "schedule": RATE}),
    Cell("linear", "periodic_budget", {"schedule_eps": "linear", "periods": "[1.0]"}),
    Cell("pgd_at", "pgd_at", {"craft": "eval"}),
)
LARGE, AT_LARGE = "0.3", ("constant", "cosine", "periodic")
"""A budget that a constant one cannot learn, and what is trained on it."""
MEASURED = ("constant", "cosine")
DRAWN = ("constant", "linear", "cosine", "periodic", "constant, periodic rate", "periodic, periodic rate")
CHANCE = 0.2
ENSEMBLE = ", ensemble"


def main() -> None:
    """Print and write the finding."""
    chosen = published(options(__doc__, dataset="digits", eps="0.2", epochs=10, seeds=5)).parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    wanted = [cell for cell in CELLS if not chosen.only or cell.label in chosen.only]
    seen, large = _seen(wanted, chosen), Namespace(**vars(chosen) | {"eps": LARGE})
    at_large = _seen([cell for cell in wanted if cell.label in AT_LARGE], large)
    tables = [_table(seen), _table(at_large)]
    if all(label in seen.runs for label in MEASURED):
        tables.append(_measures(seen.runs, chosen))
    history = {label: [[e["pgd"] for e in record(run)["history"]] for run in of] for label, of in seen.runs.items()}
    numbers = {
        "robust": seen.robust, "clean": seen.clean, "pgd": history,
        f"robust, eps {LARGE}": at_large.robust, f"clean, eps {LARGE}": at_large.clean,
    }  # fmt: skip
    Finding("budget", decided(chosen), tables, _figure(history), numbers).publish(chosen.write)


@dataclass
class Seen:
    """What came of the trainings, by cell, a number for each seed; cells with an ensemble count twice."""

    runs: dict[str, list[Path]] = field(default_factory=dict)
    robust: dict[str, list[float]] = field(default_factory=dict)
    clean: dict[str, list[float]] = field(default_factory=dict)
    about: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Passes, and epochs at chance."""


def _seen(cells: Sequence[Cell], chosen: Namespace) -> Seen:
    seen = Seen()
    for cell in cells:
        name = Cell(cell.label.replace(", ", "-").replace(" ", "-"), cell.defense, cell.settings)
        runs = seen.runs[cell.label] = [trained(name, seed, chosen) for seed in range(chosen.seeds)]
        records = [record(run) for run in runs]
        passes = mean(entry["training"]["backwards_per_sample"] for entry in records)
        stalled = " ".join(str(sum(e["clean"] < CHANCE for e in entry["history"])) for entry in records)
        for weights in ("last", *["ensemble"] * (runs[0] / "ensemble.safetensors").exists()):
            label = cell.label if weights == "last" else cell.label + ENSEMBLE
            cards = [judged(run, chosen, weights=weights, plan=LOOK)[0] for run in runs]
            seen.robust[label], seen.clean[label] = [c.robust_accuracy for c in cards], [c.clean_accuracy for c in cards]
            seen.about[label] = f"{passes:.0f}", stalled
    return seen


def _table(seen: Seen) -> Table:
    robust = seen.robust
    others = [label for label in robust if label != "constant"]
    adjusted = holm([paired(robust["constant"], robust[label]).p for label in others]).tolist()
    told = {label: difference(robust["constant"], robust[label]) for label in others}
    last = {label: robust[label.removesuffix(ENSEMBLE)] for label in robust if label.endswith(ENSEMBLE)}
    rows = tuple(
        (label, *seen.about[label], percent(seen.clean[label]), percent(robust[label]), told.get(label, ""),
         f"{adjusted[others.index(label)]:.2g}" if label in told else "",
         difference(last[label], robust[label]) if label in last else "")
        for label in robust
    )  # fmt: skip
    compared = ("against constant", "Holm", "against its last weights")
    return Table(("budget", "passes", "epochs at chance", "clean", "robust", *compared), rows)


def _measures(runs: dict[str, list[Path]], chosen: Namespace) -> Table:
    """Values of the two trainings at their last weights, a number for each seed."""
    wanted = {
        "scattering": (
            "change over gradient",
            "by weights over gradient",
            "by perturbations over gradient",
            "cosine of perturbations",
        ),
        "curvature": ("clean top", "adversarial top"),
    }
    settings: dict[str, dict[str, Any]] = {"scattering": {"radii": [1.0], "distances": [0.01]}, "curvature": {"products": 20}}
    rows = []
    for measure, names in wanted.items():
        found = {
            label: [_values(run, measure, {"n": 100, **settings[measure]}, chosen) for run in runs[label]] for label in MEASURED
        }
        for name in names:
            one, other = ([values[name] for values in found[label]] for label in MEASURED)
            gap = paired(one, other)
            told = f"{gap.mean:+.3g}, 95% {gap.low:+.3g} to {gap.high:+.3g}, p = {gap.p:.2g}"
            rows.append((measure, name, _few(one), _few(other), told))
    return Table(("measure", "value", *MEASURED, f"{MEASURED[1]} less {MEASURED[0]}"), tuple(rows))


def _values(run: Path, measure: str, settings: dict[str, Any], chosen: Namespace) -> dict[str, float]:
    request = MeasureRequest.of(model=f"run:{run}?weights=last", measure=measure, options=settings)
    return dict(measured(request, Execution(chosen.results, chosen.device, quiet=True)).found.values)


def _few(values: list[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _figure(history: dict[str, list[list[float]]]) -> Chart:
    """PGD-10 accuracy at the target budget over the epochs."""
    curves = []
    for tone, label in enumerate(label for label in DRAWN if label in history):
        columns = list(zip(*history[label], strict=True))
        points = tuple((float(epoch), 100 * mean(column)) for epoch, column in enumerate(columns, 1))
        band = tuple((100 * low, 100 * high) for low, high in (mean_interval(column) for column in columns))
        curves.append(Curve(label, points, tone, band, dots=False))
    ends = [min(max(end, 0.0), 100.0) for curve in curves for pair in curve.band for end in pair]
    last = float(max(len(seeds[0]) for seeds in history.values()))
    return Chart(
        "PGD-10 accuracy on validation images at the target budget over the epochs, by budget; means and intervals over seeds.",
        rising_axis("epoch", [1.0, last]), percent_axis("PGD-10 accuracy, %", ends, whole=False), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
