"""What does the tangent kernel do when a training that was robust falls?

FGSM-RS on MNIST is robust after a few epochs. Half of the trainings go on as they are, the other half loses the random
start. Up to there both are the same, bit for bit, and what differs afterwards is what the fall did: to the kernel and to the
linearity of the loss, after every epoch, over seeds in pairs.

    python tests/studies/falls.py
"""

from argparse import Namespace
from pathlib import Path
from statistics import mean

import ending  # noqa: F401 - a defense of this study
from finding import Finding, Table, decided, over_epochs, published
from study import Cell, options, record, trained

from bench.evaluation import Execution
from bench.measures import MeasureRequest, measured
from bench.pictures.figure import Chart
from bench.statistics import holm, paired

KEPT, ENDED = "random starts to the end", "random starts for one half"
CELLS = {KEPT: Cell("falls-kept", "fast_at"), ENDED: Cell("falls-ended", "ending_start")}
KERNEL = {"effective rank": 2, "attacked effective rank": 2, "attacked less clean": 2, "clean to attacked": 3}
"""What is read from kernels, and with how many digits it is shown."""
SLOPE = "cosine"
"""Of the gradient at an image and that at the end of an ascent."""
Course = dict[str, list[float]]
"""A number an epoch, from the first on."""


def main() -> None:
    """Print and write the finding."""
    size = {"dataset": "mnist", "eps": "0.3", "epochs": 10, "seeds": 8}
    parser = published(options(__doc__, **size))
    parser.add_argument("--images-of-kernel", type=int, default=100)
    chosen = parser.parse_args()
    courses = {name: [_course(cell, seed, chosen) for seed in range(chosen.seeds)] for name, cell in CELLS.items()}
    half = int(chosen.epochs) // 2
    shown = (half, half + 1, half + 2, int(chosen.epochs))
    stood = [seed for seed, one in enumerate(courses[KEPT]) if one["pgd"][-1] >= one["fgsm"][-1] / 2]
    among = {name: [seeds[seed] for seed in stood] for name, seeds in courses.items()}
    tables = (_standing(courses, half), _differences(courses, shown), _differences(among, shown, f"seeds {_listed(stood)}"))
    Finding("falls", decided(chosen), tables, _figure(courses), courses).publish(chosen.write)


def _course(cell: Cell, seed: int, chosen: Namespace) -> Course:
    run = trained(Cell(cell.label, cell.defense, {"keep_every": "1", **cell.settings}), seed, chosen)
    history = record(run)["history"]
    options = {"n": chosen.images_of_kernel, "checkpoints": True, "specialisation": False}
    request = MeasureRequest.of(model=f"run:{run}?weights=last", measure="kernel", options=options)
    curve = measured(request, Execution(chosen.results, chosen.device, quiet=True)).found.curves["over epochs"]
    course = {name: [float(value) for value in curve[name] if value is not None] for name in KERNEL if name in curve}
    course["attacked less clean"] = [
        other - one for one, other in zip(course["effective rank"], course["attacked effective rank"], strict=True)
    ]
    course[SLOPE] = [_cosine(run, epoch, chosen) for epoch in range(1, len(history) + 1)]
    return course | {name: [entry[name] for entry in history] for name in ("clean", "fgsm", "pgd")}


def _cosine(run: Path, epoch: int, chosen: Namespace) -> float:
    options = {"n": chosen.images_of_kernel, "radii": [1.0]}
    request = MeasureRequest.of(model=f"run:{run}?weights=epoch-{epoch}", measure="linearity", options=options)
    return float(measured(request, Execution(chosen.results, chosen.device, quiet=True)).found.values[SLOPE] or 0.0)


def _standing(courses: dict[str, list[Course]], half: int) -> Table:
    """PGD-10 accuracy from the epoch on after which random starts end, and what FGSM leaves at last."""
    epochs = range(half, len(courses[KEPT][0]["pgd"]) + 1)
    rows = [
        (name, *(" ".join(f"{100 * one['pgd'][epoch - 1]:.0f}" for one in seeds) for epoch in epochs),
         " ".join(f"{100 * one['fgsm'][-1]:.0f}" for one in seeds))
        for name, seeds in courses.items()
    ]  # fmt: skip
    return Table(("PGD-10 after epoch", *(str(epoch) for epoch in epochs), "FGSM, last"), tuple(rows))


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _differences(courses: dict[str, list[Course]], shown: tuple[int, ...], which: str = "all seeds") -> Table:
    """What the end of random starts changes in a number, after some epochs, over seeds in pairs; Holm over the table."""
    digits = KERNEL | {SLOPE: 3}
    tests = {
        (name, epoch): paired(*([one[name][epoch - 1] for one in courses[cell]] for cell in (KEPT, ENDED)))
        for name in digits for epoch in shown[1:]
    }  # fmt: skip
    corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    rows = []
    for name, places in digits.items():
        before = mean(one[name][shown[0] - 1] for one in courses[KEPT])
        cells = [name, f"{before:.{places}f}"]
        for epoch in shown[1:]:
            test = tests[name, epoch]
            told = f"{test.mean:+.{places}f}, 95% {test.low:+.{places}f} to {test.high:+.{places}f}"
            cells.append(f"{told}, p = {test.p:.2g} ({corrected[name, epoch]:.2g})")
        rows.append(tuple(cells))
    heads = (
        f"of the kernel, and of the loss; {which}",
        f"epoch {shown[0]}",
        *(f"ended less kept, epoch {epoch}" for epoch in shown[1:]),
    )
    return Table(heads, tuple(rows))


def _figure(courses: dict[str, list[Course]]) -> Chart:
    """The rank of the kernel of attacked images, where the claim is that it falls."""
    ranks = {name: [one["attacked effective rank"] for one in seeds] for name, seeds in courses.items()}
    about = (
        "Effective rank of the tangent kernel of attacked images over the epochs of FGSM-RS, with random starts to the end and "
        "for one half"
    )
    return over_epochs(ranks, about, "effective rank, attacked images")


if __name__ == "__main__":
    main()
