"""Do real images have strong, sparse features and weak, dense ones, and is it the former that withstand?

Features that no network has chosen: k-means of the directions of image patches, without labels (after Coates and Ng 2011). An
image has as much of a feature as its patches, side by side, lie along it. Strength is how far that hundredth of all patches
goes that goes furthest; density is the participation ratio over patches, (mean a)^2 / mean a^2 of the amounts a >= 0: 1 where
all have as much. Usefulness is 2 AUC - 1 of the class that the feature tells best. What remains of it when every pixel moves by
eps against the label, and stays in [0, 1], is exact, because the patches do not overlap.

    python tests/studies/patches.py
"""

import argparse
from math import isnan
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from finding import Finding, Table, published
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.cluster import KMeans

from bench.data import load
from bench.pictures.figure import Axis, Chart, Curve
from bench.statistics import holm, mean_interval, rank_correlation, sign_flips

SIZES = {"digits": (0.2, 2, 700), "mnist": (0.3, 4, 5000), "cifar10": (8 / 255, 4, 5000)}
"""eps, the side of a patch, and the images of each half: one makes the features, the other is measured."""
ATOMS, PATCHES = 100, 50000
FIFTHS = 5
USEFUL = 0.1
MINIMUM = 2
"""Dictionaries below which there is no interval."""
Array = NDArray[np.float64]
PAIRS = (
    ("strength", "density"), ("strength", "usefulness"), ("density", "usefulness"),
    ("strength", "quarter"), ("density", "quarter"), ("strength", "whole"), ("density", "whole"),
)  # fmt: skip


class Features(NamedTuple):
    """Of one dictionary, a number for each of its features."""

    strength: Array
    density: Array
    usefulness: Array
    quarter: Array
    """Usefulness under attack, at a quarter of eps."""
    whole: Array
    """At eps."""


def main() -> None:
    """Print and write the finding."""
    parser = published(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--seeds", type=int, default=12)
    chosen = parser.parse_args()
    found = {name: [_features(name, seed) for seed in range(chosen.seeds)] for name in SIZES}
    settings = {"seeds": chosen.seeds, "features": ATOMS, "sizes": {name: list(size) for name, size in SIZES.items()}}
    drawn = _fifths(found)
    Finding("patches", settings, (_kinds(found), _relations(found)), _figure(drawn), drawn).publish(chosen.write)


def _features(name: str, seed: int) -> Features:
    eps, side, half = SIZES[name]
    samples, order = load(name, "train"), np.random.default_rng(seed)
    rows = order.permutation(len(samples))[: 2 * half]
    x, y = samples.batch(torch.from_numpy(rows))
    patches, y = _patches(x.double().numpy(), side), y.numpy()
    middle = patches[:half].reshape(-1, patches.shape[-1]).mean(0)
    atoms = _atoms(patches[:half].reshape(-1, patches.shape[-1]) - middle, order, seed)
    classes, signs = _told_best(((patches[:half] - middle) @ atoms.T).clip(0).sum(1), y[:half])
    seen, own = patches[half:], y[half:, None] == classes[None]
    along = (seen - middle) @ atoms.T
    flat = along.clip(0).reshape(-1, ATOMS)
    push = own == (signs < 0)[None]

    def left(reach: float) -> Array:
        up, down = _moves(seen, atoms, reach)
        return signs * _auc((along + np.where(push[:, None], up, -down)).clip(0).sum(1), own)

    strength, density = np.quantile(flat, 0.99, axis=0), flat.mean(0) ** 2 / np.square(flat).mean(0)
    return Features(strength, density, left(0.0), left(eps / 4), left(eps))


def _moves(patches: Array, atoms: Array, eps: float) -> tuple[Array, Array]:
    """By how much pixels that move by eps, and stay in [0, 1], can raise and lower what lies along each direction."""
    rise, fall = (1 - patches).clip(max=eps), patches.clip(max=eps)
    more, less = atoms.clip(0).T, (-atoms).clip(0).T
    return rise @ more + fall @ less, fall @ more + rise @ less


def _patches(x: Array, side: int) -> Array:
    """Images [N, C, H, W] as patches side by side, [N, P, C * side * side]."""
    n, c, h, w = x.shape
    cut = x[:, :, : h // side * side, : w // side * side].reshape(n, c, h // side, side, w // side, side)
    return np.ascontiguousarray(cut.transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, c * side * side))


def _atoms(patches: Array, order: np.random.Generator, seed: int) -> Array:
    """Directions of length one, [ATOMS, D]."""
    some = patches[order.permutation(len(patches))[:PATCHES]]
    length = np.linalg.norm(some, axis=1)
    some = some[length > 1e-3 * length.max()]
    centres = (
        KMeans(ATOMS, n_init=1, random_state=seed).fit(some / np.linalg.norm(some, axis=1, keepdims=True)).cluster_centers_
    )
    directions: Array = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return directions


def _told_best(amounts: Array, y: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """The class that each feature tells best, and whether by having more of it (1) or less (-1)."""
    every = np.stack([_auc(amounts, np.repeat((y == label)[:, None], ATOMS, 1)) for label in range(int(y.max()) + 1)])
    best = np.abs(every).argmax(0)
    return best, np.sign(every[best, np.arange(ATOMS)])


def _auc(amounts: Array, own: NDArray[np.bool_]) -> Array:
    """2 AUC - 1 of each column; own: whose amounts should be the larger."""
    ranks, count = rankdata(amounts, axis=0), own.sum(0)
    auc: Array = (np.where(own, ranks, 0).sum(0) - count * (count + 1) / 2) / (count * (len(own) - count))
    return 2 * auc - 1


def _kinds(found: dict[str, list[Features]]) -> Table:
    """Useful features that withstand a quarter of eps, and useful ones that do not."""
    rows = []
    for name, seeds in found.items():
        useful = [one.usefulness >= USEFUL for one in seeds]
        robust = [some & (one.quarter >= USEFUL) for some, one in zip(useful, seeds, strict=True)]
        for kind, picked in (("robust", robust), ("non-robust", [a & ~b for a, b in zip(useful, robust, strict=True)])):
            told = [[float(part[some].mean()) for part in one] for one, some in zip(seeds, picked, strict=True) if some.any()]
            count = f"{mean(float(some.sum()) for some in picked):.0f}"
            rows.append(
                (name, kind, count, *(_interval([one[place] for one in told]) for place in range(len(Features._fields))))
            )
    return Table(("data", "useful features", f"of {ATOMS}", *Features._fields), tuple(rows))


def _interval(values: list[float]) -> str:
    if len(values) < MINIMUM:
        return "-"
    low, high = mean_interval(values)
    return f"{mean(values):.2f} ({low:.2f} to {high:.2f})"


def _relations(found: dict[str, list[Features]]) -> Table:
    """Rank correlations over the useful features of a dictionary; the interval and p are over dictionaries."""
    rows, p = [], []
    for name, seeds in found.items():
        for one, other in PAIRS:
            values = [_correlation(seed, one, other) for seed in seeds]
            if any(isnan(value) for value in values):  # all are useless, and equally so
                continue
            low, high = mean_interval(values)
            p.append(sign_flips(values))
            rows.append((name, one, other, f"{mean(values):+.2f}, 95% {max(low, -1):+.2f} to {min(high, 1):+.2f}"))
    held = holm(p).tolist()
    return Table(
        ("data", "of", "and", "rank correlation", "p", "Holm"),
        tuple((*row, f"{a:.2g}", f"{b:.2g}") for row, a, b in zip(rows, p, held, strict=True)),
    )


def _correlation(features: Features, one: str, other: str) -> float:
    useful = features.usefulness >= USEFUL
    return rank_correlation(getattr(features, one)[useful].tolist(), getattr(features, other)[useful].tolist())


def _fifths(found: dict[str, list[Features]]) -> dict[str, dict[str, list[list[float]]]]:
    """What a quarter of eps leaves, of each fifth of the features by strength and by density: a list for each dictionary."""
    return {
        name: {
            key: [[float(one.quarter[fifth].mean()) for fifth in _in_fifths(getattr(one, key))] for one in seeds]
            for key in ("strength", "density")
        }
        for name, seeds in found.items()
    }


def _in_fifths(values: Array) -> list[NDArray[np.int64]]:
    return np.array_split(values.argsort(), FIFTHS)


def _figure(drawn: dict[str, dict[str, list[list[float]]]]) -> Chart:
    curves = []
    for name, of in drawn.items():
        for key, seeds in of.items():
            columns = list(zip(*seeds, strict=True))
            points = tuple((float(place), mean(column)) for place, column in enumerate(columns, 1))
            curves.append(Curve(f"{name}, by {key}", points, len(curves), tuple(map(mean_interval, columns))))
    fifths = tuple((float(fifth), str(fifth)) for fifth in range(1, FIFTHS + 1))
    return Chart(
        "What a quarter of eps leaves of the usefulness of patch features, over fifths of them by strength and by density; "
        "means and intervals over dictionaries.",
        Axis("fifth of the features, from the lowest", 1.0, float(FIFTHS), fifths),
        Axis("2 AUC - 1 at eps / 4", -1.0, 1.7, tuple((tick / 2, f"{tick / 2:g}") for tick in range(-2, 3))), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
