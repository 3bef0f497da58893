"""Catastrophic overfitting: which single-step methods collapse, and which do not.

Per cell and over the seeds: how many collapsed and when, the accuracies on the validation images under FGSM and PGD-10 after
the last epoch, and the lowest PGD-10 accuracy of any epoch after the first quarter, so that a dip that recovers shows. The
cells join those that the finding of collapse.py has recorded with the same settings.

    python tests/studies/overfitting.py
    python tests/studies/overfitting.py --eps 8/255 --images 50000 --model preact_resnet18 --augment crop_flip

The second command has the papers' size. At that of the first, gradalign's own weight at 16/255 (2.0) leaves a constant network,
and 0.6 does so at a learning rate of 0.1 in some seeds; the cells that are slow train at less.
"""

from argparse import Namespace
from pathlib import Path
from statistics import mean

import collapse
import ending  # noqa: F401 - a defense of this study
from finding import decided, published
from study import Cell, compared, judged, options, percent, record, shorten, told, trained

from bench.evaluation import Execution
from bench.measures import MeasureRequest, measured
from bench.results.collapse import collapsed

LONG = "40"
"""Epochs of the cells that show a long schedule."""
PROBE = 50
"""Test images whose kernels are looked at."""
SLOW = "0.03"
"""Peak learning rate of the cells in which gradalign learns at this size."""
CELLS = (
    Cell("fgsm_at", "fgsm_at"),
    Cell("fast_at", "fast_at"),
    Cell("n_fgsm", "n_fgsm"),
    Cell("n_fgsm-quarter", "ending_noise"),
    Cell("noise-isotropic", "noise_fgsm", {"covariance": "isotropic", "sigma": "1.1547"}),
    Cell("noise-anisotropic", "noise_fgsm", {"covariance": "gradient", "sigma": "1.1547"}),
    Cell("noise-post", "noise_fgsm", {"placement": "post", "covariance": "isotropic", "sigma": "1.1547"}),
    Cell("noise-both", "noise_fgsm", {"placement": "both", "covariance": "isotropic", "sigma": "0.8165"}),
    Cell("noise-small", "noise_fgsm", {"covariance": "isotropic"}),
    Cell("noise-complement", "noise_fgsm", {"covariance": "complement", "sigma": "1.1547"}),
    Cell("noise-spectral", "noise_fgsm", {"covariance": "spectral", "sigma": "1.1547"}),
    Cell("noise-penalty", "noise_fgsm", {"placement": "none", "covariance": "isotropic", "sigma": "1.1547", "penalty": "1"}),
    Cell("fast_at-long", "fast_at", {"epochs": LONG}, seeds=3),
    Cell("n_fgsm-long", "n_fgsm", {"epochs": LONG}, seeds=3),
    Cell("gradalign-0.2", "gradalign", {"weight": "0.2", "growth": "1"}, seeds=3),
    Cell("gradalign-0.6", "gradalign", {"weight": "0.6", "growth": "1"}, seeds=3),
    Cell("fgsm_at-slow", "fgsm_at", {"lr": SLOW}),
    Cell("gradalign-0.6-slow", "gradalign", {"weight": "0.6", "growth": "1", "lr": SLOW}),
    Cell("zerograd", "zerograd"),
    # The budget reaches eps halfway, so that a network is robust before the last steps are long.
    Cell("fgsm_at-ramp", "fgsm_at", {"eps_schedule": "linear:0,2"}),
    Cell("fast_at-ramp", "fast_at", {"eps_schedule": "linear:0,2"}),
    Cell("fgsm_at-ramp-long", "fgsm_at", {"eps_schedule": "linear:0,2", "epochs": LONG}, seeds=2),
    # As many passes as the others: each minibatch is trained on eight times.
    Cell("free_at", "free_at", {"epochs": "3"}),
    Cell("fgsm_pgi", "fgsm_pgi"),
    Cell("fgsm_pgk", "fgsm_pgk"),
    Cell("pgd_at", "pgd_at", seeds=2),
)
PAIRS = (("noise-anisotropic", "noise-isotropic"), ("fgsm_at-ramp", "n_fgsm"))
"""What is compared over seeds under `fast`."""


def main() -> None:
    """Print a row per cell, and tests in pairs: the two noises at equal energy, and a budget that rises against noise."""
    size = {"dataset": "cifar10", "images": 10000, "model": "vgg16?width=8", "eps": "16/255", "epochs": 12, "n": 500}
    parser = published(options(__doc__, **size, seeds=5))
    parser.add_argument("--augment", default="none")
    parser.add_argument("--trainings", action="store_true", help="no evaluations: only what collapses")
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    rows, standing, cells = [], {}, []
    for cell in CELLS:
        if chosen.only and cell.label not in chosen.only:
            continue
        recipe = {"lr": "0.1", "schedule": "triangular:0.5", "augment": chosen.augment, **cell.settings}
        runs = [
            trained(Cell(cell.label, cell.defense, recipe), seed, chosen)
            for seed in range(min(chosen.seeds, cell.seeds or chosen.seeds))
        ]
        records = [record(run) for run in runs]
        epochs = len(records[0]["history"])
        late = [[entry for entry in found["history"] if entry["epoch"] > epochs / 4] for found in records]
        fell = [collapsed(found["history"], found["training"]["validation"]) for found in records]
        last = [found["history"][-1] for found in records]
        cells.append(seen := collapse.cell(cell.label, records, [_ranks(run, chosen) for run in runs]))
        if not chosen.trainings:
            standing[cell.label] = [judged(run, chosen, weights="last")[1] for run in runs]
        rows.append((
            cell.label, f"{sum(epoch is not None for epoch in fell)} of {len(runs)}",
            ", ".join(str(epoch + 1) for epoch in fell if epoch is not None) or "-",
            f"{100 * mean(entry['clean'] for entry in last):.1f}", f"{100 * mean(entry['fgsm'] for entry in last):.1f}",
            f"{100 * mean(entry['pgd'] for entry in last):.1f}",
            " ".join(f"{100 * min(entry['pgd'] for entry in part):.0f}" for part in late),
            percent(part.mean() for part in standing.get(cell.label, [])),
            f"{seen.passes}",
        ))  # fmt: skip
        told(rows, ("cell", "collapsed", "in epoch", "clean", "FGSM", "PGD-10", "least PGD-10", "fast, last epoch", "passes"))
    settings = decided(chosen)
    cells = collapse.added(cells, settings, chosen.write / f"{collapse.NAME}.json")
    if {"fgsm_at", "fast_at"} <= {one.label for one in cells}:
        collapse.finding(cells, settings).publish(chosen.write)
    for one, other in PAIRS:
        if one in standing and other in standing:
            print(f"{one} against {other}: {compared(standing[one], standing[other])}")  # noqa: T201


def _ranks(run: Path, chosen: Namespace) -> tuple[float, float]:
    """Effective ranks of the kernels of clean and of attacked test images, of the last weights."""
    request = MeasureRequest.of(
        model=f"run:{run}?weights=last", measure="kernel", options={"n": PROBE, "specialisation": False}
    )
    values = measured(request, Execution(chosen.results, chosen.device, quiet=True)).found.values
    return float(values["clean effective rank"] or 0.0), float(values["attacked effective rank"] or 0.0)


if __name__ == "__main__":
    main()
