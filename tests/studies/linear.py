"""Robust linear classifiers: from which eps on is the constant answer the best one, and are version spaces nested?

python tests/studies/linear.py
"""

import argparse
from pathlib import Path

from finding import Finding, Table, decided, published

from bench.evaluation import Execution
from bench.measures import Measurement, performed
from bench.pictures.figure import Chart, Curve, Moment, rising_axis

SOURCES = {"clouds": {}, "MNIST 0/1": {"source": "mnist"}}
COLUMNS = {
    "least robust loss": "least robust loss",
    "|w|_1": "l1 norm of w",
    "accuracy": "accuracy",
    "robust accuracy": "robust",
    "reach": "reach",
}
"""As the lab and as the table has them, where a bar would begin another column."""


def main() -> None:
    """Print and write the finding."""
    parser = published(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("results/studies"))
    chosen = parser.parse_args()
    where = Execution(chosen.results, quiet=True)
    found = {name: performed("linear", given, 0, chosen.seeds, where).found for name, given in SOURCES.items()}
    rows = tuple(
        (name, f"{share:g}", *(f"{document.curves['over eps'][column][row]:.3g}" for column in COLUMNS))
        for name, document in found.items()
        for row, share in enumerate(document.curves["over eps"]["eps over threshold"])
    )
    facts = tuple((name, *(f"{value:.3g}" for value in document.values.values())) for name, document in found.items())
    tables = (
        Table(("data", *(name.replace("|", "") for name in next(iter(found.values())).values)), facts),
        Table(("data", "eps over threshold", *COLUMNS.values()), rows),
    )
    numbers = {name: dict(document.curves["over eps"]) for name, document in found.items()}
    Finding("linear", decided(chosen), tables, _figure(found), numbers).publish(chosen.write)


def _figure(found: dict[str, Measurement]) -> Chart:
    curves = []
    for tone, (name, document) in enumerate(found.items()):
        curve = document.curves["over eps"]
        columns = (curve[f"least robust loss{end}"] for end in ("", ", low", ", high"))
        loss, low, high = ([float(value or 0) for value in column] for column in columns)
        across = [float(value or 0) for value in curve["eps over threshold"]]
        band = tuple(zip(low, high, strict=True))
        curves.append(Curve(name, tuple(zip(across, loss, strict=True)), tone, band))
    return Chart(
        "The least robust loss of a linear classifier over eps as a share of the threshold, beyond which it is that of a "
        "constant answer.",
        rising_axis("eps over threshold", [x for x, _ in curves[0].points]), rising_axis("least robust loss", [0.0, 0.7]),
        tuple(curves), moments=(Moment(1.0, "constant is best"),),
    )  # fmt: skip


if __name__ == "__main__":
    main()
