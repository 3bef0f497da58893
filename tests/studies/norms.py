"""Batch norms in adversarial training: which statistics, in which mode, and what each costs or gains.

PGD training of one small network with batch norms, each choice against the default (crafting in train mode, which moves the
kept statistics; answers with them), over seeds in pairs.

    python tests/studies/norms.py
"""

from statistics import mean

from finding import Finding, Table, decided, published
from study import LOOK, Cell, difference, judged, options, percent, shorten, trained

from bench.pictures.figure import Chart, Mark, percent_axis
from bench.statistics import holm, mean_interval, paired

CELLS = (
    Cell("default", "pgd_at"),
    Cell("craft=eval", "pgd_at", {"craft": "eval"}),
    Cell("craft_updates=false", "pgd_at", {"craft_updates": "false"}),
    Cell("statistics=adversarial", "pgd_at", {"statistics": "adversarial"}),
    Cell("statistics=clean", "pgd_at", {"statistics": "clean"}),
    Cell("biased_norms=true", "pgd_at", {"biased_norms": "true"}),
)


def main() -> None:
    """Print and write the finding."""
    parser = published(options(__doc__, dataset="digits", model="digits_bn", eps="0.2", epochs=10, seeds=5))
    parser.add_argument("--steps", default="5")
    chosen = parser.parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    clean, robust = {}, {}
    for cell in CELLS:
        if chosen.only and cell.label not in ("default", *chosen.only):
            continue
        made = Cell(cell.label.replace("=", "-"), cell.defense, {"steps": chosen.steps, **cell.settings})
        cards = [judged(trained(made, seed, chosen), chosen, weights="last", plan=LOOK)[0] for seed in range(chosen.seeds)]
        clean[cell.label] = [card.clean_accuracy for card in cards]
        robust[cell.label] = [card.robust_accuracy for card in cards]
    base, others = robust["default"], [label for label in robust if label != "default"]
    adjusted = dict(zip(others, holm([paired(base, robust[label]).p for label in others]).tolist(), strict=True))
    rows = tuple(
        (label, percent(clean[label]), percent(robust[label]),
         *((difference(base, robust[label]), f"{adjusted[label]:.2g}") if label in adjusted else ("", "")))
        for label in robust
    )  # fmt: skip
    table = Table(("norms", "clean", "robust", "against the default", "Holm"), rows)
    Finding("norms", decided(chosen), (table,), _figure(clean, robust), {"clean": clean, "robust": robust}).publish(
        chosen.write
    )


def _figure(clean: dict[str, list[float]], robust: dict[str, list[float]]) -> Chart:
    """Robust over clean accuracy, a mark for each choice."""
    marks = tuple(
        Mark(
            label, (100 * mean(clean[label]), 100 * mean(of)), tuple(100 * end for end in mean_interval(of)),  # type: ignore[arg-type]
            tuple((100 * c, 100 * r) for c, r in zip(clean[label], of, strict=True)),
        )
        for label, of in robust.items()
    )  # fmt: skip
    across = [100 * value for values in clean.values() for value in values]
    up = [100 * value for values in robust.values() for value in values]
    return Chart(
        "Robust over clean accuracy of PGD training by how its batch norms are handled; means, intervals and seeds.",
        percent_axis("clean accuracy, %", across, whole=False), percent_axis("robust accuracy, %", up, whole=False),
        marks=marks,
    )  # fmt: skip


if __name__ == "__main__":
    main()
