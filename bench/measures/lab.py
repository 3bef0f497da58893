"""The lab's experiments: options as measures have them, results as measurements have them, many seeds with their intervals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import AfterValidator, Field
from scipy.stats import spearmanr, t
from torch import Tensor

from bench import data
from bench.errors import BadInput, UnknownName
from bench.evaluation import Execution
from bench.files import Reporter
from bench.measures.document import columns, number, whole, write
from bench.measures.registry import Curve, Found, Measure, Positive, Whole
from bench.measures.session import PROTOCOL, READ, Answer
from bench.results import Measurement
from bench.science.lab import linear as lines
from bench.science.lab.structured import Activation, Course, Learner, World, accuracy, amounts, departure, train

Radii = Annotated[
    tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...],
    Field(min_length=1, max_length=64), AfterValidator(lambda radii: tuple(sorted(set(radii)))),
]  # fmt: skip
"""Rising, whatever their order was: what is said of the least and of the largest goes by their places."""


class Interval(NamedTuple):
    """The mean over seeds and its 95 % t interval; NaN where there is one seed alone."""

    mean: Tensor
    low: Tensor
    high: Tensor


def over_seeds(values: Tensor) -> Interval:
    """Of values [seeds, ...]."""
    count = len(values)
    half = values.std(0) * (float(t.ppf(0.975, count - 1)) / count**0.5) if count > 1 else values[0] * torch.nan
    return Interval(values.mean(0), values.mean(0) - half, values.mean(0) + half)


def _table(first: tuple[str, Tensor], rows: Mapping[str, Tensor]) -> Curve:
    """Columns of means and of the ends of intervals, from values [seeds, n] each."""
    table = {first[0]: first[1]}
    for name, values in rows.items():
        mean, low, high = over_seeds(values)
        table |= {name: mean, f"{name}, low": low, f"{name}, high": high}
    return table


def linear(
    seeds: range, *, source: Literal["synthetic", "mnist"] = "synthetic", n: Whole = 1000, size: Whole = 20,
    gap: Positive = 0.5, radii: Radii = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.01, 1.25),
    rays: Whole = 100,
) -> Found:  # fmt: skip
    """Robust logistic regression in closed form: the least robust loss over eps, and where the constant classifier is best.

    source: Gaussian clouds of n samples in `size` dimensions, or the first n zeros and ones of MNIST. radii: multiples of the
    threshold. rays: along which the version space is measured.
    """
    rows: dict[str, list[Tensor]] = {}
    thresholds = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x, s = lines.synthetic(n, size, gap, generator) if source == "synthetic" else _zeros_and_ones(n)
        bound = lines.threshold(x, s)
        directions = torch.randn(rays, x.shape[1], generator=generator, dtype=torch.float64)
        # Where the means differ most is where a classifier can be: other rays leave the version space at once.
        directions = directions.abs() * (x[s > 0].mean(0) - x[s < 0].mean(0))
        thresholds.append(bound)
        found = [_at(x, s, share * bound, directions) for share in radii]
        for name in found[0]:
            rows.setdefault(name, []).append(torch.stack([row[name] for row in found]))
    curve = _table(("eps over threshold", torch.tensor(radii)), {name: torch.stack(values) for name, values in rows.items()})
    spaces = torch.stack(rows["reach"])
    values = {
        "threshold eps": float(torch.tensor(thresholds).mean()),
        "version spaces are nested": float(bool((spaces.diff(dim=1) <= 1e-9).all())),
        "largest |w| beyond the threshold": _beyond(radii, torch.stack(rows["|w|_1"])),
    }
    notes = (
        "reach: how far, in the mean over rays, {w: robust loss <= log 2} goes from 0 (b = 0), 100 at most",
        "a constant classifier of balanced classes is on the fence everywhere, and counts as right nowhere",
    )
    return Found(values, {"over eps": curve}, notes=notes)


def _at(x: Tensor, s: Tensor, eps: float, directions: Tensor) -> dict[str, Tensor]:
    model, loss = lines.fit(x, s, eps)
    right = (lines.margins(model, x, s) > 0).double().mean(), (lines.margins(model, x, s, eps) > 0).double().mean()
    reach = lines.reach(directions, x, s, eps).mean()
    names = ("least robust loss", "|w|_1", "accuracy", "robust accuracy", "reach")
    return dict(zip(names, (torch.tensor(loss).double(), model.w.abs().sum(), *right, reach), strict=True))


def _beyond(radii: tuple[float, ...], weights: Tensor) -> float:
    past = [index for index, share in enumerate(radii) if share > 1]
    return float(weights[:, past].max()) if past else float("nan")


def _zeros_and_ones(n: int) -> tuple[Tensor, Tensor]:
    every = data.load("mnist", "train")
    chosen = (every.y < 2).nonzero().squeeze(1)[:n]
    x, y = every.batch(chosen)
    return x.flatten(1).double(), 2.0 * y.double() - 1


def structured(  # noqa: PLR0913 - the options of the experiment
    seeds: range, *, n: Whole = 8, eps: Positive = 0.125, radii: Radii = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    rates: Annotated[tuple[Positive, ...], Field(max_length=16)] = (10.0, 30.0, 100.0, 300.0),
    act: Activation = "smoothed", inner: Literal["sign", "gradient"] = "sign", inner_steps: Whole = 1, rate: Positive = 1.0,
    filters: Whole = 8, q: Annotated[int, Field(ge=2, le=8)] = 3, rho: Positive = 8.0, init: Positive = 0.1, lr: Positive = 4.0,
    steps: Whole = 2000, stop: Positive = 6.0, classes: Annotated[int, Field(ge=2, le=20)] = 2, size: Whole = 4,
    patches: Annotated[int, Field(ge=2, le=2000)] = 170, robust: Whole = 1, alpha: Positive = 1.0, beta: Positive = 0.2375,
    noise: Annotated[float, Field(ge=0)] = 0.02, nonrobust: Whole = 1, overlap: Annotated[float, Field(ge=0, le=1)] = 0.0,
    feature_noise: Annotated[float, Field(ge=0)] = 0.0, cosine: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Found:  # fmt: skip
    """Standard and adversarial training on patches with robust and non-robust features: which of them is learned, over eps.

    radii: of trainings, as multiples of eps; 0 is standard training. rate: of the inner step, a multiple of eps for signs, and
    a factor of the gradient otherwise. rates: of the inner gradient step in the experiment on the phase transition. stop: how
    much of a feature every class must have learned for a training to end.
    """
    world = World(classes, size, patches, robust, alpha, beta, noise, nonrobust, overlap, feature_noise, cosine)
    learner = Learner(filters, act, q, rho, init, lr, inner, inner_steps)
    drawn = [_begin(world, learner, n, seed) for seed in seeds]
    x, y, w = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    how = {"steps": steps, "stop": stop}
    budgets = torch.tensor(radii, dtype=torch.float64) * eps
    courses = [_trained(learner, world, (x, y, w), float(b), rate, how) for b in budgets]
    test = [_data(world, seeds, amounts_) for amounts_ in ({}, {"beta": 0.0}, {"alpha": 0.0})]
    rows = [_read(learner, world, course, test, eps) for course in courses]
    table = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
    curves = {"over eps": _table(("eps", budgets), table), **_over_time(courses, radii)}
    values = {
        "share of A, least eps": float(table["share of A"][:, 0].median()),
        "share of A, largest eps": float(table["share of A"][:, -1].median()),
        "rank correlation of eps and share of A": float(spearmanr(budgets, table["share of A"].median(0).values).statistic)
        if len(radii) > 2 else float("nan"),
        "robust error, least - largest eps": float((table["robust"][:, -1] - table["robust"][:, 0]).mean()),
        **{name: float(holds) for name, holds in world.feasible(eps, q).items()},
    }  # fmt: skip
    if rates:
        curves["phase transition"], values["slope of log time over log 1/rate"] = _transition(
            learner, world, (x, y, w), eps, rates, how
        )
    notes = (
        "share of A: A / (A + B), the mean over classes; robust: accuracy under 10 signed steps of radius eps",
        "robust only and non-robust only: accuracy on samples that show features of that kind alone",
        "time of a phase transition: the first step at which B is below 0.9 of what standard training has",
    )
    return Found(values, curves, notes=notes)


def _begin(world: World, learner: Learner, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return *world.draw(n, generator), learner.begin(world, generator)


def _trained(
    learner: Learner, world: World, begun: tuple[Tensor, Tensor, Tensor], eps: float, rate: float, how: dict[str, Any]
) -> Course:
    ball = torch.full((len(begun[0]),), eps, dtype=torch.float64)
    inner = rate * ball if learner.inner == "sign" else torch.full_like(ball, rate)
    return train(learner, world, *begun, ball if eps else None, inner, **how)


def _data(world: World, seeds: range, amounts_: dict[str, float], n: int = 60) -> tuple[Tensor, Tensor]:
    """Fresh samples for every seed, [S, n, P, d] and [S, n]."""
    drawn = [world.draw(n, torch.Generator().manual_seed(10**6 + seed), **amounts_) for seed in seeds]
    return torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])


def _read(learner: Learner, world: World, course: Course, test: list[tuple[Tensor, Tensor]], eps: float) -> dict[str, Tensor]:
    """What a training came to, a number for every seed, [S]."""
    a, b = amounts(course.w, world)
    ball = torch.full((len(a),), eps, dtype=torch.float64)
    whole_, only_robust, only_other = test
    return {
        "share of A": a.mean(1) / (a.mean(1) + b.mean(1)), "A": a.mean(1), "B": b.mean(1),
        "clean": accuracy(learner, course.w, *whole_), "robust": accuracy(learner, course.w, *whole_, ball),
        "robust only": accuracy(learner, course.w, *only_robust), "non-robust only": accuracy(learner, course.w, *only_other),
        "steps": course.ended.double(),
    }  # fmt: skip


def _over_time(courses: list[Course], radii: tuple[float, ...]) -> dict[str, Curve]:
    """A and B, means over classes, of the least and of the largest eps."""
    return {
        f"A and B at {radii[index]:g} eps": _table(
            ("step", courses[index].at), {"A": courses[index].a.mean(2).T, "B": courses[index].b.mean(2).T}
        )
        for index in dict.fromkeys((0, len(radii) - 1))
    }


def _transition(
    learner: Learner, world: World, begun: tuple[Tensor, Tensor, Tensor], eps: float, rates: tuple[float, ...],
    how: dict[str, Any],
) -> tuple[Curve, float]:  # fmt: skip
    """When B departs from standard training, over the rate of an inner gradient step; and how its logarithm rises."""
    steady = Learner(**{**vars(learner), "inner": "gradient", "inner_steps": 1})
    # Until the end of standard training nothing is over, so that the two can be compared step by step.
    plain = train(steady, world, *begun, None, None, **{**how, "every": 1})
    rows = []
    for rate in rates:
        course = _every_step(steady, world, begun, eps, rate, {**how, "steps": int(plain.at[-1]), "stop": float("inf")})
        last = min(len(course.at), len(plain.at))
        ones, others = course.b.mean(2)[:last], plain.b.mean(2)[:last]
        rows.append([departure(ones[:, s], others[:, s], plain.at[:last]) for s in range(len(begun[0]))])
    times = torch.tensor(rows, dtype=torch.float64)
    seen = ~times.isnan().any(1)
    inverse = 1 / torch.tensor(rates, dtype=torch.float64)
    slope = float("nan")
    if int(seen.sum()) > 1:
        across, up = inverse[seen].log(), times[seen].mean(1).log()
        slope = float(((across - across.mean()) * (up - up.mean())).sum() / ((across - across.mean()) ** 2).sum())
    return _table(("1 / rate", inverse), {"time": times.T}), slope


def _every_step(
    learner: Learner, world: World, begun: tuple[Tensor, Tensor, Tensor], eps: float, rate: float, how: dict[str, Any]
) -> Course:
    return _trained(learner, world, begun, eps, rate, {**how, "every": 1})


EXPERIMENTS = {run.__name__: Measure(run.__name__, run, "experiment") for run in (linear, structured)}


def performed(name: str, options: Mapping[str, Any], seed: int, seeds: int, execution: Execution) -> Answer:
    """The result of an experiment, and its path below results/lab: carried out where it is not there yet."""
    if name not in EXPERIMENTS:
        raise UnknownName("experiment", name, EXPERIMENTS)
    experiment = EXPERIMENTS[name]
    chosen = experiment.configure(options)
    settings = {**chosen, "seeds": seeds}
    content = json.dumps([PROTOCOL, name, settings, seed], sort_keys=True)
    path = execution.results / "lab" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.json"
    for found in () if execution.fresh else whole(path):
        return Answer(found, path, READ)
    if seeds < 1:
        raise BadInput(f"{seeds} seeds; give at least 1")
    with Reporter(f"lab {name}", 1, quiet=execution.quiet):
        came = experiment.run(range(seed, seed + seeds), **chosen)
    document = Measurement(
        measure=f"lab {name}", about=experiment.about, seed=seed, settings=json.loads(json.dumps(settings)), notes=came.notes,
        values={key: number(float(value)) for key, value in came.values.items()},
        curves={key: columns(curve) for key, curve in came.curves.items()},
    )  # fmt: skip
    return Answer(write(path, document, came.arrays), Path(path))
