"""Robust features first or last, on real images?

Test images are changed by at most eps until a standard network takes them for another class, drawn at random (Ilyas et al.
2019, section 3.2). As a whole each still shows its own class; the small change shows the other. Which of both do fresh networks
answer, over the epochs of standard and of adversarial training? And does the change hold features: is a network that is trained
on nothing but changed images, with the labels of the change, right on images that nobody changed?

    python tests/studies/images.py --only digits
    python tests/studies/images.py                  # CIFAR-10 too: an hour of one core
"""

import argparse
import os
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from finding import Finding, Table, published
from study import Cell, difference, percent, record, shorten, trained
from torch import Tensor, nn

from bench import train
from bench.data import load
from bench.files import write_arrays
from bench.models import resolve
from bench.pictures.figure import Axis, Chart, Curve, rising_axis
from bench.statistics import mean_interval

CHANCE = 0.1
FAR = 1000
"""Where the seeds of the networks begin that change the images; those of the networks that look at them begin at 0."""
OWN, OTHER, ELSE = "own class", "other class", "other class, unchanged"
"""Answers to changed images, and what is answered with the other class where nothing shows it."""
CLEAN, ATTACKED = "clean", "under PGD-10"
Course = dict[str, list[float]]
"""Shares over the epochs of a training, by what they are of."""


class Change(NamedTuple):
    """Shares of a seed."""

    clean: float
    """Right answers of the network that changes the images."""
    other: float
    """Of its answers to changed images, the other class."""
    taught: float
    """Right answers to images as they are, of a network that was taught by changed ones."""
    fit: float
    """Of its answers to those images, what it was taught; at chance it learned nothing, and `taught` says nothing."""


SIZES: dict[str, dict[str, Any]] = {
    "digits": {"eps": "0.2", "model": None, "images": None, "n": None, "epochs": 60, "batch_size": 512, "adversarial": "pgd_at",
               "seeds": 8},
    "cifar10": {"eps": "8/255", "model": "vgg16?width=8", "images": 10000, "n": 2000, "epochs": 20, "batch_size": 256,
                "adversarial": "n_fgsm", "seeds": 5},
}  # fmt: skip
"""Batches are large, so that an epoch is short; a source has seen all training images."""
SOURCE_EPOCHS = {"digits": 8, "cifar10": 5}


def main() -> None:
    """Print and write the finding."""
    parser = published(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--only", nargs="*", choices=SIZES, help="data sets; all unless given")
    parser.add_argument("--results", type=Path, default=Path("results/studies"))
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    changes, courses = {}, {}
    for dataset in chosen.only or SIZES:
        size = argparse.Namespace(**vars(chosen), dataset=dataset, **SIZES[dataset])
        changes[dataset], courses[dataset] = _seen(size)
    tables = (_of_changes(changes), _over_epochs(courses), _tests(courses))
    settings = {name: {**SIZES[name], "source_epochs": SOURCE_EPOCHS[name]} for name in courses}
    Finding("images", settings, tables, _figure([*courses.values()][-1]), courses).publish(chosen.write)


def _seen(chosen: argparse.Namespace) -> tuple[list[Change], dict[str, list[Course]]]:
    """Of each seed the change and what it taught, and the courses of both trainings."""
    kinds = {"standard": Cell("standard", "standard"), "adversarial": Cell(chosen.adversarial, chosen.adversarial)}
    courses: dict[str, list[Course]] = {kind: [] for kind in kinds}
    whole, changes = dict(os.environ), []
    for seed in range(chosen.seeds):
        os.environ.update(whole)
        source = _network(Cell("source", "standard"), FAR + seed, _all_of(chosen))
        shorten(chosen.dataset, chosen.images, chosen.results)
        x, y, other, z = _changed(source, "test", seed, chosen)
        for kind, cell in kinds.items():
            courses[kind].append(_course(cell, seed, (x, y, other, z), chosen))
        pupil, *lessons = _taught(source, seed, chosen)
        changes.append(Change(_share(source, x, y), _share(source, z, other), _share(pupil, x, y), _share(pupil, *lessons)))
    os.environ.update(whole)
    return changes, courses


def _all_of(chosen: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**vars(chosen) | {"images": None, "epochs": SOURCE_EPOCHS[chosen.dataset]})


def _network(cell: Cell, seed: int, chosen: argparse.Namespace, weights: str = "last") -> nn.Module:
    """A trained network, of images as they are."""
    run = trained(_plain(cell), seed, chosen)
    samples = load(chosen.dataset, "test")
    return resolve(f"run:{run}?weights={weights}", samples.shape, samples.classes).net.eval().requires_grad_(False)


def _plain(cell: Cell) -> Cell:
    return Cell(cell.label, cell.defense, {"augment": "none", **cell.settings})


def _changed(source: nn.Module, split: str, seed: int, chosen: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, C, H, W], their classes [N], another class of each, and the images changed until the source answers that."""
    samples = load(chosen.dataset, split)
    if split == "test":
        samples = samples.first(chosen.n or len(samples))
    x, y = samples.batch(torch.arange(len(samples)))
    shift = torch.randint(1, samples.classes, y.shape, generator=torch.Generator().manual_seed(seed))
    other, (size, _, whole) = (y + shift) % samples.classes, str(chosen.eps).partition("/")
    eps = float(size) / float(whole or 1)
    return x, y, other, torch.cat([_towards(source, *part, eps) for part in zip(x.split(500), other.split(500), strict=True)])


def _towards(net: nn.Module, x: Tensor, other: Tensor, eps: float, steps: int = 40) -> Tensor:
    """The images within eps, in linf, that signed steps of a tenth of it lead to."""
    z = x.clone()
    for _ in range(steps):
        z.requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(z), other, reduction="sum"), z)
        z = (z.detach() - eps / 10 * slope.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return z


def _share(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Of answers that are y."""
    with torch.no_grad():
        return float(torch.cat([net(part).argmax(1) for part in x.split(500)]).eq(y).double().mean())


def _course(cell: Cell, seed: int, images: tuple[Tensor, Tensor, Tensor, Tensor], chosen: argparse.Namespace) -> Course:
    """What a training answers after each of its epochs."""
    x, y, other, z = images
    kept = _plain(Cell(cell.label, cell.defense, {**cell.settings, "keep_every": "1", "batch_size": str(chosen.batch_size)}))
    history = record(trained(kept, seed, chosen))["history"]
    nets = [_network(kept, seed, chosen, f"epoch-{entry['epoch']}") for entry in history]
    asked = {CLEAN: (x, y), OWN: (z, y), OTHER: (z, other), ELSE: (x, other)}
    return {name: [_share(net, *pair) for net in nets] for name, pair in asked.items()} | {
        ATTACKED: [entry["pgd"] for entry in history]
    }


def _taught(source: nn.Module, seed: int, chosen: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has seen changed images with the classes of the change alone; those images and those classes."""
    test, folder = load(chosen.dataset, "test"), chosen.results / f"changed-{chosen.dataset}-{chosen.images or 'all'}-{seed}"
    if not (folder / "test.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        *_, other, z = _changed(source, "train", seed, chosen)
        for split, images, labels in (("train", z, other), ("test", *test.batch(torch.arange(len(test))))):
            pixels = (255 * images).round().to(torch.uint8)
            write_arrays(folder / f"{split}.npz", {"x": pixels.permute(0, 2, 3, 1).numpy(), "y": labels.numpy()})
    run = train(
        "standard", dataset=str(folder), model=chosen.model, eps=chosen.eps, seed=seed, name="taught",
        settings={"augment": "none", "epochs": str(chosen.epochs)}, results=folder, device_name=chosen.device,
    )  # fmt: skip
    net, seen = resolve(f"run:{run}?weights=last", test.shape, test.classes).net, load(str(folder), "train")
    return net.eval().requires_grad_(False), *seen.batch(torch.arange(len(seen)))


def _above(course: Course) -> list[float]:
    """How much more often the other class is answered than where nothing shows it."""
    return [shown - chance for shown, chance in zip(course[OTHER], course[ELSE], strict=True)]


def _half(share: list[float], floor: float) -> float:
    """The epoch at which a share was half way from its floor to its highest value."""
    goal = (floor + max(share)) / 2
    epoch = next(epoch for epoch, value in enumerate(share) if value >= goal)
    before = [floor, *share][epoch]
    return epoch + (goal - before) / (share[epoch] - before)


def _over_epochs(courses: dict[str, dict[str, list[Course]]]) -> Table:
    rows = []
    for dataset, kinds in courses.items():
        for kind, seeds in kinds.items():
            for name in (CLEAN, ATTACKED, OWN, OTHER, ELSE):
                shares = [one[name] for one in seeds]
                first, highest, last = ([pick(share) for share in shares] for pick in (_first, max, _last))
                epochs = " ".join(str(share.index(max(share)) + 1) for share in shares)
                rows.append((dataset, kind, name, percent(first), percent(highest), epochs, percent(last)))
    return Table(("data", "training", "share of", "first epoch, %", "highest, %", "in epoch", "last epoch, %"), tuple(rows))


def _first(share: list[float]) -> float:
    return share[0]


def _last(share: list[float]) -> float:
    return share[-1]


def _tests(courses: dict[str, dict[str, list[Course]]]) -> Table:
    """What comes first, and what is learned and lost again; over seeds in pairs."""
    rows = []
    for dataset, kinds in courses.items():
        for kind, seeds in kinds.items():
            above = [_above(one) for one in seeds]
            own, other = [_half(one[OWN], CHANCE) for one in seeds], [_half(share, 0.0) for share in above]
            first, last = [max(share) for share in above], [share[-1] for share in above]
            rows.append((
                dataset, kind, "half way to the highest: own class, other class (epoch)",
                " ".join(f"{a:.1f}/{b:.1f}" for a, b in zip(own, other, strict=True)),
                difference(own, other, unit="epochs", scale=1),
            ))  # fmt: skip
            rows.append((
                dataset, kind, "other class more than unchanged: highest, last (%)",
                " ".join(f"{100 * a:.0f}/{100 * b:.0f}" for a, b in zip(first, last, strict=True)),
                difference(first, last),
            ))  # fmt: skip
    return Table(("data", "training", "two numbers", "a seed each", "second less first"), tuple(rows))


def _of_changes(changes: dict[str, list[Change]]) -> Table:
    names = {
        "clean": "clean accuracy of the network that changes", "other": "its answers to changed images: other class",
        "taught": "clean accuracy of one that saw changed images alone",
        "fit": "its answers to those: the class it was taught",
    }  # fmt: skip
    rows = []
    for dataset, seeds in changes.items():
        for key, name in names.items():
            values = [getattr(one, key) for one in seeds]
            low, high = mean_interval(values)
            rows.append((dataset, name, percent(values), f"{100 * mean(values):.1f}, 95% {100 * low:.1f} to {100 * high:.1f}"))
    return Table(("data", "share", "%, a seed each", "mean"), tuple(rows))


def _figure(courses: dict[str, list[Course]]) -> Chart:
    """Own and other class over the epochs, of both trainings."""
    curves = []
    for kind, seeds in courses.items():
        for name in (OWN, OTHER):
            columns = list(zip(*(one[name] for one in seeds), strict=True))
            points = tuple((float(epoch), 100 * mean(column)) for epoch, column in enumerate(columns, 1))
            band = tuple((100 * max(low, 0), 100 * min(high, 1)) for low, high in map(mean_interval, columns))
            curves.append(Curve(f"{kind}, {name}", points, len(curves), band, dots=False))
    epochs = rising_axis("epoch", [x for curve in curves for x, _ in curve.points])
    return Chart(
        "Of changed images the share for which a network answers their own class and the share for which it answers the class "
        "of the change, over the epochs of standard and of adversarial training; means and intervals over seeds.",
        epochs, Axis("share, %", 0.0, 135.0, tuple((float(tick), str(tick)) for tick in range(0, 101, 20))), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
