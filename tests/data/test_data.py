"""Datasets from every kind of source, every way in which a source can be wrong, and the augmentation."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.core.rng import Rng
from bench.data.datasets import STATISTICS, Dataset, crop_and_flip, has_own_split, hold_out, load, names
from bench.errors import BadInput, GauntletError, UnknownName

few = settings(max_examples=25, deadline=None)
noise = np.random.default_rng(0)
real = pytest.mark.skipif("GAUNTLET_DATA" not in os.environ, reason="set GAUNTLET_DATA to the folder of the real sets")


def pixels(*shape: int) -> np.ndarray:
    return noise.integers(0, 256, shape, dtype=np.uint8)


def toy(size: int, *shape: int) -> Dataset:
    y = torch.arange(size) % 3
    return Dataset("toy", "train", torch.from_numpy(pixels(size, *shape)), y, torch.arange(size), 3, "here")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("GAUNTLET_DATA", raising=False)
    monkeypatch.setenv("GAUNTLET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_digits_has_fixed_disjoint_splits():
    test, train = load("digits"), load("digits", "train")
    assert (len(test), len(train)) == (360, 1437)
    assert (test.shape, test.classes, test.family, test.source) == ((1, 8, 8), 10, "digits", "embedded")
    assert test.x.dtype == torch.uint8
    assert (test.x.min(), test.x.max()) == (0, 255)
    assert test.y.bincount().min() >= 20
    assert torch.equal(test.ids, torch.arange(360))
    assert test.digest == "ec54ebddbea2229bf0a028df2888d5e13148cdfbe4a4ba6582b1cafdb62a6b8d"
    assert train.digest == "02beb45df9fabe2eaea94ab0bb535100a7cc6ebb5ab2768f13cc3ba0e956fa50"
    both = {(bytes(x.numpy()), int(y)) for part in (test, train) for x, y in zip(part.x, part.y, strict=True)}
    assert len(both) == 1797
    assert load("digits", "all").split == "test"


def test_names_and_statistics():
    assert names() == ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "structured"]
    assert set(STATISTICS) < set(names())


@pytest.mark.parametrize(
    ("shape", "family"),
    [((1, 28, 28), "mnist"), ((1, 8, 8), "digits"), ((3, 32, 32), "cifar"), ((3, 8, 8), "digits")],
)
def test_family_follows_the_shape(shape, family):
    assert toy(2, *shape).family == family


def test_a_file_named_like_a_set_of_ours_is_not_that_set(tmp_path):
    x = np.zeros((40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "structured.npz", x=x, y=np.arange(40) % 2)
    assert load(str(tmp_path / "structured.npz"), "all").family == "cifar"
    assert load("structured").family == "structured"


def test_first_keeps_order_and_says_how_many_there_are():
    data = toy(5, 1, 2, 2)
    assert data.first(None) is data
    assert data.first(2).ids.tolist() == [0, 1]
    for n in (0, -1, 6):
        with pytest.raises(BadInput, match=f"holds 5 samples, not {n}; ask for 1 to 5"):
            data.first(n)


def test_select_keeps_ids_and_changes_the_digest():
    data = toy(6, 1, 2, 2)
    some = data.select(torch.tensor([4, 1]))
    assert some.ids.tolist() == [4, 1]
    assert torch.equal(some.x, data.x[[4, 1]])
    assert some.digest != data.digest
    assert data.select(torch.arange(6)).digest == data.digest == data.to("cpu").digest


def test_digest_sees_shape_dtype_images_and_labels():
    x, y = torch.zeros(4, 1, 2, 3, dtype=torch.uint8), torch.arange(4)
    variants = [
        (x, y),
        (x.view(4, 1, 3, 2), y),
        (x.float(), y),
        (x + 1, y),
        (x, y.flip(0)),
    ]
    assert len({Dataset("a", "test", x, y, y, 4, "").digest for x, y in variants}) == len(variants)


def test_batch_is_float_in_the_unit_box():
    data = toy(5, 3, 2, 2)
    x, y = data.batch(torch.tensor([3, 0]))
    assert x.dtype == torch.float32
    assert torch.equal(x, data.x[[3, 0]].float() / 255)
    assert torch.equal(y, data.y[[3, 0]])
    whole = Dataset("f", "test", torch.rand(3, 1, 2, 2), torch.arange(3), torch.arange(3), 3, "")
    assert torch.equal(whole.batch(torch.tensor([1]))[0], whole.x[1:2])


@few
@given(size=st.integers(2, 60), held=st.integers(-3, 80))
def test_hold_out_parts_the_data(size, held):
    data = toy(size, 1, 1, 1)
    rest, validation = hold_out(data, held)
    assert len(validation) == max(1, min(held, size // 10))
    assert sorted([*rest.ids.tolist(), *validation.ids.tolist()]) == list(range(size))
    assert torch.equal(validation.ids, hold_out(data, held)[1].ids)


def test_hold_out_needs_two_samples():
    with pytest.raises(BadInput, match="holds 1 sample; holding one out needs at least 2"):
        hold_out(toy(1, 1, 1, 1), 1)


def test_npz_with_its_own_split(tmp_path):
    path = str(tmp_path / "mine.npz")
    x, y = pixels(7, 4, 5, 3), np.array([0, 1, 2, 0, 1, 2, 0])
    np.savez_compressed(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    train, test = load(path, "train"), load(path)
    assert (train.name, train.split, train.source, train.shape) == ("mine", "train", path, (3, 4, 5))
    assert torch.equal(train.x, torch.from_numpy(x).permute(0, 3, 1, 2))
    assert torch.equal(train.y, torch.from_numpy(y))
    assert (len(test), test.classes) == (2, 3)
    assert load(path, "all").digest == test.digest
    assert has_own_split(path)


def test_npz_without_a_split_is_cut_80_to_20(tmp_path):
    path = str(tmp_path / "mine.npz")
    np.savez(path, x=pixels(11, 4, 4), y=np.arange(11, dtype=np.uint8) % 2)
    whole, train, test = (load(path, split) for split in ("all", "train", "test"))
    assert not has_own_split(path)
    assert (len(whole), len(train), len(test)) == (11, 9, 2)
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == whole.ids.tolist() == list(range(11))
    assert torch.equal(test.x, whole.x[test.ids])
    assert torch.equal(train.y, whole.y[train.ids])
    assert load(path, "test").digest == test.digest


def test_npz_of_two_samples_gives_one_each_and_of_one_only_all(tmp_path):
    path = str(tmp_path / "few.npz")
    np.savez(path, x=pixels(2, 4, 4), y=[0, 0])
    assert [len(load(path, split)) for split in ("train", "test")] == [1, 1]
    assert load(path).classes == 2
    np.savez(path, x=pixels(1, 4, 4), y=[0])
    assert len(load(path, "all")) == 1
    with pytest.raises(BadInput, match="needs at least 2"):
        load(path, "test")


@few
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(4, 7), st.integers(4, 7), st.sampled_from([1, 3])),
    dtype=st.sampled_from(["u1", "<i4", ">i8", "<f4", ">f8", "<f2"]),
    fortran=st.booleans(),
)
def test_npz_round_trip(tmp_path_factory, shape, dtype, fortran):
    x = (pixels(*shape) if np.dtype(dtype).kind != "f" else noise.random(shape)).astype(dtype)
    path = str(tmp_path_factory.mktemp("npz") / "a.npz")
    np.savez(path, x=np.asfortranarray(x) if fortran else x, y=np.zeros(shape[0], dtype=">i2"))
    data = load(path, "all")
    assert data.x.dtype == (torch.float32 if x.dtype.kind == "f" else torch.uint8)
    assert data.x.is_contiguous()
    assert np.array_equal(data.x.permute(0, 2, 3, 1).numpy(), x.astype(data.x.numpy().dtype))


GOOD = {"x": pixels(4, 6, 6), "y": np.arange(4)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": pixels(4, 36)}, r"x has shape \(4, 36\); give images as \[N, H, W\]"),
        ({"x": pixels(4, 3, 8, 8)}, r"channels first; transpose to NHWC with x.transpose\(0, 2, 3, 1\)"),
        ({"x": pixels(4, 2, 8, 8)}, "8 channels"),
        ({"x": pixels(0, 6, 6), "y": np.arange(0)}, r"x is empty \(shape \(0, 6, 6\)\)"),
        ({"x": np.full((4, 6, 6), np.nan)}, "x contains NaN"),
        ({"x": np.full((4, 6, 6), np.inf)}, "x ranges from inf to inf"),
        ({"x": pixels(4, 6, 6) * 1.0 + 3}, r"x ranges from \d+ to \d+, outside \[0, 1\]; divide by 255"),
        ({"x": GOOD["x"].astype(np.int32) + 300}, "x is int32 from 3.. to 5..; give uint8"),
        ({"x": GOOD["x"].astype(np.int16) - 300}, "x is int16 from -"),
        ({"x": GOOD["x"] > 9}, "x has dtype bool"),
        ({"x": GOOD["x"].astype("U3")}, "x has dtype <U3"),
        ({"x": GOOD["x"].astype(object)}, "x holds Python objects, which are never unpickled"),
        ({"y": np.arange(4).astype(object)}, "y holds Python objects"),
        ({"y": np.arange(4) - 1}, "y goes from -1 to 2; number the classes from 0"),
        ({"y": np.arange(4, dtype=np.uint64) + 2**63}, "y goes from 9223372036854775808"),
        ({"y": np.arange(4) / 2}, "y has dtype float64; give integers, as from"),
        ({"y": np.arange(4)[:, None]}, r"y has shape \(4, 1\); give one label per image"),
        ({"y": np.arange(3)}, "has 4 images and 3 labels"),
    ],
)
def test_npz_with_unusable_arrays(tmp_path, changes, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **GOOD | changes)
    with pytest.raises(GauntletError, match=message) as caught:
        load(str(path), "all")
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def npz_bytes(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz_bytes(**GOOD)[:-40], "is a truncated npz file"),
        (b"", "is not an npz file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is not an npz file"),
        (b"\n<!DOCTYPE html><html>404</html>", "is an HTML page"),
        (npz_bytes(images=GOOD["x"], y=GOOD["y"]), "needs x and y, or x_train.*; it holds images, y"),
        (npz_bytes(x_train=GOOD["x"], y_train=GOOD["y"]), "it holds x_train, y_train"),
        (npz_bytes(), "is not an npz file|it holds nothing"),
    ],
)
def test_files_that_are_no_npz(tmp_path, content, message):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    for use in (load, has_own_split):
        with pytest.raises(BadInput, match=message):
            use(str(path))


def test_npz_with_damaged_bytes(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(npz_bytes(**GOOD).replace(GOOD["x"].tobytes(), bytes(144)))
    with pytest.raises(BadInput, match=r"x cannot be read .*CRC.*check that it is whole"):
        load(str(path))


@pytest.mark.parametrize("shape", [(10**9, 28, 28), (3, 6, 6), (-1, -1, 6)])
def test_npz_whose_header_lies_about_the_size(tmp_path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    path = tmp_path / "liar.npz"
    np.savez(path, y=GOOD["y"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(144))
    with pytest.raises(BadInput, match=r"x has \d+ bytes where its header promises -?\d+"):
        load(str(path), "all")


def test_npz_of_a_member_that_is_no_array(tmp_path):
    path = tmp_path / "odd.npz"
    np.savez(path, y=GOOD["y"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(BadInput, match="x cannot be read"):
        load(str(path), "all")


@few
@given(data=st.data())
def test_damaged_npz_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(npz_bytes(**GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(content)
    try:
        outcome = str(tuple(load(str(path), "all").x.shape[1:]))
    except GauntletError as error:
        outcome = str(error)
    assert outcome == "(1, 6, 6)" or "a.npz" in outcome


def test_unknown_names_and_missing_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match="unknown dataset 'minst': did you mean 'mnist'"):
        load("minst")
    with pytest.raises(UnknownName, match="unknown dataset ''"):
        load("")
    with pytest.raises(UnknownName, match="unknown split 'val'"):
        load("digits", "val")
    for path in ("gone.npz", "./gone", str(tmp_path / "gone"), "x" * 5000 + "/y", "~no such user/data", "a/\0"):
        with pytest.raises(BadInput, match=r"does not exist|cannot be read"):
            load(path)
        with pytest.raises(BadInput, match=r"does not exist|cannot be read"):
            has_own_split(path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"notes.txt is not a dataset; give an .npz file or a folder"):
        load("notes.txt")
    assert has_own_split("cifar10")


def write_images(folder: Path, *images: Image.Image, kind: str = "png") -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number}.{kind}")


def gray(value: int) -> Image.Image:
    return Image.new("L", (5, 4), value)


def test_folder_of_npz_files(tmp_path):
    for split, size in (("train", 4), ("test", 2)):
        np.savez(tmp_path / f"{split}.npz", x=GOOD["x"][:size], y=GOOD["y"][:size])
    test = load(str(tmp_path))
    assert (test.name, len(test), test.classes) == (tmp_path.name, 2, 4)
    assert len(load(str(tmp_path), "train")) == 4
    assert has_own_split(str(tmp_path))
    (tmp_path / "test.npz").unlink()
    with pytest.raises(BadInput, match=r"holds train.npz but no test.npz"):
        load(str(tmp_path))


def test_folder_of_grayscale_images_without_a_split(tmp_path):
    write_images(tmp_path / "b", gray(30), gray(40))
    write_images(tmp_path / "a", gray(10), gray(20), Image.new("1", (5, 4), 1))
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    data = load(str(tmp_path), "all")
    assert data.x.shape == (5, 1, 4, 5)
    assert data.x[:, 0, 0, 0].tolist() == [10, 20, 255, 30, 40]
    assert data.y.tolist() == [0, 0, 0, 1, 1]
    assert not has_own_split(str(tmp_path))
    assert len(load(str(tmp_path), "train")) == 4


def test_folder_of_images_with_a_split_mixes_modes_to_rgb(tmp_path):
    write_images(tmp_path / "train" / "cat", Image.new("RGB", (5, 4), (1, 2, 3)), gray(9))
    write_images(tmp_path / "train" / "dog", Image.new("RGBA", (5, 4), (4, 5, 6, 255)))
    write_images(tmp_path / "test" / "dog", Image.new("RGB", (5, 4), (8, 8, 8)), kind="jpg")
    train, test = load(str(tmp_path), "train"), load(str(tmp_path), "test")
    assert train.x[:, :, 0, 0].tolist() == [[1, 2, 3], [9, 9, 9], [4, 5, 6]]
    assert train.y.tolist() == [0, 0, 1]
    assert (test.y.tolist(), test.classes, test.x[0, :, 0, 0].tolist()) == ([1], 2, [8, 8, 8])


def test_unusable_folders(tmp_path):
    with pytest.raises(BadInput, match="is a folder without a dataset"):
        load(str(tmp_path))
    (tmp_path / "one" / "a").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds no png, jpg, bmp, tif, webp, pgm or ppm files"):
        load(str(tmp_path / "one"))
    write_images(tmp_path / "sizes" / "a", gray(1), Image.new("L", (6, 6)))
    with pytest.raises(BadInput, match="holds images of 5x4 and 6x6"):
        load(str(tmp_path / "sizes"))
    write_images(tmp_path / "deep" / "a", Image.fromarray(np.zeros((4, 5), dtype=np.uint16)))
    with pytest.raises(BadInput, match="more than 8 bits"):
        load(str(tmp_path / "deep"))
    write_images(tmp_path / "half" / "train" / "a", gray(1))
    with pytest.raises(BadInput, match=r"holds train/<class>/ but no test/<class>/"):
        load(str(tmp_path / "half"))
    write_images(tmp_path / "cut" / "a", Image.fromarray(pixels(40, 40)))
    file = tmp_path / "cut" / "a" / "0.png"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(BadInput, match=r"0.png cannot be read"):
        load(str(tmp_path / "cut"))
    file.write_bytes(b"<html>")
    with pytest.raises(BadInput, match=r"0.png cannot be read"):
        load(str(tmp_path / "cut"))


def test_named_sets_come_from_gauntlet_data(tmp_path, monkeypatch):
    monkeypatch.setenv("GAUNTLET_DATA", str(tmp_path))
    (tmp_path / "cifar100").mkdir()
    np.savez(tmp_path / "cifar100" / "test.npz", x=pixels(4, 32, 32, 3), y=np.arange(4))
    data = load("cifar100")
    assert (data.classes, data.shape, data.source) == (100, (3, 32, 32), "$GAUNTLET_DATA/cifar100/test.npz")
    np.savez(tmp_path / "cifar100" / "test.npz", x=pixels(4, 32, 32, 3), y=np.arange(4) + 97)
    with pytest.raises(BadInput, match="has the label 100; cifar100 has 100 classes"):
        load("cifar100")


def write_idx(folder: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *x.shape) + x.tobytes())
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(y)) + y.tobytes())


def test_mnist_is_read_from_the_cache(cache):
    x, y = pixels(12, 28, 28), np.arange(12, dtype=np.uint8) % 10
    for name in ("MNIST", "FashionMNIST"):
        write_idx(cache / name / "raw", "train", x, y)
        write_idx(cache / name / "raw", "t10k", x[:3], y[:3])
    for name in ("mnist", "fashion_mnist"):
        train, test = load(name, "train"), load(name)
        assert (train.source, train.family, train.classes, len(test)) == ("cache", "mnist", 10, 3)
        assert np.array_equal(train.x[:, 0].numpy(), x)
        assert train.y.tolist() == y.tolist()
    image_file = cache / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    image_file.write_bytes(image_file.read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"mnist is not here.*\$GAUNTLET_DATA/mnist/.*network.*which failed"):
        load("mnist")


def test_mnist_is_downloaded(cache, site, monkeypatch, capfd):
    folder, address = site
    write_idx(folder, "train", pixels(5, 28, 28), np.arange(5, dtype=np.uint8))
    write_idx(folder, "t10k", pixels(3, 28, 28), np.arange(3, dtype=np.uint8))
    resources = []
    for file in sorted(folder.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{address}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    assert load("mnist").y.tolist() == [0, 1, 2]
    assert (cache / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").exists()
    assert capfd.readouterr().out == ""


def cifar_batch(size: int) -> dict[str, object]:
    return {"data": pixels(size, 3072), "labels": list(range(size))}


def test_cifar10_is_downloaded(cache, site, monkeypatch, capfd):
    folder, address = site
    batches = {"data_batch_1": cifar_batch(4), "test_batch": cifar_batch(2), "batches.meta": {"label_names": ["a"]}}
    files = {name: pickle.dumps(batch) for name, batch in batches.items()}
    with tarfile.open(folder / "small.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    sums = {name: md5(content).hexdigest() for name, content in files.items()}
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "url", f"{address}/small.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", md5((folder / "small.tar.gz").read_bytes()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    train, test = load("cifar10", "train"), load("cifar10")
    assert (len(train), len(test), test.source, test.shape) == (4, 2, "cache", (3, 32, 32))
    assert np.array_equal(train.x.flatten(1).numpy(), batches["data_batch_1"]["data"])
    assert train.y.tolist() == [0, 1, 2, 3]
    assert capfd.readouterr().out == ""
    assert (cache / "small.tar.gz").exists() or (cache / "cifar-10-python.tar.gz").exists()


def test_svhn_is_downloaded(cache, site, monkeypatch):
    folder, address = site
    x = pixels(4, 3, 32, 32)
    scipy.io.savemat(folder / "test.mat", {"X": x.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [9], [2]], "u1")})
    checksum = md5((folder / "test.mat").read_bytes()).hexdigest()
    splits = {"test": [f"{address}/test.mat", "test_32x32.mat", checksum]}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    data = load("svhn")
    assert np.array_equal(data.x.numpy(), x)
    assert data.y.tolist() == [0, 1, 9, 2]
    assert (cache / "test_32x32.mat").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_failed_download_names_both_ways(cache, tmp_path, monkeypatch, name):
    nowhere = (tmp_path / "nowhere").as_uri()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{nowhere}/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{nowhere}/cifar.tar.gz")
    with pytest.raises(BadInput, match=rf"at \$GAUNTLET_DATA/{name}/, or have network.*No such file") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert str(cache) in str(caught.value)


@real
@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_real_sets(name, shape):
    data = load(name)
    assert (len(data), data.shape, data.classes, data.x.dtype) == (10000, shape, 10, torch.uint8)
    assert data.y.bincount().min() > 800
    mean = data.x.double().mean((0, 2, 3)) / 255
    expected = STATISTICS[name][0] if name in STATISTICS else (0.13,)
    assert torch.allclose(mean, torch.tensor(expected).double(), atol=0.01)


def test_crop_and_flip_does_not_depend_on_the_batch():
    x, ids = torch.from_numpy(pixels(20, 3, 8, 8)), torch.arange(100, 120)
    whole = crop_and_flip(x, Rng(7, ids))
    some = torch.tensor([13, 2, 5])
    assert torch.equal(crop_and_flip(x[some], Rng(7, ids[some])), whole[some])
    assert not torch.equal(crop_and_flip(x, Rng(8, ids)), whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_shift_keeps_the_image(dtype):
    x = torch.from_numpy(pixels(6, 3, 8, 9)).to(dtype)
    rng = Rng(0, torch.arange(6))
    assert torch.equal(crop_and_flip(x, rng, pad=0, flip=False), x)
    flipped = crop_and_flip(x, rng, pad=0)
    same, mirrored = (flipped == x).flatten(1).all(1), (flipped == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert flipped.dtype == dtype


@few
@given(
    seed=st.integers(0, 2**32),
    pad=st.integers(0, 4),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    shape=st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(3, 9), st.integers(3, 9)),
)
def test_output_is_a_window_of_the_padded_image(seed, pad, flip, dtype, shape):
    x = torch.from_numpy(pixels(*shape)).to(dtype)
    out = crop_and_flip(x, Rng(seed, torch.arange(shape[0])), pad, flip)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    padded = F.pad(x, (pad, pad, pad, pad))
    places = [(down, right) for down in range(2 * pad + 1) for right in range(2 * pad + 1)]
    for image, around in zip(out, padded, strict=True):
        windows = [around[:, d : d + shape[2], r : r + shape[3]] for d, r in places]
        assert any(torch.equal(image, w) or (flip and torch.equal(image, w.flip(2))) for w in windows)


def test_every_shift_and_both_sides_occur():
    x = torch.zeros(3000, 1, 5, 6, dtype=torch.uint8)
    x[:, :, 2, 2] = 1
    out = crop_and_flip(x, Rng(0, torch.arange(3000)), pad=1)
    places = out.flatten(1).float().argmax(1).bincount(minlength=30).view(5, 6)
    # Unflipped the mark lies in columns 1 to 3, flipped in 2 to 4: the shared ones are met twice as often.
    expected = torch.tensor([0.0, 1, 2, 2, 1, 0]).repeat(3, 1) * 3000 / 18
    assert torch.allclose(places[1:4].float(), expected, atol=75)
    assert places.sum() == places[1:4].sum()


def test_what_promises_more_than_is_needed_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, x=np.zeros((20_000, 64, 64), np.uint8), y=np.zeros(20_000, np.int64))
    assert bomb.stat().st_size < 2**18
    with pytest.raises(BadInput, match="promises 81920128 bytes, and at most 1000000 can be needed"):
        load(str(bomb), "test", 1_000_000)
    assert len(load(str(bomb), "all", 100_000_000)) == 20_000
    for label in ("0", "1"):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("L", (4000, 4000)).save(tmp_path / "set" / label / "x.png")
    with pytest.raises(BadInput, match="promises 32000000 bytes"):
        load(str(tmp_path / "set"), "all", 1_000_000)
    assert len(load(str(tmp_path / "set"), "all", 32_000_000)) == 2
