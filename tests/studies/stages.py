"""Do the kernel's stages follow the learning rate, and does its rank fall before a collapse?

The tangent kernel after every epoch: of trainings by N-FGSM that differ in the schedule of the rate alone, a constant one among
them as the control; and of FGSM training, which collapses, beside N-FGSM in the same epochs.

    python tests/studies/stages.py
"""

from argparse import Namespace
from math import log
from statistics import mean

from finding import Finding, Table, decided, over_epochs, published
from study import Cell, difference, options, record, shorten, trained

from bench.evaluation import Execution
from bench.measures import MeasureRequest, measured
from bench.pictures.figure import Chart
from bench.plugins import learning_rate
from bench.results.collapse import collapsed
from bench.statistics import mean_interval, rank_correlation

SCHEDULES = ("constant", "piecewise:0.5,0.75", "triangular:0.5", "cosine")
CONTROL, DROPS = SCHEDULES[:2]
LOUD = "16/255"
"""The budget at which FGSM training collapses."""
READ = ("effective rank", "attacked effective rank", "clean to attacked")
Course = dict[str, list[float]]
"""A number an epoch."""


def main() -> None:
    """Print and write the finding."""
    size = {"dataset": "cifar10", "images": 10000, "model": "vgg16?width=8", "eps": "8/255", "epochs": 12, "seeds": 6}
    parser = published(options(__doc__, **size))
    parser.add_argument("--images-of-kernel", type=int, default=100)
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    speeds = {schedule: [_speed(schedule, seed, chosen) for seed in range(chosen.seeds)] for schedule in SCHEDULES}
    tables = (_stages(speeds, chosen), _causes(speeds, chosen), _collapses(chosen))
    Finding("stages", decided(chosen), tables, _figure(speeds), speeds).publish(chosen.write)


def _speed(schedule: str, seed: int, chosen: Namespace) -> list[float]:
    """By how much the kernel moves in each epoch from the second on."""
    cell = Cell(f"n_fgsm-{schedule.partition(':')[0]}", "n_fgsm", {"lr": "0.05", "schedule": schedule})
    return _course(cell, seed, chosen)[0]["velocity"][1:]


def _course(cell: Cell, seed: int, chosen: Namespace) -> tuple[Course, int | None]:
    """The kernel after each epoch, and the place of the epoch of a collapse."""
    run = trained(Cell(cell.label, cell.defense, {"augment": "none", "keep_every": "1", **cell.settings}), seed, chosen)
    settings = {"n": chosen.images_of_kernel, "checkpoints": True, "specialisation": False}
    request = MeasureRequest.of(model=f"run:{run}?weights=last", measure="kernel", options=settings)
    curve = measured(request, Execution(chosen.results, chosen.device, quiet=True)).found.curves["over epochs"]
    found = record(run)
    fell = collapsed(found["history"], found["training"]["validation"])
    return {name: [float("nan" if value is None else value) for value in column] for name, column in curve.items()}, fell


def _rates(schedule: str, chosen: Namespace) -> list[float]:
    """The mean rate of each epoch from the second on, as a share of its peak."""
    rate, epochs = learning_rate(schedule), int(chosen.epochs)
    return [mean(rate((epoch + part / 10) / epochs) for part in range(10)) for epoch in range(1, epochs)]


def _quarter(speed: list[float], which: int) -> float:
    """The mean over a quarter of the training, of which the first has no first epoch."""
    size = (len(speed) + 1) // 4
    return mean(speed[max(which * size - 1, 0) : (which + 1) * size - 1])


def _stages(speeds: dict[str, list[list[float]]], chosen: Namespace) -> Table:
    rows = []
    for schedule, seeds in speeds.items():
        quarters = [[_quarter(speed, which) for speed in seeds] for which in range(4)]
        rates = _rates(schedule, chosen)
        follows = "-"
        if max(rates) > min(rates):
            found = [rank_correlation(rates, speed) for speed in seeds]
            low, high = mean_interval(found)
            follows = f"{mean(found):+.2f}, 95% {max(low, -1):+.2f} to {min(high, 1):+.2f}"
        rows.append((schedule, *(f"{mean(values):.3f}" for values in quarters), follows))
    heads = ("schedule", "first quarter", "second", "third", "last", "rank correlation with the rate, over epochs")
    return Table(heads, tuple(rows))


def _causes(speeds: dict[str, list[list[float]]], chosen: Namespace) -> Table:
    """What the control shows without a drop, and what the drops add; logarithms, over seeds in pairs."""
    control, drops = speeds[CONTROL], speeds[DROPS]
    questions = {
        "constant rate: first quarter to last": [log(_quarter(one, 3) / _quarter(one, 0)) for one in control],
        "constant rate: second quarter to third": [log(_quarter(one, 2) / _quarter(one, 1)) for one in control],
        "piecewise, less constant: second quarter to third (first drop)": [
            log(_quarter(one, 2) / _quarter(one, 1)) - log(_quarter(other, 2) / _quarter(other, 1))
            for one, other in zip(drops, control, strict=True)
        ],
    }
    rows = []
    for name, values in questions.items():
        told = difference([0.0] * len(values), values, unit="", scale=1, digits=2)
        rows.append((name, " ".join(f"{value:+.2f}" for value in values), told))
    return Table(("log of the speed", "a seed each", "mean"), tuple(rows))


def _collapses(chosen: Namespace) -> Table:
    """From the epoch before to the one of the collapse, and the one before that, beside N-FGSM in the same epochs."""
    loud = Namespace(**vars(chosen) | {"eps": LOUD})
    recipe = {"lr": "0.1", "schedule": "triangular:0.5"}
    steps: dict[tuple[str, str], list[tuple[float, float]]] = {}
    epochs = []
    for seed in range(chosen.seeds):
        falling, at = _course(Cell("fgsm_at-loud", "fgsm_at", recipe), seed, loud)
        steady, _ = _course(Cell("n_fgsm-loud", "n_fgsm", recipe), seed, loud)
        epochs.append("-" if at is None else str(at + 1))
        for name in READ:
            for when, end in (("before", None if at is None else at - 1), ("at", at)):
                if end is not None and end > 0:
                    change = (course[name][end] - course[name][end - 1] for course in (steady, falling))
                    steps.setdefault((name, when), []).append(tuple(change))  # type: ignore[arg-type]
    rows = []
    for (name, when), changes in steps.items():
        others, own = zip(*changes, strict=True)
        told = " ".join(f"{fell:+.3g}/{held:+.3g}" for held, fell in changes)
        rows.append((name, f"{when} the collapse", told, difference(others, own, unit="", scale=1, digits=2)))
    return Table(
        (f"collapses in epoch {', '.join(epochs)}", "change in the epoch", "FGSM/N-FGSM, a seed each", "difference"),
        tuple(rows),
    )


def _figure(speeds: dict[str, list[list[float]]]) -> Chart:
    about = "How far the tangent kernel moves in each epoch of adversarial training (N-FGSM), under four schedules of the rate"
    return over_epochs(speeds, about, "distance to the epoch before", first=2)


if __name__ == "__main__":
    main()
