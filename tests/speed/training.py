"""One epoch of fast_at and pgd_at beside a plain float32 PyTorch loop, written as the papers' scripts are.

The plain loop: a DataLoader over images with per-image transforms (crop, flip, to tensor), NCHW, float32, the network in train
mode, the same optimiser, schedule, steps and batch size. Both train the same network on the same images, in turns and each in a
process of its own, as a script is; the first epoch of each process is left out, and a validation is in neither.

    python tests/speed/training.py
    python tests/speed/training.py --images 2560 --model "preact_resnet18?width=16"
    python tests/speed/training.py --images 50000 --device cuda
    python tests/speed/training.py --profile        what our own epochs are made of
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Images
from torchvision import transforms

from bench import data
from bench.core.device import native_bf16, pick
from bench.data.datasets import Dataset
from bench.files.progress import Reporter
from bench.models import build
from bench.training.loop import Trainer
from bench.training.request import TrainingRequest

DEFENSES = {"fast_at": 1, "pgd_at": 10}
PARTS = {
    "convolutions": ("conv",), "batch norm": ("batch_norm",), "ReLU": ("threshold", "clamp_min", "relu"),
    "optimiser": ("Optimizer", "_foreach", "_fused"), "copies and casts": ("copy",),
}  # fmt: skip
"""Words in the names of torch's operations."""


class Pictures(Images[tuple[Tensor, int]]):
    """Images one by one, with the transforms of the papers' scripts."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.permute(0, 2, 3, 1).numpy(), y.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(np.ascontiguousarray(self.x[index]))), self.y[index]


def plain(net: nn.Module, loader: "DataLoader[tuple[Tensor, Tensor]]", steps: int, device: torch.device) -> None:
    """One epoch as the scripts have it: a random start, one step of 1.25 eps or several of a quarter, then the weights."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    eps, step = 8 / 255, (1.25 if steps == 1 else 0.25) * 8 / 255
    net.train()
    for images, labels in loader:
        x, y = images.to(device), labels.to(device)
        delta = torch.empty_like(x).uniform_(-eps, eps)
        delta.data = torch.min(torch.max(delta, -x), 1 - x)
        for _ in range(steps):
            delta.requires_grad_()
            F.cross_entropy(net(x + delta), y).backward()
            moved = (delta + step * delta.grad.sign()).clamp(-eps, eps).detach()
            delta = torch.min(torch.max(moved, -x), 1 - x)
        loss = F.cross_entropy(net(x + delta), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def timed(run: Callable[[int], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, the first left out."""
    seconds = []
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        run(repeat)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])


def samples(options: argparse.Namespace) -> Dataset:
    """What both sides train on."""
    return data.load("cifar10", "train").first(options.images)


def trainer(defense: str, folder: str, device: torch.device, options: argparse.Namespace) -> Trainer:
    """Ours, about to begin."""
    job = TrainingRequest(
        defense=defense, dataset="cifar10", model=options.model, eps="8/255", settings={"epochs": "100"}
    ).job()
    ours = Trainer(job, Path(folder), device, Reporter("speed", 1, quiet=True))
    ours.train_data = ours.updates.samples = samples(options).to(device)
    return ours


def shares(defense: str, options: argparse.Namespace) -> dict[str, float]:
    """What the time of one of our epochs goes into, after another one."""
    device = pick(options.device)
    with tempfile.TemporaryDirectory() as folder:
        ours = trainer(defense, folder, device, options)
        ours._epoch(0)
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device.type == "cuda")]) as seen:
            ours._epoch(1)
    found = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in seen.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        part = next((name for name, words in PARTS.items() if any(word in event.key for word in words)), "the rest")
        found[part] += spent
    return {name: spent / sum(found.values()) for name, spent in found.items()}


def epoch_of(side: str, defense: str, steps: int, options: argparse.Namespace) -> float:
    """Seconds of an epoch on one of the two sides, in this process."""
    device = pick(options.device) if side == "ours" else torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        if side == "ours":
            return timed(trainer(defense, folder, device, options)._epoch, device, options.repeats)
        same = samples(options)
        net = build(options.model, same.shape, 10, data.STATISTICS["cifar10"]).to(device)
        loader = DataLoader(
            Pictures(same.x, same.y), 128, shuffle=True, num_workers=options.workers, persistent_workers=options.workers > 0
        )
        return timed(lambda _: plain(net, loader, steps, device), device, options.repeats)


def main() -> None:
    """Print a row per defense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="preact_resnet18")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2, help="epochs in a process")
    parser.add_argument("--turns", type=int, default=1, help="processes of each side")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, defense, steps = options.side
        print(epoch_of(side, defense, int(steps), options))  # noqa: T201
        return
    if options.profile:
        parts = [(defense, *(f"{100 * share:.1f}" for share in shares(defense, options).values())) for defense in DEFENSES]
        print(tabulate(parts, ("% of time", *PARTS, "the rest"), disable_numparse=True))  # noqa: T201
        return
    rows = []
    for defense, steps in DEFENSES.items():
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(options.turns):
            for side, found in times.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--side", side, defense, str(steps)]
                found.append(float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        theirs, mine = median(times["plain"]), median(times["ours"])
        rows.append((defense, options.model, f"{theirs:.2f}", f"{mine:.2f}", f"{theirs / mine:.2f}"))
    print(tabulate(rows, ("defense", "network", "plain s", "ours s", "ratio"), disable_numparse=True))  # noqa: T201
    precision = "bf16" if native_bf16(torch.device(options.device)) else "float32"
    threads = f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {threads}, {options.device}, {options.images} images, ours in {precision}")  # noqa: T201


if __name__ == "__main__":
    main()
