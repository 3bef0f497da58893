"""Which n samples are taken of a source whose order is not a published one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.datasets import load
from bench.data.order import in_runs, in_turn
from bench.errors import BadInput

DIGITS = load("digits", "train")


def saved(path: Path, order: torch.Tensor) -> str:
    np.savez(path, x=DIGITS.x[order, 0].numpy(), y=DIGITS.y[order].numpy())
    return str(path)


@pytest.mark.parametrize("kind", ["sorted", "shuffled", "blocks"])
def test_n_of_anybodys_file_holds_every_class_alike(tmp_path: Path, kind: str) -> None:
    order = {
        "sorted": DIGITS.y.argsort(stable=True), "shuffled": torch.arange(len(DIGITS)),
        "blocks": (DIGITS.y % 2 * 10000 + torch.arange(len(DIGITS))).argsort(),
    }[kind]  # fmt: skip
    data = load(saved(tmp_path / "mine.npz", order), "all")
    for n in (10, 57, 100, 1000):
        some = data.take(n)
        counts = some.y.bincount(minlength=10)
        assert len(some) == n
        assert counts.max() - counts.min() <= 1
        assert some.taken.startswith(f"{n} of {len(data)}: the classes take turns")
        assert torch.equal(some.x, data.x[some.ids])
        assert torch.equal(some.ids, data.take(n).ids)
        assert torch.equal(some.ids[: n // 2], data.take(n // 2).ids)
    assert data.take(n).ids.tolist() != sorted(data.take(n).ids.tolist())


def test_the_whole_is_turned_only_where_its_order_is_that_of_the_classes(tmp_path: Path) -> None:
    shuffled = load(saved(tmp_path / "a.npz", torch.arange(200)), "all")
    assert shuffled.take(None) is shuffled
    assert not shuffled.take(200).taken
    ordered = load(saved(tmp_path / "b.npz", DIGITS.y[:200].argsort()), "all")
    whole = ordered.take(None)
    assert sorted(whole.ids.tolist()) == list(range(200))
    assert whole.taken.startswith("all, and the classes take turns")
    assert len(whole.y[:10].unique()) == 10


def test_a_published_set_has_its_first() -> None:
    test = load("digits")
    assert torch.equal(test.take(50).x, test.x[:50])
    assert not test.take(50).taken
    for n in (0, 361):
        with pytest.raises(BadInput, match="holds 360 samples"):
            test.take(n)


def test_rare_classes_come_first_and_are_used_up() -> None:
    y = torch.tensor([0] * 90 + [1] * 7 + [5] * 3)
    order = in_turn(y)
    assert sorted(order.tolist()) == list(range(100))
    assert y[order[:9]].bincount(minlength=6).tolist() == [3, 3, 0, 0, 0, 3]
    assert y[order[17:]].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("y", "told"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], True),
        ([2, 2, 2, 2, 0, 0, 0, 0], True),
        ([0, 1, 2, 0, 1, 2, 0, 1, 2], False),
        ([0, 0, 0], False),
        ([0], False),
    ],
)
def test_runs_of_classes(y: list[int], told: bool) -> None:
    assert in_runs(torch.tensor(y)) is told
    assert not in_runs(DIGITS.y)
