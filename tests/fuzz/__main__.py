"""Try readers with many inputs: `python -m fuzz [--inputs 10000] [READER ...]`, from tests/; prints what became of them."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase

from .readers import Reader, attempt, readers

SECONDS = 10
"""That one input may take."""
MEMORY = 2**30
"""Bytes that reading may take beyond what the process has when it begins."""


def fuzz(reader: Reader, count: int, folder: Path) -> tuple[Counter[str], float]:
    """What became of so many inputs, and the seconds that the slowest of them took."""
    found: Counter[str] = Counter()
    slowest = 0.0

    @hypothesis.settings(
        max_examples=count, deadline=SECONDS * 1000, database=None, phases=[Phase.generate], print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(reader.contents)
    def property(content: bytes) -> None:
        nonlocal slowest
        began = time.monotonic()
        try:
            found[attempt(reader, content, folder)] += 1
        except BaseException:
            Path(folder, "failed").write_bytes(content)
            raise
        slowest = max(slowest, time.monotonic() - began)

    # One call ends early where inputs repeat; what is promised is a number of them.
    while sum(found.values()) < count:
        property()
    return found, slowest


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("readers", nargs="*")
    parser.add_argument("--inputs", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    home = Path(tempfile.mkdtemp(prefix="fuzz-"))
    known = readers(home)
    if unknown := set(options.readers) - known.keys():
        parser.error(f"unknown reader {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for name in options.readers or known:
        began = time.monotonic()
        found, slowest = fuzz(known[name], options.inputs, home / "inputs")
        told = ", ".join(f"{count} {kind}" for kind, count in found.most_common())
        sys.stdout.write(
            f"{name:<11} {sum(found.values()):>6} inputs in {time.monotonic() - began:.0f} s: {told}; slowest {slowest:.2f} s\n"
        )
        sys.stdout.flush()
        assert not (home / "code-ran").exists(), f"reading a {name} ran code"


if __name__ == "__main__":
    main()
