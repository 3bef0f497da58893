"""Noise against catastrophic overfitting: when does single-step training collapse, with what noise, and does it recover?

A collapse is an event with a time (bench/results/collapse.py): Kaplan-Meier curves over the seeds, and the exact log-rank test
of each method against plain FGSM training, Holm over all. A collapse that recovers ends with PGD-10 accuracy above half of the
best before it. For the cells that are told to, the kernel's effective rank on both sides of the collapse.

    python tests/studies/collapse.py
"""

from argparse import Namespace
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from finding import Finding, Table, decided, published
from study import Cell, options, record, shorten, trained

from bench.evaluation import Execution
from bench.measures import MeasureRequest, measured
from bench.pictures.figure import Chart, Curve, percent_axis, rising_axis
from bench.results.collapse import collapsed
from bench.statistics import holm, kaplan_meier, log_rank, paired

EQUAL = "1.1547"
"""2 / sqrt(3): the deviation of n_fgsm's uniform noise, as a share of eps."""
CELLS = (
    Cell("fgsm_at", "fgsm_at"),
    Cell("n_fgsm", "n_fgsm"),
    Cell("noise-pre-isotropic", "noise_fgsm", {"placement": "pre", "covariance": "isotropic", "sigma": EQUAL}),
    Cell("noise-pre-gradient", "noise_fgsm", {"placement": "pre", "covariance": "gradient", "sigma": EQUAL}),
    Cell("noise-post-isotropic", "noise_fgsm", {"placement": "post", "covariance": "isotropic", "sigma": EQUAL}),
    Cell("noise-pre-small", "noise_fgsm", {"placement": "pre", "covariance": "isotropic"}),
    Cell("fast_at", "fast_at"),
    Cell("zerograd", "zerograd"),
    Cell("gradalign", "gradalign"),
    Cell("free_at", "free_at"),
    Cell("fgsm_pgi", "fgsm_pgi"),
    Cell("fgsm_pgk", "fgsm_pgk"),
    Cell("multigrad", "multigrad"),
    Cell("noise-pre-complement", "noise_fgsm", {"placement": "pre", "covariance": "complement", "sigma": EQUAL}),
    Cell("noise-pre-spectral", "noise_fgsm", {"placement": "pre", "covariance": "spectral", "sigma": EQUAL}),
    Cell("noise-penalty", "noise_fgsm", {"placement": "none", "covariance": "isotropic", "sigma": EQUAL, "penalty": "1"}),
)
DRAWN = ("fgsm_at", "fast_at", "zerograd", "n_fgsm", "noise-pre-isotropic", "noise-pre-gradient")
REPLAYS = 8
"""Of free_at, whose epochs are so many times fewer."""


class Seeds(NamedTuple):
    """A cell's trainings."""

    label: str
    histories: list[list[dict[str, Any]]]
    passes: float

    @property
    def fell(self) -> list[int | None]:
        """The epoch of each collapse, counted from 1."""
        return [None if (at := collapsed(history)) is None else at + 1 for history in self.histories]

    def times(self, epochs: int) -> tuple[list[float], list[bool]]:
        """When each collapsed, in epochs of a training that has so many, and whether it did."""
        scale = epochs / len(self.histories[0])
        return [scale * at if at else float(epochs) for at in self.fell], [at is not None for at in self.fell]

    def recovered(self) -> int:
        """How many ended above half of the best before they fell."""
        return sum(
            at is not None and history[-1]["pgd"] > max(entry["pgd"] for entry in history[: at - 1]) / 2
            for at, history in zip(self.fell, self.histories, strict=True)
        )


def main() -> None:
    """Print and write the finding."""
    parser = published(options(__doc__, dataset="digits", eps="0.3", epochs=30, seeds=5))
    parser.add_argument("--set", action="append", default=[], help="a setting of all cells, as key=value")
    parser.add_argument("--ranks", nargs="*", default=["fgsm_at", "n_fgsm"], help="cells whose effective rank is measured")
    parser.add_argument("--images-of-kernel", type=int, default=50)
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    common = dict(pair.split("=", 1) for pair in chosen.set)
    found, runs = {}, {}
    for cell in CELLS:
        if chosen.only and cell.label not in chosen.only:
            continue
        settings = {"keep_every": "1", **common, **cell.settings} if cell.label in chosen.ranks else {**common, **cell.settings}
        if cell.defense == "free_at":
            settings["epochs"] = str(max(round(int(chosen.epochs) / REPLAYS), 1))
        runs[cell.label] = [trained(Cell(cell.label, cell.defense, settings), s, chosen) for s in range(chosen.seeds)]
        records = [record(run) for run in runs[cell.label]]
        passes = mean(entry["training"]["backwards_per_sample"] for entry in records)
        found[cell.label] = Seeds(cell.label, [entry["history"] for entry in records], passes)
    tables = [_table(found, int(chosen.epochs))]
    ranks = {label: [_ranks(run, chosen) for run in runs[label]] for label in chosen.ranks if label in runs}
    if len(ranks) > 1:
        tables.append(_rank_table(found, ranks))
    settings = {
        k: str(v) for k, v in vars(chosen).items() if k in ("dataset", "images", "model", "epochs", "seeds", "eps", "set")
    }
    numbers = {
        "pgd": {label: [[entry["pgd"] for entry in history] for history in cell.histories] for label, cell in found.items()},
        "collapsed in": {label: cell.fell for label, cell in found.items()},
        "effective ranks": ranks,
    }
    Finding("collapse", decided(chosen), tables, _figure(found, int(chosen.epochs)), numbers).publish(chosen.write)


def _table(found: dict[str, Seeds], epochs: int) -> Table:
    plain = found["fgsm_at"].times(epochs)
    p = {label: log_rank(*plain, *cell.times(epochs)) for label, cell in found.items() if label != "fgsm_at"}
    adjusted = dict(zip(p, holm(list(p.values())).tolist(), strict=True))
    rows = []
    for label, cell in found.items():
        last = [history[-1] for history in cell.histories]
        late = [history[len(history) // 4 :] for history in cell.histories]
        rows.append((
            label, f"{cell.passes:.0f}", f"{sum(at is not None for at in cell.fell)} of {len(cell.fell)}",
            ", ".join(str(at) for at in cell.fell if at) or "-", str(cell.recovered()),
            f"{100 * mean(entry['clean'] for entry in last):.1f}", f"{100 * mean(entry['fgsm'] for entry in last):.1f}",
            " ".join(f"{100 * entry['pgd']:.0f}" for entry in last),
            " ".join(f"{100 * min(entry['pgd'] for entry in part):.0f}" for part in late),
            f"{p[label]:.2g} ({adjusted[label]:.2g})" if label in p else "",
        ))  # fmt: skip
    heads = (
        "cell",
        "passes",
        "collapsed",
        "in epoch",
        "recovered",
        "clean",
        "FGSM",
        "PGD-10",
        "least PGD-10",
        "log-rank p (Holm)",
    )
    return Table(heads, tuple(rows))


def _ranks(run: Path, chosen: Namespace) -> list[float]:
    """The effective rank of the clean kernel after every epoch."""
    options_ = {"n": chosen.images_of_kernel, "checkpoints": True, "specialisation": False}
    request = MeasureRequest.of(model=f"run:{run}?weights=last", measure="kernel", options=options_)
    answer = measured(request, Execution(chosen.results, chosen.device, quiet=True))
    return [float(value) for value in answer.found.curves["over epochs"]["effective rank"] if value is not None]


def _rank_table(found: dict[str, Seeds], ranks: dict[str, list[list[float]]]) -> Table:
    """At the epochs of fgsm_at's collapses (their median for a seed without one): before, at, and at the end."""
    fell = found["fgsm_at"].fell
    usual = round(median(at for at in fell if at)) if any(fell) else len(ranks["fgsm_at"][0]) // 2
    rows = []
    for label, seeds in ranks.items():
        at = [min(max(epoch or usual, 2), len(seed)) for epoch, seed in zip(fell, seeds, strict=True)]
        before, then = ([seed[e - back - 1] for e, seed in zip(at, seeds, strict=True)] for back in (1, 0))
        end = [seed[-1] for seed in seeds]
        rows.append((label, _few(before), _few(then), _few(end), _change(before, then), _change(before, end)))
    heads = ("cell", "epoch before", "epoch of the collapse", "last epoch", "then - before", "last - before")
    return Table(heads, tuple(rows))


def _few(values: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _change(before: list[float], after: list[float]) -> str:
    gap = paired(before, after)
    return f"{gap.mean:+.2f}, 95% {gap.low:+.2f} to {gap.high:+.2f}, p = {gap.p:.2g}"


def _figure(found: dict[str, Seeds], epochs: int) -> Chart:
    curves = []
    for tone, label in enumerate(label for label in DRAWN if label in found):
        s = kaplan_meier(*found[label].times(epochs))
        points = ((0.0, 100.0), *((t, 100 * v) for t, v in zip(s.times, s.left, strict=True)))
        band = ((100.0, 100.0), *((100 * a, 100 * b) for a, b in zip(s.low, s.high, strict=True)))
        curves.append(Curve(label, (*points, (float(epochs), points[-1][1])), tone, (*band, band[-1]), dots=False, steps=True))
    return Chart(
        "The share of trainings that have not collapsed after each epoch, by method, with Greenwood's intervals.",
        rising_axis("epoch", [0.0, float(epochs)]), percent_axis("trainings that have not collapsed, %"), tuple(curves),
    )  # fmt: skip


if __name__ == "__main__":
    main()
