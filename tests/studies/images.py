"""Robust features first or last, on real images?

Of each test image one that shows what a robust network sees in it, and one that shows what a standard one does (Ilyas et al.
2019, section 3.1: another image, moved until the network's last features are the same); and the accuracy of fresh networks on
either over the epochs of standard and of adversarial training.

    python tests/studies/images.py
"""

import argparse
from collections.abc import Mapping
from itertools import pairwise
from math import isnan, nan
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from finding import Finding, Table, decided, published
from study import LOOK, Cell, judged, options, percent, record, shorten, trained
from torch import Tensor

from bench.data import load
from bench.data.datasets import Dataset
from bench.diagnose.binarization import Features
from bench.models import resolve
from bench.pictures.figure import Chart, Curve, rising_axis
from bench.statistics import mean_interval, paired

SOURCES = {"robust": "fast_at", "non-robust": "standard"}
"""What trains the network whose features a set shows."""
LEARNERS = {
    "standard": Cell("learner-standard", "standard"),
    "adversarial": Cell("learner-adversarial", "pgd_at", {"steps": "10"}),
}
CHANCE = 0.1
Courses = dict[str, list[list[float]]]
"""By set, accuracy over the epochs for each seed."""


class Shown(NamedTuple):
    """A set of images that show the features of one network."""

    z: Tensor
    source: float
    """Share of them that the network itself takes for what they show."""
    start: float
    image: float
    """Distances in l2 from the image that they were made of, and from the one whose features they show; means."""


def main() -> None:
    """Print and write the finding."""
    parser = published(
        options(__doc__, dataset="mnist", images=3000, model="mnist_fast", eps="0.3", epochs=20, seeds=5, n=1000)
    )
    parser.add_argument("--source-epochs", default="10")
    parser.add_argument("--source-images", type=int, help="of the networks whose features are shown; all unless given")
    parser.add_argument("--descent", type=int, default=300, help="steps that move an image")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    test = load(chosen.dataset, "test").first(chosen.n)
    shown, sources = _sets(test, chosen)
    shorten(chosen.dataset, chosen.images, chosen.results)
    x, y = test.batch(torch.arange(len(test)))
    sets = {"clean": x, **{name: one.z for name, one in shown.items()}}
    courses = {kind: _courses(cell, sets, y, chosen) for kind, cell in LEARNERS.items()}
    tables = (_of_sets(shown, sources), _of_learners(courses))
    Finding("images", decided(chosen), tables, _figure(courses), courses).publish(chosen.write)


def _sets(test: Dataset, chosen: argparse.Namespace) -> tuple[dict[str, Shown], dict[str, tuple[float, float]]]:
    """The sets, and clean and robust accuracy of the networks behind them."""
    whole = argparse.Namespace(**vars(chosen) | {"images": chosen.source_images, "epochs": chosen.source_epochs})
    shorten(whole.dataset, whole.images, whole.results)
    shown, sources = {}, {}
    for name, defense in SOURCES.items():
        run = trained(Cell(f"source-{name}", defense), 1000, whole)
        card, _ = judged(run, whole, plan=LOOK)
        sources[name] = card.clean_accuracy, card.robust_accuracy
        kept = chosen.results / f"shown-{run.name}-{chosen.n}-{chosen.descent}.pt"
        if not kept.exists():
            net = resolve(f"run:{run}", test.shape, test.classes).net
            torch.save(tuple(_moved(net, test, chosen.descent)), kept)
        shown[name] = Shown(*torch.load(kept, weights_only=True))
    return shown, sources


def _moved(net: torch.nn.Module, test: Dataset, steps: int, size: int = 250) -> Shown:
    """For each image another of another class, moved until the network's last features are those of the image."""
    x, y = test.batch(torch.arange(len(test)))
    order = torch.rand(len(x), len(x), generator=torch.Generator().manual_seed(0))
    start = x[order.masked_fill(y[:, None] == y[None], 2.0).argmin(1)]
    features, found = Features(net.eval().requires_grad_(False), x[:2]), []
    for low in range(0, len(x), size):
        with torch.no_grad():
            wanted = features(x[low : low + size])
        z = start[low : low + size].clone()
        for step in range(steps):
            z.requires_grad_()
            (slope,) = torch.autograd.grad((features(z) - wanted).square().sum(), z)
            length = slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            # Steps of 0.1, as the source has them, then ever shorter.
            z = (z.detach() - 0.1 * (1 - step / steps) * slope / length).clamp(0, 1)
        found.append(z)
    features.release()
    z = torch.cat(found)
    far = ((z - other).flatten(1).norm(dim=1).mean() for other in (start, x))
    return Shown(z, _right(net, z, y), *map(float, far))


def _right(net: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(torch.cat([net(part).argmax(1) for part in x.split(250)]).eq(y).double().mean())


def _courses(cell: Cell, sets: Mapping[str, Tensor], y: Tensor, chosen: argparse.Namespace) -> Courses:
    """Accuracy on every set after every epoch, and on validation images under PGD."""
    found: Courses = {name: [] for name in (*sets, "attacked")}
    kept = Cell(cell.label, cell.defense, {**cell.settings, "keep_every": "1"})
    for seed in range(chosen.seeds):
        run = trained(kept, seed, chosen)
        epochs = sorted(int(path.stem.removeprefix("epoch-")) for path in Path(run).glob("epoch-*.safetensors"))
        shape = (int(sets["clean"].shape[1]), *map(int, sets["clean"].shape[2:]))
        nets = [resolve(f"run:{run}?weights=epoch-{epoch}", shape, 10).net.eval() for epoch in epochs]
        for name, x in sets.items():
            found[name].append([_right(net, x, y) for net in nets])
        found["attacked"].append([entry["pgd"] for entry in record(run)["history"]])
    return found


def _half(course: list[float]) -> float:
    """The epoch, between two, in which accuracy was half way from chance to its highest; NaN where that is hardly above it."""
    if max(course) < 2 * CHANCE:
        return nan
    goal = (CHANCE + max(course)) / 2
    for epoch, (before, after) in enumerate(pairwise([CHANCE, *course])):
        if after >= goal:
            return epoch + (goal - before) / (after - before)
    return nan


def _of_sets(shown: Mapping[str, Shown], sources: Mapping[str, tuple[float, float]]) -> Table:
    rows = []
    for name, one in shown.items():
        shares = (f"{100 * value:.1f}" for value in (*sources[name], one.source))
        rows.append((name, SOURCES[name], *shares, f"{one.start:.2f}", f"{one.image:.2f}"))
    heads = ("features", "of", "its clean %", "its robust %", "right on them %", "l2 from the start", "l2 from the image")
    return Table(heads, tuple(rows))


def _of_learners(courses: Mapping[str, Courses]) -> Table:
    rows = []
    for kind, of in courses.items():
        robust, other = ([_half(course) for course in of[name]] for name in SOURCES)
        test = paired(other, robust)
        told = f"{test.mean:+.2f} epochs, 95% {test.low:+.2f} to {test.high:+.2f}, p = {test.p:.2g}"
        told = "-" if isnan(test.mean) else told
        for name in ("clean", *SOURCES, "attacked"):
            first, last = (percent(course[place] for course in of[name]) for place in (0, -1))
            halves = " ".join(f"{_half(course):.2f}".replace("nan", "-") for course in of[name])
            rows.append((kind, name, first, last, halves, told if name == "robust" else ""))
    heads = ("training", "accuracy on", "first epoch %", "last epoch %", "half way, epoch", "robust less non-robust")
    return Table(heads, tuple(rows))


def _figure(courses: Mapping[str, Courses]) -> Chart:
    curves = []
    for kind, of in courses.items():
        for name in SOURCES:
            columns = list(zip(*of[name], strict=True))
            points = tuple((float(epoch), 100 * mean(column)) for epoch, column in enumerate(columns, 1))
            band = tuple((100 * max(low, 0), 100 * min(high, 1)) for low, high in map(mean_interval, columns))
            curves.append(Curve(f"{kind}, {name}", points, len(curves), band, dots=False))
    ends = [end for curve in curves for pair in curve.band for end in pair]
    return Chart(
        "Accuracy over the epochs on images that show what a robust network sees in them and on those that show what a "
        "standard one does, in standard and in adversarial training; means and intervals over seeds.",
        rising_axis("epoch", [x for curve in curves for x, _ in curve.points]), rising_axis("accuracy, %", ends), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
