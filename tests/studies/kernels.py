"""Does any of the kernel's three numbers tell how robust a network is?

Kernel distance (clean to attacked), specialisation and effective rank against robust accuracy: over the networks of
switching.py, whose warm-ups differ, and with --course over the epochs of PGD training. Rank correlations within a seed, so that
seeds are what the interval is over; and of the changes from one epoch to the next, because whatever moves steadily correlates
with whatever else does.

    python tests/studies/kernels.py
    python tests/studies/kernels.py --course
"""

from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from statistics import mean

from finding import Finding, Table, decided, published
from study import LOOK, Cell, judged, options, record, shorten, trained
from switching import LENGTHS, SCHEDULE, cells

from bench.evaluation import Execution
from bench.measures import MeasureRequest, measured
from bench.pictures.figure import Chart, Curve, rising_axis
from bench.statistics import holm, mean_interval, rank_correlation, sign_flips

MEASURES = {
    "distance": "distance, clean to attacked", "specialisation": "clean specialisation",
    "attacked specialisation": "attacked specialisation", "effective rank": "clean effective rank",
    "attacked effective rank": "attacked effective rank",
}  # fmt: skip
EVERY = 2
"""Epochs between two checkpoints."""
Values = dict[str, list[list[float]]]
"""By measure, a list for each seed."""


def main() -> None:
    """Print and write the finding."""
    parser = published(options(__doc__, dataset="digits", epochs=20, seeds=5, n=None))
    parser.add_argument("--images-of-kernel", type=int, default=50)
    parser.add_argument("--course", action="store_true", help="the epochs of PGD training as well, which trains anew")
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    kinds = {"networks": _networks(chosen)}
    if chosen.course:
        kinds["epochs"] = _epochs(chosen)
        kinds["changes between epochs"] = {
            name: [[b - a for a, b in pairwise(seed)] for seed in seeds] for name, seeds in kinds["epochs"].items()
        }
    rows, p = [], []
    for kind, values in kinds.items():
        for name in MEASURES:
            found = [rank_correlation(x, y) for x, y in zip(values[name], values["robust"], strict=True)]
            low, high = mean_interval(found)
            p.append(sign_flips(found))
            told = f"{mean(found):+.2f}, 95% {max(low, -1):+.2f} to {min(high, 1):+.2f}"
            rows.append((kind, name, " ".join(f"{value:+.2f}" for value in found), told))
    table = Table(
        ("over", "measure", "rank correlation with robust accuracy", "mean", "p", "Holm"),
        tuple((*row, f"{one:.2g}", f"{held:.2g}") for row, one, held in zip(rows, p, holm(p).tolist(), strict=True)),
    )
    tables = (table, _values(kinds["networks"]))
    Finding("kernels", decided(chosen), tables, _figure(kinds["networks"]), kinds).publish(chosen.write)


def _values(networks: Values) -> Table:
    """Means over the seeds."""
    rows = []
    for place, length in enumerate(LENGTHS):
        means = [mean(seed[place] for seed in networks[name]) for name in MEASURES]
        robust = mean(seed[place] for seed in networks["robust"])
        rows.append((length, *(f"{value:.3g}" for value in means), f"{100 * robust:.1f}"))
    return Table(("warm-up", *MEASURES, "robust"), tuple(rows))


def _networks(chosen: Namespace) -> Values:
    """Of the last weights after warm-ups of each length, and their robust accuracy on the test images."""
    known = [cells()[f"warm-up {length}"] for length in LENGTHS]
    values: Values = {name: [] for name in (*MEASURES, "robust")}
    for seed in range(chosen.seeds):
        runs = [trained(cell, seed, chosen) for cell in known]
        found = [_kernel(f"run:{run}?weights=last", chosen) for run in runs]
        for name in MEASURES:
            values[name].append([one[name] for one in found])
        values["robust"].append([judged(run, chosen, weights="last", plan=LOOK)[0].robust_accuracy for run in runs])
    return values


def _epochs(chosen: Namespace) -> Values:
    """Of the kept epochs of PGD training, and PGD-10 accuracy on its validation images."""
    values: Values = {name: [] for name in (*MEASURES, "robust")}
    cell = Cell("kept", "clean_warmup", {"warmup": "0", "schedule": SCHEDULE, "keep_every": str(EVERY)})
    for seed in range(chosen.seeds):
        run = trained(cell, seed, chosen)
        history = {entry["epoch"]: entry["pgd"] for entry in record(run)["history"]}
        kept = sorted(int(path.stem.removeprefix("epoch-")) for path in Path(run).glob("epoch-*.safetensors"))
        found = [_kernel(f"run:{run}?weights=epoch-{epoch}", chosen) for epoch in kept]
        for name in MEASURES:
            values[name].append([one[name] for one in found])
        values["robust"].append([history[epoch] for epoch in kept])
    return values


def _kernel(model: str, chosen: Namespace) -> dict[str, float]:
    request = MeasureRequest.of(model=model, measure="kernel", options={"n": chosen.images_of_kernel})
    values = measured(request, Execution(chosen.results, chosen.device, quiet=True)).found.values
    return {name: float(values[key] or 0.0) for name, key in MEASURES.items()}


def _figure(networks: Values) -> Chart:
    """Each measure over the warm-up, as a multiple of what it is without one, beside the robust accuracy."""
    curves = []
    for tone, name in enumerate((*MEASURES, "robust")):
        columns = list(zip(*([value / seed[0] for value in seed] for seed in networks[name]), strict=True))
        points = tuple((float(length), mean(column)) for length, column in zip(LENGTHS, columns, strict=True))
        label = "robust accuracy" if name == "robust" else name
        curves.append(Curve(label, points, tone, tuple(mean_interval(column) for column in columns)))
    ends = [end for curve in curves for pair in curve.band for end in pair]
    return Chart(
        "Kernel distance, specialisation and effective rank, and robust accuracy, of networks over the share of their training "
        "that was on clean images, each as a multiple of what it is without; means and intervals over seeds.",
        rising_axis("clean share of the training", [float(length) for length in LENGTHS]),
        rising_axis("multiple of no warm-up", [max(end, 0.0) for end in ends]), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
