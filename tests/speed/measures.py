"""What each measure of a network takes at its defaults: seconds of the clock and CPU seconds of the whole command.

    OMP_NUM_THREADS=1 python tests/speed/measures.py RUN [OTHER] [--only kernel ...]

OTHER is a run of the same architecture, the other end of `connectivity`, which is left out without one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from bench.measures import measure_names


def main() -> None:
    """A row for each measure; what it writes lies in a folder that is gone afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    rows = []
    for name in given.only or measure_names():
        against = [] if given.other is None else ["--set", f"against=run:{given.other.resolve()}"]
        if name == "connectivity" and not against:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / given.run.name
            folder.mkdir()
            for file in given.run.glob("*.*"):
                (folder / file.name).symlink_to(file.resolve())
            command = ["measure", f"run:{folder}", name, *(against if name == "connectivity" else []), "--quiet"]
            clock, before = time.perf_counter(), os.times()
            code = "import sys; from bench.cli.start import main; sys.exit(main())"
            subprocess.run([sys.executable, "-P", "-c", code, *command], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        rows.append((name, time.perf_counter() - clock, spent))
        print(tabulate(rows, ("measure", "seconds", "CPU seconds"), floatfmt=".1f"), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
