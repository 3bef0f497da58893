"""`fast` beside the reference AutoAttack on rows that ran both: which leaves less, and in how much of the time.

    python tests/speed/rivals.py results/digits/linf-0.2/*/standard-*/card.json

Both ran one after the other in one process, each on every image that the network has right.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from tabulate import tabulate

from bench.results import read_card


def main() -> None:
    """A line for each row, those that `fast` does worst on first, then the counts."""
    rows = []
    for path in map(Path, sys.argv[1:]):
        card = read_card(path)
        ran = {attack.name: attack for attack in card.attacks}
        if {"fast", "autoattack"} <= set(ran):
            fast, rival = ran["fast"], ran["autoattack"]
            above = round((fast.robust_accuracy - rival.robust_accuracy) * card.n)
            missed = round((fast.robust_accuracy - card.robust_accuracy) * card.n)
            rows.append((card.name, card.n, above, missed, rival.seconds / fast.seconds))
    rows.sort(key=lambda row: (-row[2], -row[3]))
    heads = ("row", "n", "stand more than under AutoAttack", "than under everything", "AutoAttack's time / fast's")
    above, missed, ratios = ([row[place] for row in rows] for place in (2, 3, 4))
    print(tabulate(rows, heads, floatfmt=".1f"))  # noqa: T201
    print(  # noqa: T201
        f"{len(rows)} rows: fewer stand under fast on {sum(a < 0 for a in above)}, as many on {above.count(0)}, more on "
        f"{sum(a > 0 for a in above)} ({max(above)} at most); than under everything {max(missed)} more at most, "
        f"{statistics.mean(missed):.2f} in the mean; time ratio median {statistics.median(ratios):.1f}, "
        f"from {min(ratios):.1f} to {max(ratios):.1f}"
    )


if __name__ == "__main__":
    main()
