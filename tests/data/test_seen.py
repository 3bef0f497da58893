"""What was trained on is known by content, also where it was changed a little."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.core import Rng
from bench.data.datasets import Dataset, load
from bench.data.seen import SEEN, among, remember, remembered, sketch
from bench.errors import BadInput

TRAIN, TEST = load("digits", "train"), load("digits", "test")


def with_images(x: Tensor) -> Dataset:
    return replace(TRAIN, x=x, y=TRAIN.y[: len(x)], ids=TRAIN.ids[: len(x)])


def noisy(x: Tensor) -> Tensor:
    noise = Rng(0, torch.arange(len(x))).at("noise").integers(5, x.shape[1:]) - 2
    return (x.int() + noise).clamp(0, 255).to(torch.uint8)


def one_byte(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 3, 3] ^= 1
    return x


def jpeg(x: Tensor) -> Tensor:
    def again(image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=90)
        return torch.from_numpy(np.array(Image.open(file)))[None]

    return torch.stack([again(image) for image in x])


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda x: x, 1.0), (lambda x: x.flip(0), 1.0), (lambda x: x.float() / 255, 1.0), (lambda x: x // 2, 1.0),
        (lambda x: x.repeat(1, 3, 1, 1), 1.0), (one_byte, 1.0), (noisy, 1.0), (jpeg, 0.99),
    ],
)  # fmt: skip
def test_changed_a_little_it_is_still_known(change: Callable[[Tensor], Tensor], least: float) -> None:
    seen = sketch(TRAIN)
    assert among(with_images(change(TRAIN.x[:300])), seen).double().mean() >= least


def test_other_images_are_not() -> None:
    """2 of 360 test digits are written so much like a training digit that they do not count as unseen."""
    assert int(among(TEST, sketch(TRAIN)).sum()) == 2


@pytest.mark.skipif("GAUNTLET_DATA" not in os.environ, reason="set GAUNTLET_DATA to the folder of the real sets")
@pytest.mark.parametrize(("name", "alike"), [("mnist", 3), ("cifar10", 0)])
def test_real_images_are_told_apart(name: str, alike: int) -> None:
    train, test = load(name, "train"), load(name, "test").first(500)
    seen = sketch(train)
    assert int(among(test, seen).sum()) == alike
    assert among(train.first(200), seen).all()


def test_images_that_are_all_alike_are_known_as_such() -> None:
    blank = with_images(torch.full((3, 1, 8, 8), 7, dtype=torch.uint8))
    assert among(blank, sketch(blank)).all()


def test_it_is_kept_beside_the_training_and_read_with_care(tmp_path: Path) -> None:
    assert remembered(tmp_path) is None
    remember(tmp_path, TRAIN.first(900), TRAIN.select(torch.arange(900, 1000)))
    first = (tmp_path / SEEN).read_bytes()
    seen = remembered(tmp_path)
    assert seen is not None
    assert torch.equal(seen, sketch(TRAIN.first(1000)))
    remember(tmp_path, TRAIN.first(1000))
    assert (tmp_path / SEEN).read_bytes() == first
    for content in (
        {"seen": np.zeros((4, 3), dtype=np.uint8)}, {"seen": np.zeros((4, 64))}, {"other": np.zeros((4, 64), dtype=np.uint8)},
        {"seen": np.zeros((0, 64), dtype=np.uint8)},
    ):  # fmt: skip
        np.savez(tmp_path / SEEN, **content)
        with pytest.raises(BadInput, match="does not say what the network was trained on"):
            remembered(tmp_path)
    (tmp_path / SEEN).write_bytes(first[:100])
    with pytest.raises(BadInput, match=r"seen.npz is a truncated npz file"):
        remembered(tmp_path)
