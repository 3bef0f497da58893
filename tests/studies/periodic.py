"""A budget that is warmed up against one that is constant, where a large eps stalls the training (Liu et al. 2020).

Per cell: in how many epochs each seed was still at chance, robust accuracy of the last weights and of the snapshots' ensemble
under the plan `fast`, and the paired test against the constant budget.

    python tests/studies/periodic.py
    python tests/studies/periodic.py --images 20000 --epochs 16 --only constant cosine
    python tests/studies/periodic.py --images 60000 --model lenet --epochs 100 --set steps=50 --set step=0.025 --set lr=1e-4

The last command has the paper's size.
"""

from study import Cell, compared, judged, options, percent, record, shorten, told, trained

CHANCE = 0.2
"""A validation accuracy below which ten classes are not told apart."""


def main() -> None:
    """Print a row per cell."""
    parser = options(__doc__, dataset="mnist", images=5000, model="lenet?width=8", eps="0.4", epochs=10, seeds=3, n=500)
    parser.add_argument("--set", action="append", default=[], help="a setting of all cells, as key=value")
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    base = {"steps": "10", "step": "0.1", "lr": "1e-3", **dict(pair.split("=", 1) for pair in chosen.set)}
    cells = (
        Cell("constant", "periodic_budget", {**base, "schedule_eps": "const", "eps_max": "1"}),
        Cell("cosine", "periodic_budget", {**base, "schedule_eps": "cosine", "eps_max": "1.5"}),
        Cell("linear", "periodic_budget", {**base, "schedule_eps": "linear", "eps_max": "2"}),
        Cell("cosine-periodic", "periodic_budget", {**base, "schedule_eps": "cosine", "periods": "[0.5, 0.75, 1.0]"}),
    )
    rows, constant = [], None
    for cell in cells:
        if chosen.only and cell.label not in chosen.only:
            continue
        runs = [trained(cell, seed, chosen) for seed in range(chosen.seeds)]
        stalled = [sum(entry["clean"] < CHANCE for entry in record(run)["history"]) for run in runs]
        kinds = ["last"] + ["ensemble"] * (runs[0] / "ensemble.safetensors").exists()
        for kind in kinds:
            found = [judged(run, chosen, weights=kind) for run in runs]
            standing = [part for _, part in found]
            constant = constant or standing
            rows.append((
                cell.label, kind, " ".join(map(str, stalled)), percent(card.clean_accuracy for card, _ in found),
                percent(card.robust_accuracy for card, _ in found),
                "" if standing is constant else compared(standing, constant),
            ))  # fmt: skip
        told(rows, ("budget", "weights", "epochs at chance", "clean", "fast", "against constant"))


if __name__ == "__main__":
    main()
