"""The direction of what rfi, ema, swa and awp are published to do, on the same images.

Against plain PGD training, the weights after the last epoch and those that validation selects, each with their like.

The commands, of which the last has the papers' size; few images that are never moved are learned by heart within the second:

    python tests/studies/directions.py
    python tests/studies/directions.py --seeds 5 --schedule constant --only plain ema
    python tests/studies/directions.py --dataset cifar10 --images 2500 --augment none --model "preact_resnet18?width=8" \\
        --eps 8/255 --steps 5 --epochs 60 --n 500
    python tests/studies/directions.py --dataset cifar10 --images 50000 --model preact_resnet18 --eps 8/255 --epochs 200
"""

from itertools import product

from study import Cell, compared, judged, options, percent, record, shorten, told, trained

from bench.results.outcomes import Flags

CELLS = (
    Cell("plain", "pgd_at"),
    Cell("ema", "pgd_at", {"ema": "0.995"}),
    Cell("swa", "pgd_at", {"swa": "0.5"}),
    Cell("awp", "pgd_at", {"awp": "0.01"}),
)


def main() -> None:
    """Print a row per cell."""
    parser = options(__doc__, dataset="digits", eps="0.2", epochs=40, seeds=3)
    parser.add_argument("--steps", default="10")
    parser.add_argument("--schedule", default="piecewise:0.5,0.75")
    parser.add_argument("--augment", help="that of the data set unless given")
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    common = {"steps": chosen.steps, "schedule": chosen.schedule, **({"augment": chosen.augment} if chosen.augment else {})}
    rows: list[tuple[str, ...]] = []
    plain: dict[str, list[Flags]] = {}
    for cell in CELLS:
        if chosen.only and cell.label not in chosen.only:
            continue
        runs = [
            trained(Cell(cell.label, cell.defense, {**cell.settings, **common}), seed, chosen) for seed in range(chosen.seeds)
        ]
        fall = [
            max(entry["pgd"] for entry in history) - history[-1]["pgd"] for history in (record(run)["history"] for run in runs)
        ]
        for weights, test_time in product(("last", "best"), ("", "rfi") if cell.label == "plain" else ("",)):
            found = [judged(run, chosen, weights=weights, test_time=test_time) for run in runs]
            standing = [part for _, part in found]
            first = plain.setdefault(weights, standing) is standing
            rows.append((
                cell.label + (f"+{test_time}" if test_time else ""), weights, percent(card.clean_accuracy for card, _ in found),
                percent(card.robust_accuracy for card, _ in found), percent(part for part in fall),
                "" if first else compared(standing, plain[weights]),
            ))  # fmt: skip
        told(rows, ("cell", "weights", "clean", "fast", "best minus last PGD-10", "against plain"))


if __name__ == "__main__":
    main()
