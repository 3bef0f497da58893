"""Whether training in bfloat16 costs accuracy: the same recipe in both precisions, over seeds.

Per cell: clean and robust accuracy (plan `fast`) and seconds of training for each seed, and the paired test against float32.

    python tests/studies/precision.py
    python tests/studies/precision.py --images 50000 --model preact_resnet18 --epochs 30 --n 1000

The second command has the size of the papers.
"""

from study import Cell, compared, judged, options, percent, record, shorten, told, trained


def main() -> None:
    """Print a row per precision."""
    model = "preact_resnet18?width=8"
    parser = options(__doc__, dataset="cifar10", images=5000, model=model, eps="8/255", epochs=15, seeds=3, n=500)
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    rows, exact = [], None
    for precision in ("float32", "bf16"):
        cell = Cell(precision, "fast_at", {"precision": precision})
        runs = [trained(cell, seed, chosen) for seed in range(chosen.seeds)]
        found = [judged(run, chosen) for run in runs]
        standing = [part for _, part in found]
        exact = exact or standing
        seconds = [f"{record(run)['training']['seconds']:.0f}" for run in runs]
        rows.append((
            precision, percent(card.clean_accuracy for card, _ in found), percent(card.robust_accuracy for card, _ in found),
            " ".join(seconds), "" if standing is exact else compared(standing, exact),
        ))  # fmt: skip
        told(rows, ("precision", "clean", "fast", "seconds", "against float32"))


if __name__ == "__main__":
    main()
