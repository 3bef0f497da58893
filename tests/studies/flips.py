"""How often the gate finds a drop of 40 of 2,000 samples, and raises an alarm without one, by how many flip either way besides.

python tests/studies/flips.py
"""

import numpy as np
from scipy.stats import binom
from tabulate import tabulate

N, DROP, DRAWS = 2000, 40, 200_000


def main() -> None:
    """Print a row per share of flips."""
    rng, rows = np.random.default_rng(0), []
    for flips in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03):
        lost, won = rng.binomial(N, flips, (2, DRAWS))
        row = [f"{flips:.1%}"]
        for alpha in (0.025, 0.05):
            for planted in (DROP, 0):
                # McNemar, exact and one-sided: as many or more of the discordant samples lost.
                p = binom.sf(lost + planted - 1, lost + planted + won, 0.5)
                row.append(f"{(p < alpha).mean():.2%}")
        rows.append(row)
    headers = ("flips each way", "found, alpha 0.025", "false alarms", "found, alpha 0.05", "false alarms")
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))  # noqa: T201


if __name__ == "__main__":
    main()
