"""What the kernel's switch of clean_warmup costs: its seconds as a share of a whole training.

The commands:

    python tests/speed/kernel.py
    python tests/speed/kernel.py --dataset cifar10 --images 5000 --model "preact_resnet18?width=8" --epochs 10
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tabulate import tabulate

from bench import data
from bench.core.device import pick
from bench.defenses.clean_warmup import CleanWarmup
from bench.files.progress import Reporter
from bench.training.loop import Trainer
from bench.training.request import TrainingRequest


class Clock:
    """Counts the calls of a method and their seconds."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method, self.times, self.seconds = method, 0, 0.0

    @property
    def call(self) -> Callable[..., Any]:
        """What stands in for the method."""

        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            found = self.method(*arguments)
            self.times, self.seconds = self.times + 1, self.seconds + time.perf_counter() - began
            return found

        return call


def main() -> None:
    """Print a row per seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--images", type=int, help="train on the first so many only")
    parser.add_argument("--model")
    parser.add_argument("--epochs", default="30")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    eps = {"digits": "0.2", "mnist": "0.3"}.get(options.dataset, "8/255")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        short = data.load(options.dataset, "train").first(options.images)
        file, scale = f"{folder}/short.npz", 255 if short.x.is_floating_point() else 1
        np.savez(file, x=(short.x * scale).round().byte().permute(0, 2, 3, 1).numpy(), y=short.y.numpy())
        for seed in range(options.seeds):
            settings = {"mode": "kernel", "epochs": options.epochs}
            job = TrainingRequest(
                defense="clean_warmup", dataset=file, model=options.model, eps=eps, seed=seed, settings=settings
            ).job()
            trainer = Trainer(job, Path(folder, str(seed)), pick(options.device), Reporter("speed", 1, quiet=True))
            trainer.folder.mkdir()
            clock = Clock(CleanWarmup._measure)
            with patch.object(CleanWarmup, "_measure", clock.call):
                trainer.run()
            whole = trainer.done.seconds
            rows.append((seed, clock.times, f"{whole:.1f}", f"{clock.seconds:.2f}", f"{100 * clock.seconds / whole:.2f} %"))
    headers = ("seed", "measured", "training s", "kernels s", "share")
    print(tabulate(rows, headers, disable_numparse=True))  # noqa: T201


if __name__ == "__main__":
    main()
