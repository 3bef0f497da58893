"""The kernels that were taken while a network was trained, as a measurement of their course."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.errors import BadInput
from bench.files import opened
from bench.measures.document import columns, number, write
from bench.measures.each.kernel import course
from bench.models import training_in
from bench.results import MEASURES, WATCHED, Measurement


def watched(run: Path) -> Path:
    """Write what was seen of a finished training as measures/kernel-watched.json, and say where it is."""
    found = {path: re.fullmatch(r"kernel-(\d+)", path.stem) for path in (run / WATCHED).glob("kernel-*.npz")}
    looks = sorted((int(match[1]), path) for path, match in found.items() if match)
    if len(looks) < 2:
        raise BadInput(
            f"{run} was watched {len(looks)} times, and a course needs 2; train with --watch kernel; of a training that is "
            "finished and kept epochs, measure the kernel with --set checkpoints=true"
        )
    pairs = [_read(path) for _, path in looks]
    clean, attacked = (torch.stack([pair[kind] for pair in pairs]) for kind in ("clean", "attacked"))
    curve, between = course([epoch for epoch, _ in looks], clean, attacked)
    trained: dict[str, Any] = training_in(run)
    about = "Tangent kernel of held-out images while the network was trained: velocity, effective rank, polar dynamics."
    values = {name: number(float(column[-1])) for name, column in curve.items() if name != "epoch"}
    document = Measurement(
        measure="kernel", about=about, model=trained["name"], data=trained["dataset"], split="held out of train",
        norm=trained["threat"]["norm"], eps=trained["threat"]["eps"], settings={"watch": True, "n": len(clean[0])},
        values=values, curves={"over epochs": columns(curve)}, notes=("epoch 0 is before the training",),
    )  # fmt: skip
    path = run / MEASURES / "kernel-watched.json"
    write(path, document, {"clean": clean, "attacked": attacked, "distances between epochs": between})
    return path


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        with opened(path) as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in ("clean", "attacked")}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadInput(f"{path} cannot be read ({error}); delete it and train again") from None
