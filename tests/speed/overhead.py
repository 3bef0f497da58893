"""What the harness costs beside the bare network: PGD through a view against a bare forward-backward loop, alternating."""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.models import build
from bench.plugins.registry import get_attack

CASES = [("mnist_fast", (1, 28, 28)), ("preact_resnet18?width=16", (3, 32, 32)), ("preact_resnet18?width=64", (3, 32, 32))]


def bare(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Forward and backward passes and nothing else."""
    for _ in range(steps):
        z = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
    with torch.no_grad():
        net(x)


def attacked(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """PGD at eps 0, where no correct sample ever leaves: the same passes, plus everything the harness adds."""
    view = VIEWS["gradient"](net, Meter(len(x), x.device))
    rng = Rng(0, torch.arange(len(x), device=x.device))
    pgd = get_attack("pgd")
    pgd.run(view, x, y, ThreatModel.parse("linf", "0"), rng, **pgd.configure({"steps": steps, "cycles": False}))


def main() -> None:
    """Print a line per network: median seconds of each loop, and the median of the ratios pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, batch {options.batch_size}")  # noqa: T201
    for arch, shape in CASES:
        torch.manual_seed(0)
        net = build(arch, shape, 10).eval().requires_grad_(False).to(options.device)
        x = torch.rand(options.batch_size, *shape, device=options.device)
        y = net(x).argmax(1)
        times: dict[str, list[float]] = {"bare": [], "attacked": []}
        for pair in range(options.pairs + 1):
            for name, loop in (("bare", bare), ("attacked", attacked)):
                began = time.perf_counter()
                loop(net, x, y, options.steps)
                if x.is_cuda:
                    torch.cuda.synchronize()
                if pair:
                    times[name].append(time.perf_counter() - began)
        ratio = median(a / b for a, b in zip(times["attacked"], times["bare"], strict=True))
        told = ", ".join(f"{name} {median(found):.3f} s" for name, found in times.items())
        print(f"{arch:28} {told}, ratio {ratio:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
