"""How far an attack step is from the floor: the operations and the bytes it cannot avoid, at the speed this machine has.

Operations: those of the network's layers, forward and towards the input, at the rate of a large matrix product. Bytes: every
layer's output written once, read once and its gradient written once, and six passes over the image (gradient, step, two bounds,
best iterate in and out), at the rate of a copy. The floor is the larger of the two times.
"""

import argparse
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.core.device import native_bf16
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.evaluation.low_precision import LowPrecision
from bench.models import build
from bench.plugins.registry import get_attack

CASES = [("mnist_fast", (1, 28, 28)), ("preact_resnet18?width=16", (3, 32, 32)), ("preact_resnet18?width=64", (3, 32, 32))]


def best(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The fewest seconds of several runs."""
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations and bytes per second."""
    side = 2048 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    block = torch.zeros(64 * 2**20 // 4, device=device)
    target = torch.empty_like(block)
    return 2 * side**3 / best(lambda: a @ a, device), 2 * 64 * 2**20 / best(lambda: target.copy_(block), device)


def needs(net: nn.Module, x: Tensor, width: int) -> tuple[float, float]:
    """Operations and bytes of one step on this batch; width: bytes of a number inside the network."""
    outputs: list[int] = []
    hooks = [m.register_forward_hook(lambda *a: outputs.append(a[2].numel())) for m in net.modules() if not [*m.children()]]
    z = x.clone().requires_grad_() + 0  # the counter refuses to differentiate with respect to a leaf
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(net(z).sum(), z)
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()), float(3 * width * sum(outputs) + 6 * 4 * x.numel())


def step(net: nn.Module, rough: nn.Module | None, x: Tensor, y: Tensor) -> float:
    """Seconds of one step of PGD through a view, from two lengths of run; at eps 0 no sample ever leaves."""
    pgd, threat = get_attack("pgd"), ThreatModel.parse("linf", "0")

    def run(steps: int) -> None:
        view = VIEWS["gradient"](net, Meter(len(x), x.device))
        view.use_low_precision(rough, y)
        rng = Rng(0, torch.arange(len(x), device=x.device))
        pgd.run(view, x, y, threat, rng, **pgd.configure({"steps": steps, "cycles": False, "loss": "margin"}))

    return (best(lambda: run(12), x.device, 3) - best(lambda: run(2), x.device, 3)) / 10


def main() -> None:
    """Print a line per network and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help="one of the networks, such as mnist_fast")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    for arch, shape in (case for case in CASES if options.only in (None, case[0])):
        torch.manual_seed(0)
        net = build(arch, shape, 10).eval().requires_grad_(False).to(device)
        x = torch.rand(options.batch_size, *shape, device=device)
        y = net(x).argmax(1)
        for dtype in (torch.float32, *([torch.bfloat16] if native_bf16(device) else [])):
            per_operation, per_byte = rates(device, dtype)
            operations, moved = needs(net, x, dtype.itemsize)
            floors = operations / per_operation, moved / per_byte
            taken = step(net, LowPrecision(net).eval() if dtype is torch.bfloat16 else None, x, y)
            rows.append((
                arch, str(dtype).removeprefix("torch."), f"{operations / 1e9:.2f}", f"{moved / 2**20:.0f}",
                *(f"{1000 * floor:.1f}" for floor in floors), f"{1000 * taken:.1f}", f"{taken / max(floors):.1f}",
            ))  # fmt: skip
    headers = ("network", "precision", "GFLOP", "MiB", "ms for operations", "ms for bytes", "ms measured", "times the floor")
    print(tabulate(rows, headers=headers, disable_numparse=True))  # noqa: T201
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, batch {options.batch_size}")  # noqa: T201


if __name__ == "__main__":
    main()
