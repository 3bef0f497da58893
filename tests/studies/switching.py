"""Clean images first: what it saves, what it costs, and who can tell when to switch.

Lengths of the warm-up, the kernel's rule, and the same passes spent on a shorter training without one; each against the full
training, over seeds in pairs. The oracle takes, for each seed, the longest warm-up that cost the other seeds nothing on their
validation images.

    python tests/studies/switching.py
"""

from statistics import mean
from typing import Any

from finding import Finding, Table, decided, published
from study import LOOK, Cell, difference, judged, options, percent, record, shorten, trained

from bench.pictures.figure import Chart, Curve, percent_axis, rising_axis
from bench.statistics import mean_interval

SCHEDULE = "piecewise:0.5,0.75"
LENGTHS = ("0", "0.05", "0.1", "0.2", "0.4")
BUDGETS = {"0.1": 18}
"""Epochs without a warm-up that take as many passes as 20 with one of this length, or 2 fewer."""
TOLERANCE = 0.01
"""What the oracle takes for nothing, on validation images."""


def cells() -> dict[str, Cell]:
    """By what a table calls them; lengths are called as those of warmup.py, which trains the same."""
    base = {"schedule": SCHEDULE}
    found = {
        f"warm-up {x}": Cell(f"warmup-{x}-piecewise", "clean_warmup", {"mode": "fixed", "warmup": x, **base}) for x in LENGTHS
    }
    found["kernel"] = Cell("warmup-kernel-piecewise", "clean_warmup", {"mode": "kernel", **base})
    for length, epochs in BUDGETS.items():
        settings = {"mode": "fixed", "warmup": "0", "epochs": str(epochs), **base}
        found[f"{epochs} epochs"] = Cell(f"passes-of-{length}", "clean_warmup", settings)
    return found


def oracle(validated: dict[str, list[float]]) -> list[str]:
    """For each seed the length that its fellows' validation accuracies, a list for each length, would choose."""
    chosen = []
    for seed in range(len(validated["0"])):
        others = {x: [value for at, value in enumerate(values) if at != seed] for x, values in validated.items()}
        least = mean(others["0"]) - TOLERANCE
        chosen.append(max((x for x in others if mean(others[x]) >= least), key=float))
    return chosen


def main() -> None:
    """Print and write the finding; with --only, of some trainings, of which "warm-up 0" is always one."""
    chosen = published(options(__doc__, dataset="digits", epochs=20, seeds=5)).parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    robust, rows, validated, passes, told = {}, [], {}, {}, []
    for name, cell in cells().items():
        if chosen.only and name not in ("warm-up 0", *chosen.only):
            continue
        runs = [trained(cell, seed, chosen) for seed in range(chosen.seeds)]
        cards = [judged(run, chosen, weights="last", plan=LOOK)[0] for run in runs]
        records = [record(run) for run in runs]
        robust[name] = [card.robust_accuracy for card in cards]
        passes[name] = mean(found["training"]["backwards_per_sample"] for found in records)
        validated[name] = [found["history"][-1]["pgd"] for found in records]
        rows.append((
            name, f"{passes[name]:.0f}", percent(card.clean_accuracy for card in cards), percent(robust[name]),
            difference(robust["warm-up 0"], robust[name]) if name != "warm-up 0" else "",
        ))  # fmt: skip
        if name == "kernel":
            told = [found["found"] for found in records]
    picks = oracle({x: validated[f"warm-up {x}"] for x in LENGTHS if f"warm-up {x}" in validated})
    by_oracle = [robust[f"warm-up {x}"][seed] for seed, x in enumerate(picks)]
    spent = mean(passes[f"warm-up {x}"] for x in picks)
    rows.append(
        (f"oracle: {' '.join(picks)}", f"{spent:.0f}", "", percent(by_oracle), difference(robust["warm-up 0"], by_oracle))
    )
    tables = [Table(("training", "passes", "clean", "robust", "against warm-up 0"), tuple(rows))]
    against = [
        (f"warm-up {x}", f"{epochs} epochs", difference(robust[f"{epochs} epochs"], robust[f"warm-up {x}"]))
        for x, epochs in BUDGETS.items()
        if f"{epochs} epochs" in robust
    ]
    if against:
        tables.append(Table(("longer, with a warm-up", "shorter, without", "first less second"), tuple(against)))
    if told:
        tables.append(_rule(told))
    numbers = {"robust": robust, "passes": passes}
    Finding("switching", decided(chosen), tables, _figure(robust, passes), numbers).publish(chosen.write)


def _rule(told: list[dict[str, Any]]) -> Table:
    """What the kernel's rule saw and did."""
    rows = tuple(
        (str(seed), str(entry["switch_epoch"]), str(entry["switched_by"]), _few(entry["kernel_velocities"]),
         _few(entry["kernel_distances"]))
        for seed, entry in enumerate(told)
    )  # fmt: skip
    return Table(("seed", "kernel switched in epoch", "by", "velocities", "distances"), rows)


def _few(values: list[float | None]) -> str:
    return " ".join("-" if value is None else f"{value:.3f}" for value in values)


def _figure(robust: dict[str, list[float]], passes: dict[str, float]) -> Chart:
    """Robust accuracy over passes, of warm-ups and of shorter trainings."""

    def curve(label: str, names: list[str], tone: int) -> Curve:
        order = sorted(names, key=passes.__getitem__)
        points = tuple((passes[name], 100 * mean(robust[name])) for name in order)
        band = tuple((100 * low, 100 * high) for low, high in (mean_interval(robust[name]) for name in order))
        return Curve(label, points, tone, band)

    lengths = [name for name in robust if name.startswith("warm-up")]
    shorter = ["warm-up 0", *(name for name in robust if name.endswith("epochs"))]
    every = [100 * value for name in lengths for value in robust[name]]
    return Chart(
        "Robust accuracy over backward passes per image: clean warm-ups of growing length, and shorter trainings without one.",
        rising_axis("backward passes per image", list(passes.values())), percent_axis("robust accuracy, %", every, whole=False),
        (curve("clean warm-up", lengths, 0), *([curve("fewer epochs", shorter, 1)] if len(shorter) > 1 else [])),
    )  # fmt: skip


if __name__ == "__main__":
    main()
