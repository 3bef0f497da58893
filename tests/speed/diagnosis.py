"""What a diagnosis costs beside the evaluation that it is of: CPU seconds of both, one after the other in one process.

OMP_NUM_THREADS=1 python tests/speed/diagnosis.py RUN [RUN ...] --n 1000
"""

import argparse
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from bench import evaluate


def main() -> None:
    """A row for each run folder, which is evaluated anew elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--plan", default="fast")
    parser.add_argument("--n", type=int, default=1000)
    given = parser.parse_args()
    rows = []
    for run in given.runs:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / run.name
            folder.mkdir()
            for file in run.glob("*.*"):
                (folder / file.name).symlink_to(file.resolve())
            spent, card = [], None
            for diagnosed in (False, True):
                began = time.process_time()
                card, _ = evaluate(
                    f"run:{folder}", plan_name=given.plan, n=given.n, diagnosed=diagnosed, results=place, quiet=True
                )
                spent.append(time.process_time() - began)
        assert card is not None
        assert card.diagnosis is not None
        rows.append((card.name, card.dataset, *spent, spent[1] / spent[0], card.diagnosis.verdict))
        print(tabulate(rows, ("defense", "data", "evaluation s", "diagnosis s", "ratio", "verdict"), floatfmt=".2f"))  # noqa: T201


if __name__ == "__main__":
    main()
