"""How much of an evaluation can run in parallel: what its records say it cost, laid out on workers as they would be.

Only a count of forward-equivalents: what the rounds, which follow one another, leave to be shared. Each is taken to cost the
same in every piece; starting workers, the clean pass, the look at the gradient and writing files are left out.

    python tests/speed/parallel.py results/*/*/*/fast-*/card.json
"""

import argparse
from heapq import heapify, heapreplace
from itertools import groupby
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from bench.evaluation.workers import piece_size
from bench.results import TOGETHER, read_card

WORKERS = (1, 2, 4, 8, 16, 64)


def main() -> None:
    """Print the ideal speed-up of each card for several numbers of workers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cards", nargs="+", type=Path)
    rows = []
    for path in parser.parse_args().cards:
        launches = launches_of(path)
        total = sum(sum(costs) for launch in launches for costs in launch)
        ideal = [total / sum(makespan(launch, workers) for launch in launches) for workers in WORKERS]
        card = read_card(path)
        rows.append([f"{card.dataset}, {card.name}, n = {card.n}", *ideal])
    print(tabulate(rows, ["row", *(f"{workers} workers" for workers in WORKERS)], "pipe", floatfmt=".1f"))  # noqa: T201


def launches_of(path: Path) -> list[list[list[int]]]:
    """What runs at once, one after the other: for each of its runs, the forward-equivalents of each sample."""
    card, records = read_card(path), pd.read_parquet(path.parent / "samples.parquet")
    runs = records[records["run"] != ""]
    launches = []
    for attack in card.attacks:
        own = runs[runs["attack"] == attack.name]
        costs = [(part["forwards"] + 2 * part["backwards"]).tolist() for _, part in own.groupby("run", sort=False)]
        stages = [round.stage for round in attack.rounds if round.samples] or [str(place) for place in range(len(costs))]
        keys = [stage if stage in TOGETHER else place for place, stage in enumerate(stages)]
        pairs = zip(keys, costs, strict=True)
        launches += [[cost for _, cost in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]
    return launches


def makespan(launch: list[list[int]], workers: int) -> float:
    """When the last worker is done, each taking the next piece as soon as it is free."""
    size = piece_size(sum(map(len, launch)), workers, 256)
    busy = [0] * workers
    heapify(busy)
    for costs in launch:
        for start in range(0, len(costs), size):
            heapreplace(busy, busy[0] + sum(costs[start : start + size]))
    return max(busy)


if __name__ == "__main__":
    main()
