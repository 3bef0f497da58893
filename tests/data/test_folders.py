"""Folders of images: which label a class has, what is read, and what is told of the rest."""

import json
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.datasets import has_own_split, load
from bench.data.folders import natural
from bench.errors import BadInput, GauntletError

DIGITS = load("digits", "test")


def write(root: Path, names: dict[int, str], n: int = 60, suffix: str = "png") -> Path:
    """The first n digits as files in a folder for each class; those without a name are left out."""
    x, y = DIGITS.x[:n, 0].numpy(), DIGITS.y[:n].tolist()
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        if label in names:
            folder = root / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04d}.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    return root


def truth(root: Path) -> list[int]:
    """The digits of the images in the order in which they are read, known by their pixels."""
    known = {image.numpy().tobytes(): int(label) for image, label in zip(DIGITS.x, DIGITS.y, strict=True)}
    return [known[image.numpy().tobytes()] for image in load(str(root), "all").x]


@pytest.mark.parametrize(
    ("names", "sorted_names"),
    [
        (["10", "9", "1", "2"], ["1", "2", "9", "10"]),
        (["class10", "class2", "class1"], ["class1", "class2", "class10"]),
        (["v1.10", "v1.9", "v1.9b"], ["v1.9", "v1.9b", "v1.10"]),
        (["01", "1", "001", "2"], ["001", "01", "1", "2"]),
        (["b", "a", "B"], ["B", "a", "b"]),
        (["n02", "n10", "cat"], ["cat", "n02", "n10"]),
        (["7", "x", "7x"], ["7", "7x", "x"]),
        (["²", "1"], ["1", "²"]),
    ],
)
def test_natural_order(names: list[str], sorted_names: list[str]) -> None:
    assert natural(names) == sorted_names


def test_folders_named_by_numbers_are_counted_and_not_spelt(tmp_path: Path) -> None:
    data = load(str(write(tmp_path, {digit: str(digit + 1) for digit in range(10)})), "all")
    assert data.labels == {str(digit + 1): digit for digit in range(10)}
    assert data.y.tolist() == truth(tmp_path)
    assert data.classes == 10


LISTS = {
    "classes.txt": "\n".join(f"digit{digit}" for digit in range(10)),
    "classes.txt ": "digit3 3\ndigit5\t5\ndigit8, 8\n\ndigit9: 9\n",
    "classes.json": json.dumps([f"digit{digit}" for digit in range(10)]),
    "classes.json ": json.dumps({f"digit{digit}": digit for digit in range(10)}),
    "classes.json  ": json.dumps({str(digit): [f"digit{digit}", "a digit"] for digit in range(10)}),
    "classes.json   ": json.dumps({str(digit): f"digit{digit}" for digit in range(10)}),
}


@pytest.mark.parametrize("file", LISTS)
@pytest.mark.parametrize("split", [False, True])
def test_some_classes_of_a_larger_set_are_placed(tmp_path: Path, file: str, split: bool) -> None:
    names = {digit: f"digit{digit}" for digit in (3, 5, 8)}
    for part in ("train", "val") if split else ("",):
        write(tmp_path / part, names)
    (tmp_path / file.strip()).write_text(LISTS[file])
    data = load(str(tmp_path), "test" if split else "all")
    assert data.labels == {"digit3": 3, "digit5": 5, "digit8": 8}
    assert data.classes == 10
    assert set(data.y.tolist()) == {3, 5, 8}
    known = {image.numpy().tobytes(): int(label) for image, label in zip(DIGITS.x, DIGITS.y, strict=True)}
    assert data.y.tolist() == [known[image.numpy().tobytes()] for image in data.x]
    assert not data.notes


def test_lines_that_end_in_a_number_may_be_names(tmp_path: Path) -> None:
    write(tmp_path, {0: "class 7", 1: "class 9"})
    (tmp_path / "classes.txt").write_text("class 9\nclass 7\n")
    assert load(str(tmp_path), "all").labels == {"class 9": 0, "class 7": 1}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.txt", "zero\nOnes\n", "unknown class in .*classes.txt for the folder 'one': did you mean 'Ones'"),
        ("classes.txt", "one\nzero\none\n", "names a class twice"),
        ("classes.txt", "\n\n", "names no class"),
        ("classes.txt", b"\xff\xfe", "classes.txt cannot be read"),
        ("classes.txt", "zero 1\none 1\n", "gives two classes one label"),
        ("classes.txt", "zero 1\none 70000\n", "at most 65535"),
        ("classes.json", "{", "is not JSON"),
        ("classes.json", "[" * 100_000, "is not JSON"),
        ("classes.json", '{"zero": -1, "one": 2}', "number the classes from 0"),
        ("classes.json", '{"zero": 1.5, "one": 2}', "is no map of classes"),
        ("classes.json", "[1, 2]", "is no map of classes"),
    ],
)
def test_lists_of_classes_that_cannot_be_used(tmp_path: Path, file: str, content: str | bytes, message: str) -> None:
    write(tmp_path, {0: "zero", 1: "one"})
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(GauntletError, match=message):
        load(str(tmp_path), "all")


def test_val_is_a_test_split_wherever_there_is_no_test(tmp_path: Path) -> None:
    names = {digit: str(digit) for digit in range(10)}
    write(tmp_path / "images" / "train", names, 40)
    write(tmp_path / "images" / "val", names, 20)
    assert has_own_split(str(tmp_path / "images"))
    assert [len(load(str(tmp_path / "images"), split)) for split in ("train", "test", "all")] == [40, 20, 20]
    x, y = DIGITS.x[:9, 0].numpy(), DIGITS.y[:9].numpy()
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y, x_val=x[:3], y_val=y[:3])
    assert len(load(str(tmp_path / "one.npz"))) == 3
    (tmp_path / "two").mkdir()
    np.savez(tmp_path / "two" / "train.npz", x=x, y=y)
    np.savez(tmp_path / "two" / "val.npz", x=x[:4], y=y[:4])
    assert len(load(str(tmp_path / "two"))) == 4
    write(tmp_path / "images" / "test", names, 10)
    test = load(str(tmp_path / "images"))
    assert len(test) == 10
    assert [note for note in test.notes if "folder val beside" in note and "not read" in note]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp", "pgm", "PNG"])
def test_formats_without_loss_give_the_same_images(tmp_path: Path, suffix: str) -> None:
    names = {digit: str(digit) for digit in range(10)}
    data = load(str(write(tmp_path / suffix, names, 30, suffix)), "all")
    expected = load(str(write(tmp_path / "plain", names, 30)), "all")
    assert data.digest == expected.digest
    assert not data.notes


def test_colours_of_any_format(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    colours = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for suffix in ("ppm", "webp", "jpeg", "bmp"):
        colours.save(folder / f"0.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    x = load(str(tmp_path), "all").x
    assert x.shape == (4, 3, 8, 8)
    assert torch.equal(x[0], x[2])
    assert torch.equal(x[2], x[3])


def test_what_is_not_read_is_counted_and_told(tmp_path: Path) -> None:
    names = {digit: f"c{digit}" for digit in range(10)}
    write(tmp_path, {digit: name for digit, name in names.items() if digit != 9})
    write(tmp_path, {9: "c9"}, suffix="gif")
    nines = int((DIGITS.y[:60] == 9).sum())
    (tmp_path / "c1" / "more").mkdir()
    Image.fromarray(DIGITS.x[0, 0].numpy()).save(tmp_path / "c1" / "more" / "deep.png")
    (tmp_path / "readme.md").write_text("about")
    (tmp_path / ".DS_Store").write_text("hidden")
    data = load(str(tmp_path), "all")
    files, empty = data.notes
    assert f"{nines + 2} files below {tmp_path} are not read" in files
    assert f"{nines} .gif" in files
    assert "1 .png" in files
    assert "1 .md" in files
    assert "folder c9 below" in empty
    assert "holds no image that is read" in empty
    assert (len(data), data.classes) == (60 - nines, 10)


def test_a_class_of_one_split_is_told_with_what_it_may_have_meant(tmp_path: Path) -> None:
    for split, second in (("train", "cat"), ("test", "Cat")):
        write(tmp_path / split, {0: "ant", 1: second})
    train, test = load(str(tmp_path), "train"), load(str(tmp_path), "test")
    assert f"{tmp_path / 'test'} has no folder cat (did you mean its Cat?), which the other split has" in test.notes[0]
    assert f"{tmp_path / 'train'} has no folder Cat (did you mean its cat?)" in train.notes[0]
    # A list says that there is such a class.
    (tmp_path / "classes.txt").write_text("ant\ncat\nCat\n")
    assert not load(str(tmp_path), "test").notes


def test_what_an_image_shows_through_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    drawn = np.zeros((8, 8, 4), dtype=np.uint8)
    drawn[..., 3] = 255
    Image.fromarray(drawn).save(folder / "0.png")
    assert load(str(tmp_path), "all").shape == (3, 8, 8)
    drawn[2, 3, 3] = 254
    Image.fromarray(drawn).save(folder / "0.png")
    with pytest.raises(BadInput, match=r"0\.png is transparent in places.*ground of one colour"):
        load(str(tmp_path), "all")
    palette = Image.fromarray(drawn[..., :3]).convert("P")
    palette.save(folder / "0.png", transparency=palette.getpixel((0, 0)))
    with pytest.raises(BadInput, match=r"0\.png is transparent in places"):
        load(str(tmp_path), "all")


def test_colours_of_sixteen_bits_are_not_cut(tmp_path: Path) -> None:
    """Pillow reads the upper half of them and does not say so."""
    (tmp_path / "a").mkdir()
    rows = b"".join(b"\x00" + bytes(range(48)) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with pytest.raises(BadInput, match=r"0\.png \(mode RGB\) has more than 8 bits per channel; save it with 8 bits"):
        load(str(tmp_path), "all")


def test_a_program_under_the_name_of_an_image_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(GauntletError, match=r"0.png cannot be read .*cannot identify image file"):
        load(str(tmp_path), "all")


def test_files_of_several_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pages = [Image.fromarray(image[0].numpy()) for image in DIGITS.x[:3]]
    pages[0].save(tmp_path / "a" / "0.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(GauntletError, match=r"0\.tif holds 3 images, of which one would be read"):
        load(str(tmp_path), "all")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm"])
def test_a_program_called_an_image_is_not_run(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript, whatever it is called, to Ghostscript."""
    home, ran = tmp_path / "programs", tmp_path / "ran"
    home.mkdir()
    (home / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (home / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(home), prepend=os.pathsep)
    for label in ("0", "1"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / f"x.{suffix}").write_bytes(POSTSCRIPT)
    with pytest.raises(BadInput, match="cannot be read"):
        load(str(tmp_path / "set"), "all")
    assert not ran.exists()
    # The trap is one: without a word on formats it springs.
    with suppress(OSError), Image.open(tmp_path / "set" / "0" / f"x.{suffix}") as image:
        image.load()
    assert ran.exists()


def test_a_pipe_called_an_image_is_not_waited_for(tmp_path: Path) -> None:
    root = write(tmp_path / "set", {0: "0", 1: "1"})
    os.mkfifo(root / "0" / "9999.png")
    with pytest.raises(BadInput, match="it is a pipe, not a file"):
        load(str(root), "all")
