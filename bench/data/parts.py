"""What a path holds: which splits, and of what kind."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from bench.data.folders import FolderPart, folder_parts, holds_classes
from bench.data.sources import NpzPart, keys_of, readable
from bench.errors import BadInput

Part = NpzPart | FolderPart
TESTS = ("test", "val")
"""What the test split of a source may be called; the first that is there."""


def parts(path: Path) -> dict[str, Part]:
    """What a path holds: "train" and "test", or "all" alone when it has no split of its own."""
    with readable(f"{path}"):
        if path.is_dir():
            return _in_folder(path)
        if path.suffix.lower() == ".npz":
            return _in_npz(path)
    raise BadInput(f"{path} is not a dataset; give an .npz file or a folder")


def read(part: Part, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """The images [N, C, H, W] and labels [N] of a part; BadInput where either would take more than so many bytes."""
    x, y = part.images(limit), part.targets(limit)
    if len(x) != len(y):
        where = part.path if isinstance(part, NpzPart) else part.root
        raise BadInput(f"{where} has {len(x)} images and {len(y)} labels; give one label per image")
    return x, y


def _in_npz(path: Path) -> dict[str, Part]:
    keys = set(keys_of(path))
    for test in TESTS:
        if {"x_train", "y_train", f"x_{test}", f"y_{test}"} <= keys:
            return {split: NpzPart(path, f"x_{key}", f"y_{key}") for split, key in (("train", "train"), ("test", test))}
    if {"x", "y"} <= keys:
        return {"all": NpzPart(path)}
    held = ", ".join(sorted(keys)[:9]) or "nothing"
    raise BadInput(f"{path} needs x and y, or x_train, y_train, x_test and y_test; it holds {held}")


def _in_folder(path: Path) -> dict[str, Part]:
    test = next((name for name in TESTS if (path / f"{name}.npz").exists()), "test")
    archives = {"train": path / "train.npz", "test": path / f"{test}.npz"}
    if any(file.exists() for file in archives.values()):
        _need_both(path, {file.name: file.exists() for file in archives.values()})
        return {split: NpzPart(file) for split, file in archives.items()}
    test = next((name for name in TESTS if holds_classes(path / name)), "test")
    inside = {"train": holds_classes(path / "train"), test: holds_classes(path / test)}
    if any(inside.values()):
        _need_both(path, {f"{split}/<class>/": there for split, there in inside.items()})
        return {**folder_parts(path, {"train": "train", "test": test})}
    if holds_classes(path):
        return {**folder_parts(path, {"all": ""})}
    raise BadInput(
        f"{path} is a folder without a dataset; it needs train.npz and test.npz, or images in train/<class>/ and "
        "test/<class>/ (or val/<class>/), or images in <class>/"
    )


def _need_both(path: Path, present: dict[str, bool]) -> None:
    for name, there in present.items():
        if not there:
            other = next(one for one in present if one != name)
            raise BadInput(f"{path} holds {other} but no {name}; a dataset needs both")
