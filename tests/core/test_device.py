"""The device: what its name means, and memory that is not handed back between batches."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from bench.core.device import pick
from bench.errors import BadInput

FAULTS = """
import ctypes
import resource
import sys
from bench.core.device import pick

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def batch():
    blocks = [libc.malloc(20 * 2**20) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 20 * 2**20)
    for block in reversed(blocks):
        libc.free(block)

if sys.argv[1] == "picked":
    pick("cpu")
for _ in range(3):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str, **environment: str) -> int:
    """Page faults of five batches, once three have found their place."""
    around = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS, *arguments]
    # From elsewhere, or the source folder would be imported and not what is installed.
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**around, **environment}, cwd="/")
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_a_cpu_keeps_what_batches_free() -> None:
    """Eight blocks of 20 MiB are 40,960 pages, and cost them anew with every batch where freed memory goes back."""
    assert faults("bare") > 40_000
    assert faults("picked") < 2_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_a_users_own_settings_of_malloc_stay() -> None:
    assert faults("picked", MALLOC_TRIM_THRESHOLD_="131072") > 40_000


def test_names() -> None:
    assert pick("cpu") == torch.device("cpu")
    assert pick().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(BadInput, match="unknown device 'gpu'"):
        pick("gpu")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "xpu:1", "hpu", "vulkan", "ipu", "xla"])
def test_a_device_that_cannot_compute_is_an_error_of_ours(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadInput, match=rf"device '{name}' cannot be computed on here \(.*\); use cpu or cuda"):
        pick(name)


def test_a_gpu_that_is_not_there_is_an_error_of_ours() -> None:
    with pytest.raises(BadInput, match=r"device 'cuda:99' asked for, but torch .*; use --device c"):
        pick("cuda:99")
