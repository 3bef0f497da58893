"""Where the arithmetic happens, and how exactly."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch

from bench.errors import BadInput

_TRIM, _MAPPED = -1, -4
"""mallopt's numbers: how much free memory at the end of the heap goes back, and how many blocks are mapped by themselves."""


def pick(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a GPU where there is one. For a CPU, freed memory is from now on kept."""
    device = _named(name)
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def _named(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"unknown device {name!r}: use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {name!r} asked for, but torch {torch.__version__} sees no GPU; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise BadInput(f"device {name!r} asked for, but torch sees {count} GPUs, cuda:0 first; use --device cuda")
    if device.type not in ("cpu", "cuda"):
        _refuse_unable(device, name)
    return device


def _refuse_unable(device: torch.device, name: str) -> None:
    """A device of another kind has to hold float64, which distances are judged in, and to give its numbers back."""
    try:
        float(torch.ones(1, dtype=torch.float64, device=device).sum())
    except Exception as error:  # a driver that is not there, a type that it lacks: errors of all kinds
        told = " ".join(str(error).split()).partition(". ")[0][:120]
        raise BadInput(
            f"device {name!r} cannot be computed on here ({type(error).__name__}: {told}); use cpu or cuda"
        ) from None


@cache
def _keep_freed_memory() -> None:
    """Let the process keep what a batch frees, where malloc is glibc's: every batch needs as much again.

    Given back and mapped anew, pages are cleared with every batch (tests/speed/memory.py).
    """
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MAPPED, 0)
        libc.mallopt(_TRIM, 2**31 - 1)


def describe(device: torch.device) -> str:
    """The device in words, for a card: what the bytes of a row depend on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    tiles = " AMX" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else ""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}{tiles}, {torch.get_num_threads()} threads"


@contextmanager
def usual() -> Iterator[None]:
    """Torch as it is once imported, whatever the caller has set: float32 made on the CPU, gradients on, no autocast."""
    dtype, place = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    if place.type != "cpu":
        torch.set_default_device(None)
    try:
        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_default_dtype(dtype)
        if place.type != "cpu":
            torch.set_default_device(place)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Full float32 products and repeatable kernels: no TF32, no autotuning that could pick another kernel next time."""
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.get_float32_matmul_precision())
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
    torch.set_float32_matmul_precision("highest")
    try:
        with usual():
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before[:3]
        torch.set_float32_matmul_precision(before[3])


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
