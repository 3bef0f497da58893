"""What is looked at while a network is trained, at a cost that stays small: its tangent kernel, clean and attacked.

Looking changes nothing of the training. What is seen lies in files of its own in the run folder, one for each look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bench.core import Rng, evaluating
from bench.data import Dataset, in_turn
from bench.errors import UnknownName
from bench.files import write_arrays
from bench.results import WATCHED
from bench.science import ntk
from bench.science.ascent import Ascent
from bench.training.job import Job

WATCHES = ("kernel",)
_SHARE = 0.025
"""Of a pass over the images an epoch, for all looks together; in seconds it is up to three times that."""
_MOST = 250
_ASCENT = Ascent(5, 0.5)
_GRADIENT = 3
"""What the gradient of a single image costs, in passes of one in a batch."""


def check_watch(names: Sequence[str]) -> None:
    """UnknownName for what cannot be watched."""
    for name in names:
        if name not in WATCHES:
            raise UnknownName("watch", name, WATCHES)


class KernelWatch:
    """Takes the kernels of some held-out images before the training and after every so many epochs of it.

    How many images and how often follows from the size of the training alone, so that the same training is seen the same way:
    all looks together cost no more than a share of its passes, where that is enough for one at the start and one at the end.
    """

    def __init__(self, job: Job, folder: Path, held_out: Dataset, size: int, epochs: int) -> None:
        each = _ASCENT.steps + 2 * _GRADIENT
        passes = _SHARE * size * epochs
        n = min(max(int(passes / (each * (epochs + 1))), 2 * held_out.classes), _MOST, len(held_out))
        looks = max(int(passes / (each * n)), 2)
        self.every, self.folder, self.epochs = max(math.ceil(epochs / (looks - 1)), 1), folder / WATCHED, epochs
        self.samples = held_out.select(in_turn(held_out.y)[:n])
        self.job, self.seconds, self.looks = job, 0.0, 0

    def after(self, epoch: int, net: nn.Module) -> None:
        """Look, if it is time to, after so many epochs; 0 before the first."""
        if epoch % self.every and epoch != self.epochs:
            return
        path = self.folder / f"kernel-{epoch}.npz"
        began = time.monotonic()
        x, y = self.samples.batch(torch.arange(len(self.samples)))
        with evaluating(net):
            z = _ASCENT.end(net, x, y, self.job.threat, Rng(self.job.seed, self.samples.ids).at("watch"))
        clean, attacked = (ntk.kernel(net, images).cpu().numpy() for images in (x, z))
        write_arrays(path, {"clean": clean, "attacked": attacked})
        self.seconds += time.monotonic() - began
        self.looks += 1

    def told(self, seconds: float) -> str:
        """What it cost of a training that took so long."""
        share = self.seconds / max(seconds, 1e-9)
        return (
            f"watched the kernel of {len(self.samples)} held-out images {self.looks} times, every {self.every} epochs: "
            f"{self.seconds:.1f} s, {share:.1%} of the training"
        )
