"""Robust feature inference: fewer directions of the last features, at test time and without training, over their number k.

Of networks that PGD training made (those of directions.py under a constant rate), over seeds in pairs against the same
networks as they are. k is not chosen here: every one of them is shown.

    python tests/studies/inference.py
"""

from statistics import mean

from finding import Finding, Table, decided, published
from study import LOOK, Cell, difference, judged, options, percent, shorten, trained

from bench.pictures.figure import Chart, Curve, Moment, rising_axis
from bench.statistics import holm, mean_interval, paired

NUMBERS = (2, 5, 10, 20, 40)
RANKINGS = ("class",)


def main() -> None:
    """Print and write the finding."""
    chosen = published(options(__doc__, dataset="digits", eps="0.2", epochs=40, seeds=5)).parse_args()
    shorten(chosen.dataset, chosen.images, chosen.results)
    cell = Cell("plain", "pgd_at", {"steps": "10", "schedule": "constant"})
    runs = [trained(cell, seed, chosen) for seed in range(chosen.seeds)]
    plain = [judged(run, chosen, weights="last", plan=LOOK)[0] for run in runs]
    base = [card.robust_accuracy for card in plain]
    rows = [("none", "", percent(card.clean_accuracy for card in plain), percent(base), "", "")]
    gaps: dict[str, list[list[float]]] = {ranking: [] for ranking in RANKINGS}
    for ranking in RANKINGS:
        p = []
        for k in NUMBERS:
            test_time = f"rfi?k={k}&ranking={ranking}"
            cards = [judged(run, chosen, weights="last", plan=LOOK, test_time=test_time)[0] for run in runs]
            robust = [card.robust_accuracy for card in cards]
            gaps[ranking].append([b - a for a, b in zip(base, robust, strict=True)])
            p.append(paired(base, robust).p)
            clean = percent(card.clean_accuracy for card in cards)
            rows.append((ranking, str(k), clean, percent(robust), difference(base, robust), ""))
        for place, value in enumerate(holm(p).tolist()):
            at = len(rows) - len(NUMBERS) + place
            rows[at] = (*rows[at][:-1], f"{value:.2g}")
    table = Table(("ranking", "k", "clean", "robust", "against none", "Holm"), tuple(rows))
    Finding("inference", decided(chosen), (table,), _figure(gaps), {"k": NUMBERS, "gaps": gaps}).publish(chosen.write)


def _figure(gaps: dict[str, list[list[float]]]) -> Chart:
    curves = []
    for tone, (ranking, of_k) in enumerate(gaps.items()):
        points = tuple((float(k), 100 * mean(values)) for k, values in zip(NUMBERS, of_k, strict=True))
        band = tuple((100 * low, 100 * high) for low, high in map(mean_interval, of_k))
        curves.append(Curve(f"ranked by {ranking}", points, tone, band))
    ends = [end for curve in curves for pair in curve.band for end in pair]
    return Chart(
        "Robust accuracy with robust feature inference less that without, over the number of directions k.",
        rising_axis("directions k", [float(k) for k in NUMBERS], log=True), rising_axis("gain, points", [*ends, 0.0]),
        tuple(curves), moments=(Moment(10, "number of classes"),),
    )  # fmt: skip


if __name__ == "__main__":
    main()
