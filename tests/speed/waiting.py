"""What it costs when threads wait by spinning, on a machine that is quiet and on one that does other work too.

A training on digits for each way of waiting, each a process of its own: what torch does by itself, threads that sleep, and a
single thread. "Busy": a loop that keeps one core to itself runs beside.

    python tests/speed/waiting.py
    python tests/speed/waiting.py --dataset mnist --epochs 1
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from tabulate import tabulate

WAYS = {
    "spinning, torch's default": {},
    "asleep (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread (OMP_NUM_THREADS=1)": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """A loop beside, or nothing."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if loop:
            loop.kill()
            loop.wait()


def seconds(options: argparse.Namespace, settings: dict[str, str]) -> float:
    """Of one training, from the start of its process to its end."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from bench.cli.commands import main; main()", "train", options.defense,
            "--dataset", options.dataset, "--epochs", str(options.epochs), "--results", folder, "--quiet",
        ]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(command, env={**clean, **settings}, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        return time.perf_counter() - began


def main() -> None:
    """Print a row for each way of waiting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defense", default="fast_at")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.turns):
        for busy in (False, True):
            for way, settings in WAYS.items():
                with neighbour(busy):
                    found.setdefault((way, busy), []).append(seconds(options, settings))
    rows = [(way, f"{median(found[way, False]):.1f}", f"{median(found[way, True]):.1f}") for way in WAYS]
    print(tabulate(rows, ("threads", "s quiet", "s busy"), disable_numparse=True))  # noqa: T201


if __name__ == "__main__":
    main()
