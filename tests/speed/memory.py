"""What it gains, and costs, that a CPU keeps the memory which batches free: a float32 pass of an attack with it and without.

Each line is a process of its own; the second has a MALLOC_ variable in its environment, which turns it off.

    python tests/speed/memory.py
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import torch
from tabulate import tabulate

from bench.core.device import pick
from bench.models import build


def measured(model: str, batch_size: int) -> str:
    """Least seconds of a pass, page faults of the last, MiB at the peak."""
    net = build(model, (3, 32, 32), 10).eval().requires_grad_(False).to(pick("cpu"), memory_format=torch.channels_last)
    x = torch.rand(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    seconds = []
    for _ in range(5):
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        torch.autograd.grad(net(x).sum(), x)
        seconds.append(time.perf_counter() - began)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return f"{min(seconds[1:]):.2f} {spent.ru_minflt - faults} {spent.ru_maxrss // 1024}"


def main() -> None:
    """Print a row with and one without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="preact_resnet18")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measured(options.model, options.batch_size))  # noqa: T201
        return
    rows = []
    for label, more in (("kept", {}), ("given back", {"MALLOC_CHECKED_": "1"})):
        command = [sys.executable, __file__, *sys.argv[1:], "--child"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **more})
        rows.append((label, *done.stdout.split()))
    print(tabulate(rows, ("freed memory", "s a pass", "page faults", "MiB peak"), disable_numparse=True))  # noqa: T201


if __name__ == "__main__":
    main()
