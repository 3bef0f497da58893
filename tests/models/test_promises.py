"""Weights files that promise networks which nobody could hold: refused by their tensors, before memory is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.errors import BadInput
from bench.models import resolve
from bench.models.architectures import build
from bench.models.checkpoint import save_weights

SHAPE = (1, 8, 8)
ROOM = 2**31
"""Bytes of address space that refusing may take beside what importing torch took."""


def written(path: Path, **metadata: str) -> Path:
    save_weights(path, build("digits_cnn", SHAPE, 10), {"arch": "digits_cnn", "classes": "10", **metadata})
    return path


def refused(reference: str) -> str:
    """What is told of a model in a process that has little room; the time limit is a part of the test."""
    program = (
        "import resource, sys; from bench.models import resolve; from bench.errors import BadInput\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {ROOM},) * 2)\n"
        f"try:\n    resolve({reference!r}, {SHAPE}, 10)\nexcept BadInput as error:\n    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("members", ["999999", "2"])
def test_an_ensemble_of_more_networks_than_the_file_holds(members: str, tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", members=members)
    assert "refused:" in refused(f"ckpt:{file}")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["wide_resnet?depth=28&width=1024", "wide_resnet?depth=1024&width=100"])
def test_an_architecture_of_gigabytes(arch: str, tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", arch=arch)
    assert "refused:" in refused(f"ckpt:{file}")
    assert "look like another architecture" in refused(
        f"ckpt:{written(tmp_path / 'v.safetensors')}?arch=wide_resnet&width=1024"
    )


def test_a_few_numbers_that_are_repeated_into_many(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = build("wide_resnet?depth=28&width=64", SHAPE, 10).state_dict()
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in state.items()}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 2**20
    assert "of which the file holds fewer" in refused(f"ckpt:{tmp_path / 'w.pt'}?arch=wide_resnet&depth=28&width=64")


def test_an_ensemble_and_a_network_that_are_whole_are_loaded(tmp_path: Path) -> None:
    nets = [build("digits_cnn", SHAPE, 10) for _ in range(2)]
    state = {f"members.{n}.{key}": value for n, net in enumerate(nets) for key, value in net.state_dict().items()}
    save_weights(tmp_path / "two.safetensors", state, {"arch": "digits_cnn", "classes": "10", "members": "2"})
    x = torch.rand(5, *SHAPE)
    found = resolve(f"ckpt:{tmp_path / 'two.safetensors'}", SHAPE, 10).net
    wanted = torch.stack([net.eval()(x).softmax(1) for net in nets]).mean(0).log()
    torch.testing.assert_close(found(x), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match="says that it holds 3 networks"):
        resolve(f"ckpt:{written(tmp_path / 'one.safetensors', members='3')}", SHAPE, 10)
