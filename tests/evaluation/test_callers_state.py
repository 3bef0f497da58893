"""What a caller, or a caller's file, has set of torch for the whole process: no number depends on it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from bench import evaluate
from bench.errors import BadInput
from bench.models import resolve


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def elsewhere() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": double,
    "default device": elsewhere,
}


@pytest.mark.parametrize("state", STATES)
def test_a_live_network_is_judged_the_same_whatever_its_caller_has_set(fast_run: Path, tmp_path: Path, state: str) -> None:
    net = resolve(str(fast_run), (1, 8, 8), 10).net
    plain, _ = evaluate(net, dataset="digits", eps="0.2", plan_name="smoke", n=40, results=tmp_path / "a", quiet=True)
    with STATES[state]():
        other, _ = evaluate(net, dataset="digits", eps="0.2", plan_name="smoke", n=40, results=tmp_path / "b", quiet=True)
    assert other.records == plain.records
    assert other.archive == plain.archive
    assert 0 < plain.robust_accuracy < plain.clean_accuracy


FILE = """
import torch
from torch import nn

{before}


def net():
    {inside}
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize("place", ["before", "inside"])
@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("torch.set_default_dtype(torch.float64)", "default dtype to torch.float64"),
        ("torch.set_default_device('meta')", "default device to meta"),
        ("torch.set_grad_enabled(False)", "grad mode to False"),
    ],
)
def test_a_file_that_sets_it_is_refused_and_what_it_set_is_put_back(tmp_path: Path, place: str, call: str, told: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(**{"before": "", "inside": "", place: call}))
    with pytest.raises(BadInput, match=f"mine.py sets torch's {told} for the whole process"):
        resolve(f"py:{file}:net", (1, 8, 8), 10)
    state = (torch.get_default_dtype(), torch.get_default_device().type, torch.is_grad_enabled())
    assert state == (torch.float32, "cpu", True)
