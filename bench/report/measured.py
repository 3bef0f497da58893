"""The pictures of what `gauntlet measure` wrote of a network: from a document to figures, for pages and papers alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.escape import line
from bench.measures import Measurement
from bench.pictures import TONES, Axis, Chart, Curve, Figure, Heat, rising_axis

Arrays = Mapping[str, NDArray[Any]]
POINTS, SIDE = 120, 51
"""Of a curve that are drawn, and of a side of a plane; the files have them all."""
_LARGEST, _NAME = 1e15, 60


class View(NamedTuple):
    """A picture of a measurement with its words."""

    title: str
    figure: Figure
    told: str


class _Lines(NamedTuple):
    """Columns of a curve over its first one."""

    title: str
    curve: str
    columns: Mapping[str, str]
    """What each is called in the picture."""
    y: str
    x: str = ""
    told: str = ""
    band: tuple[str, str] | None = None
    """Columns around the first one."""
    log: str = ""
    """The axes that are logarithmic."""
    least: float | None = 0.0
    """Where the vertical axis begins, at most."""


_LOSSES = {"clean": "clean", "adversarial": "adversarial"}
_CHANGES = {"change": "change", "by weights": "by weights", "by perturbations": "by perturbations"}
_COSINES = {"cosine": "gradients", "cosine of perturbations": "perturbations", "cosine of signs": "their signs"}
_CHANGED = (
    "Of the adversarial loss's gradient between two nearby networks: by the weights alone, and by perturbations that moved."
)
_SPECIAL = "How much better the kernel of a class's logit fits the labels of a class than kernels do on average."
_QUANTILES = {"50%": "median", "mean": "mean"}
_PICTURES: Mapping[str, Sequence[_Lines]] = {
    "linearity": (
        _Lines("First-order error", "over eps", {"error, median": "median", "error of the mean": "of the mean"},
               "share of the change", told="0: the loss is linear that far. 1: first order foretells nothing."),
        _Lines("Length of perturbations", "over eps", {"l2 size": "found", "eps sqrt(d)": "longest"}, "l2 norm",
               told="What an ascent ends with, beside the longest that the ball allows."),
        _Lines("Local linearity", "over eps", {"cosine": "cosine"}, "cosine of gradients",
               told="Between the gradients at the image and at the end of the ascent."),
    ),
    "path": (
        _Lines("Loss along the attack", "loss", _QUANTILES, "cross-entropy", "step",
               "Shaded: from the 5 % to the 95 % quantile.", ("5%", "95%")),
        _Lines("Margin along the attack", "margin", _QUANTILES, "best wrong logit less the true one", "step",
               "Above 0 the image is fooled. Step -1 is the clean image, step 0 the random start.", ("5%", "95%"), least=None),
    ),
    "curvature": (
        _Lines("Largest eigenvalues of the Hessian", "eigenvalues", _LOSSES, "eigenvalue, log scale", "rank",
               "For the weights, of the clean loss and of the loss at fixed perturbations.", log="y", least=None),
    ),
    "scattering": (
        _Lines("Change of the gradient over eps", "over eps", _CHANGES, "l2 norm", told=_CHANGED),
        _Lines("Cosines over eps", "over eps", _COSINES, "cosine", told="Between the two networks.", least=None),
        _Lines("Change of the gradient over the distance", "over the distance", _CHANGES, "l2 norm, log scale",
               "distance of the weights, log scale", _CHANGED, log="xy", least=None),
        _Lines("Cosines between kept epochs", "between kept epochs", _COSINES, "cosine", "epoch", least=None),
    ),
    "kernel": (
        _Lines("How fast the kernel turns", "over epochs", {"velocity": "velocity", "clean to attacked": "to attacked"},
               "1 - cosine", "epoch", "Distance to the kernel of the epoch before, and from the clean to the attacked kernel."),
        _Lines("Effective rank", "over epochs", {"effective rank": "clean", "attacked effective rank": "attacked"},
               "directions", "epoch"),
        _Lines("Polar dynamics: how far", "over epochs", {"radius": "whole", "top-20 radius": "top 20"},
               "share of the whole way", "epoch", "|K_t - K_0| / |K_T - K_0|."),
        _Lines("Polar dynamics: how turned", "over epochs", {"angle": "whole", "top-20 angle": "top 20"}, "angle to K_0",
               "epoch"),
    ),
    "landscape": (
        _Lines("Loss along a line", "slice", _LOSSES, "cross-entropy", "position",
               "Through the weights, each filter of the direction as long as the weights' own; attacked anew at each point."),
        _Lines("Loss around an image", "slice", {"50%": "median", "mean": "mean"}, "cross-entropy", "position, in eps",
               "Along the steepest direction. Shaded: from the 5 % to the 95 % quantile.", ("5%", "95%")),
    ),
    "lipschitz": (
        _Lines("Slope of the margin", "over eps", {"guaranteed": "guaranteed", "sampled": "sampled"}, "dual norm, log scale",
               told="No slope in the ball is above the guaranteed one; the sampled one is the largest found. Medians.", log="y",
               least=None),
        _Lines("Proved by it", "over eps", {"proved": "proved"}, "share of samples"),
    ),
}  # fmt: skip
"""What each measure shows, where its document has it."""


def views(found: Measurement, arrays: Arrays) -> list[View]:
    """All that there is to see of a measurement, in an order; of a measure that is not known here its curves as they are."""
    if found.measure == "connectivity":
        return list(_connected(found))
    if found.measure in _PICTURES:
        drawn = [(spec, _chart(found, spec)) for spec in _PICTURES[found.measure]]
        shown = [View(spec.title, chart, spec.told) for spec, chart in drawn if chart]
        return [*shown, *_densities(found), *_grids(found, arrays)]
    return list(islice(_plain(found), 2))


def _chart(found: Measurement, spec: _Lines) -> Chart | None:
    """A spec's picture; None where the document has nothing of it."""
    table = found.curves.get(spec.curve, {})
    x, *_ = [*table.values()] or [()]
    first = next(iter(table), "")
    curves: list[Curve] = []
    for column, name in spec.columns.items():
        band = tuple(table.get(end, ()) for end in spec.band) if spec.band and not curves else ()
        rows = _rows([x, table.get(column, ()), *band], spec.log)
        if len(rows) > 1:
            points, ends = tuple((row[0], row[1]) for row in rows), tuple((row[2], row[3]) for row in rows if len(row) == 4)
            curves.append(Curve(name, points, len(curves), ends))
    label = spec.x or {"eps": f"eps, {found.norm}, input units"}.get(first, first)
    return _drawn(spec.title, curves, label, spec.y, spec.log, spec.least)


def _drawn(title: str, curves: Sequence[Curve], x: str, y: str, log: str = "", least: float | None = None) -> Chart | None:
    if not curves:
        return None
    across = [at for curve in curves for at, _ in curve.points]
    up = [at for curve in curves for at in (*(v for _, v in curve.points), *(end for ends in curve.band for end in ends))]
    scale: Axis = rising_axis(y, up, log="y" in log, least=None if "y" in log else least)
    return Chart(f"{title}.", rising_axis(x, across, log="x" in log, tight=True), scale, tuple(curves))


def _rows(columns: Sequence[Sequence[float | None]], log: str = "") -> list[tuple[float, ...]]:
    """Rows that have every number, thinned; what no scale can show is left out."""
    size = min(map(len, columns), default=0)
    every = range(size) if size <= POINTS else [round(step * (size - 1) / (POINTS - 1)) for step in range(POINTS)]
    rows = []
    for at in every:
        told = [column[at] for column in columns]
        row = [_shown(value) for value in told if value is not None and abs(value) < _LARGEST]
        shown = len(row) == len(columns) and not ("x" in log and row[0] <= 0) and not ("y" in log and min(row[1:]) <= 0)
        if shown:
            rows.append(tuple(row))
    return rows


def _shown(value: float) -> float:
    """To six digits: less is nothing that a picture shows, and more than an axis can divide."""
    return 0.0 if abs(value) < 1 / _LARGEST else float(f"{value:.6g}")


def _densities(found: Measurement) -> Iterator[View]:
    """The spectra of both losses in one picture, down to a millionth of their heights, where bumps hide nothing."""
    curves: list[Curve] = []
    for kind in _LOSSES:
        table = found.curves.get(f"{kind} density", {})
        rows = _rows([table.get("eigenvalue", ()), table.get("density", ())], "y")
        floor = 1e-6 * max((y for _, y in rows), default=0.0)
        if len(rows) > 1:
            curves.append(Curve(kind, tuple((x, max(y, floor)) for x, y in rows), len(curves), dots=False))
    if chart := _drawn("Spectral density of the Hessian", curves, "eigenvalue", "density, log scale", "y"):
        yield View(
            "Spectral density of the Hessian", chart, "By stochastic Lanczos quadrature; cut off at a millionth of its height."
        )


def _connected(found: Measurement) -> Iterator[View]:
    """The straight line and the curve between two networks, in one picture for each loss."""
    for column, title in (("adversarial", "Adversarial loss on the way"), ("clean", "Clean loss on the way")):
        curves: list[Curve] = []
        for name in ("line", "curve"):
            table = found.curves.get(name, {})
            rows = _rows([table.get("t", ()), table.get(column, ())])
            if len(rows) > 1:
                curves.append(Curve({"line": "straight", "curve": "Bezier"}[name], tuple((x, y) for x, y in rows), len(curves)))
        chart = _drawn(title, curves, "share of the way", "cross-entropy", least=0.0)
        if chart:
            yield View(title, chart, "From this network at 0 to the other one at 1; norms have the statistics of each point.")


def _grids(found: Measurement, arrays: Arrays) -> Iterator[View]:
    """What lies in the arrays: planes of a landscape, matrices of a kernel."""
    if found.measure == "landscape" and "position" in arrays:
        for name in ("clean", "adversarial", "loss"):
            if (plane := _plane(arrays.get(name))) is not None and min(plane.shape) > 2:
                title = "Loss on a plane" if name == "loss" else f"{name.capitalize()} loss on a plane"
                yield _field(title, plane, arrays["position"])
    if found.measure == "kernel":
        for name in ("clean specialisation", "attacked specialisation"):
            if (matrix := _plane(arrays.get(name))) is not None and max(matrix.shape) <= 20:
                yield View(f"{name.capitalize()} of classes", _matrix(name, matrix, "labels of", "kernel of"), _SPECIAL)


def _plane(array: NDArray[Any] | None) -> NDArray[np.float64] | None:
    """Numbers in two dimensions, the mean over samples where there are three; None where it is nothing of that kind."""
    if array is None or array.dtype.kind != "f" or array.ndim not in (2, 3) or not array.size:
        return None
    plane: NDArray[np.float64] = np.asarray(array, dtype=np.float64)
    plane = plane.mean(0) if plane.ndim == 3 else plane
    return plane if np.isfinite(plane).all() and np.abs(plane).max() < _LARGEST else None


def _field(title: str, plane: NDArray[np.float64], at: NDArray[Any]) -> View:
    """A plane as a shaded grid without numbers."""
    rows, columns = (np.unique(np.linspace(0, size - 1, min(size, SIDE)).round().astype(int)) for size in plane.shape)
    rows = rows[::-1]  # upwards
    kept = plane[np.ix_(rows, columns)]
    low, high = float(kept.min()), float(kept.max())
    shades = (kept - low) / (high - low) if high > low else np.zeros(kept.shape)
    known = at.ravel()[: max(plane.shape)].tolist() if at.dtype.kind == "f" else []
    names = [f"{0.0 if abs(value) < 1e-9 else value:.2g}" for value in known]
    names += [""] * (max(plane.shape) - len(names))
    figure = Heat(
        f"{title}, from {low:.3g} to {high:.3g}.", tuple(names[row] for row in rows), tuple(names[at] for at in columns),
        tuple(map(tuple, shades.tolist())), tuple(("",) * len(columns) for _ in rows), "first direction", "second direction",
        fine=True,
    )  # fmt: skip
    return View(title, figure, f"Loss from {low:.3g}, faint, to {high:.3g}, full.")


def _matrix(about: str, matrix: NDArray[np.float64], across: str, down: str) -> Heat:
    low, high = float(matrix.min()), float(matrix.max())
    shades = (matrix - low) / (high - low) * 0.9 if high > low else np.zeros(matrix.shape)
    rows, columns = (tuple(map(str, range(size))) for size in matrix.shape)
    texts = tuple(tuple(f"{value:.2f}" if abs(value) < 100 else f"{value:.1e}" for value in row) for row in matrix.tolist())
    return Heat(f"{about.capitalize()}.", rows, columns, tuple(map(tuple, shades.tolist())), texts, across, down)


def _plain(found: Measurement) -> Iterator[View]:
    for name, table in found.curves.items():
        first, *others = table or {"": ()}
        curves: list[Curve] = []
        for column in others[:TONES]:
            rows = _rows([table[first], table[column]])
            if len(rows) > 1:
                curves.append(Curve(line(column)[:_NAME], tuple((x, y) for x, y in rows), len(curves)))
        if chart := _drawn(line(name)[:_NAME], curves, line(first)[:_NAME], "value"):
            yield View(line(name)[:_NAME], chart, "")
