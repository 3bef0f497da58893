"""The plan `fast` beside the reference AutoAttack: same network, same points, same threads, one after the other.

AutoAttack (package pyautoattack, version standard, seed 0) runs as its documentation has it, on the points that are
classified correctly; its seconds are those of the attack alone. Ours are those of the whole evaluation. Both results are
judged by the harness. CPU seconds of the process stand beside those of the clock: their ratio is the one to read where the
machine has other work, as long as all is on the CPU.

    python tests/speed/fast.py run:FOLDER [run:FOLDER ...] --n 500
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate

from bench import data, evaluate
from bench.core.device import exact_float32, pick
from bench.core.judge import Judge
from bench.evaluation.request import choose_threat
from bench.models import resolve
from bench.models.subject import training_record


class Spent(NamedTuple):
    """Seconds by the clock and of the CPU."""

    clock: float
    cpu: float

    @classmethod
    def since(cls, began: Spent) -> Spent:
        """What has been spent since then."""
        return cls(time.perf_counter() - began.clock, time.process_time() - began.cpu)


NEVER = Spent(0.0, 0.0)


def autoattack(reference: str, options: argparse.Namespace) -> tuple[float, Spent]:
    """Robust accuracy of the reference, and what it spent."""
    from pyautoattack import AutoAttack

    trained, device = training_record(reference), pick(options.device)
    samples = data.load(options.dataset or trained["dataset"], "test").first(options.n).to(device)
    threat = choose_threat(options.norm, options.eps, trained.get("threat", {}), samples.family)
    net = resolve(reference, samples.shape, samples.classes).net.to(device)
    judge = Judge(net, threat)
    x, y = samples.batch(torch.arange(options.n))
    with exact_float32():
        correct, _ = judge.correct(x, y)
        x, y = x[correct], y[correct]
        norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
        began = Spent.since(NEVER)
        attack = AutoAttack(net, norm=norm, eps=threat.radius, seed=0, version="standard", device=device)
        z, _ = attack.run_standard_evaluation(x, y, batch_size=250)
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent = Spent.since(began)
    return int((~judge.verdict(z, x, y).fooled).sum()) / options.n, spent


def ours(reference: str, options: argparse.Namespace, seed: int) -> tuple[float, Spent, float, str]:
    """Robust accuracy of `fast`, what it spent, forward-equivalents per attempted sample, and the precision of its search."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(reference.removeprefix("run:"))
        if home.is_dir():
            # A run keeps its evaluations; a copy of it has none.
            (copy := Path(folder, home.name)).mkdir()
            for name in ("train.json", "best.safetensors"):
                shutil.copy(home / name, copy)
            reference = str(copy)
        began = Spent.since(NEVER)
        card, _ = evaluate(
            reference, dataset=options.dataset, norm=options.norm, eps=options.eps, n=options.n, seed=seed,
            results=Path(folder), device_name=options.device, quiet=True,
        )  # fmt: skip
        spent = Spent.since(began)
    attack = card.attacks[0]
    return card.robust_accuracy, spent, attack.forwards + 2 * attack.backwards, card.search


def main() -> None:
    """Print a row per network and seed of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--dataset")
    parser.add_argument("--norm")
    parser.add_argument("--eps")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    rows = []
    for reference in options.models:
        mine = [ours(reference, options, seed) for seed in range(options.seeds)]
        theirs, spent = autoattack(reference, options)
        for seed, (robust, own, cost, search) in enumerate(mine):
            rows.append((
                Path(reference).name[:40], seed, f"{100 * theirs:.1f}", f"{100 * robust:.1f}", round(spent.clock, 1),
                round(own.clock, 1), round(spent.clock / own.clock, 1), round(spent.cpu / own.cpu, 1), round(cost), search,
            ))  # fmt: skip
    headers = ("model", "seed", "AutoAttack %", "fast %", "AutoAttack s", "fast s", "ratio", "of CPU s", "passes", "search")
    told = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}, n = {options.n}"
    print(tabulate(rows, headers=headers, disable_numparse=True) + f"\n{told}")  # noqa: T201


if __name__ == "__main__":
    main()
