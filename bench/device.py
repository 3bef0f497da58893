"""Where the arithmetic happens, and how exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.errors import BadInput


def pick(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"unknown device {name!r}: use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {name!r} asked for, but torch {torch.__version__} sees no GPU; use --device cpu")
    return device


def describe(device: torch.device) -> str:
    """The device in words, for a card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


@contextmanager
def exact_float32() -> Iterator[None]:
    """Full float32 products and repeatable kernels: no TF32, no autotuning that could pick another kernel next time."""
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.get_float32_matmul_precision())
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before[:3]
        torch.set_float32_matmul_precision(before[3])
