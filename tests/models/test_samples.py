"""A network is judged on what its training never saw, whatever became of the file that it was trained on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench import evaluate, train
from bench.cli.commands import main
from bench.core import shuffled
from bench.data import SEEN, hold_out, load
from bench.errors import BadInput
from bench.models import samples_of, training_beside, training_record
from bench.verify import Given, verify_cards

DIGITS = load("digits", "train")
SIZE = 200
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def pixels(data: Tensor) -> Pixels:
    return data[:, 0].numpy()


X, Y = pixels(DIGITS.x[:SIZE]), DIGITS.y[:SIZE].numpy()
MORE, MORE_Y = pixels(DIGITS.x[SIZE : SIZE + 60]), DIGITS.y[SIZE : SIZE + 60].numpy()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.npz, which has no split of its own, and the run folder of a training on it."""
    folder = tmp_path_factory.mktemp("mine")
    np.savez(folder / "mine.npz", x=X, y=Y)
    made = train("standard", dataset=str(folder / "mine.npz"), settings={"epochs": "1"}, results=folder / "results", quiet=True)
    made.rename(folder / "run")
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path) -> Path:
    """The same, to be harmed."""
    shutil.copytree(place / "run", tmp_path / "run")
    record = tmp_path / "run" / "train.json"
    record.write_text(record.read_text().replace(str(place), str(tmp_path)))
    shutil.copy(place / "mine.npz", tmp_path / "mine.npz")
    return tmp_path


def places(split: str) -> list[int]:
    """Where in the file what was trained on lies, and what was held out for a test."""
    order: list[int] = shuffled(SIZE, 0, "split").tolist()
    return order[: SIZE // 5] if split == "test" else order[SIZE // 5 :]


def altered(x: Pixels) -> Pixels:
    """A bit of the first training image is another, and so is the file."""
    x = x.copy()
    x[places("train")[0], 3, 3] ^= 1
    return x


def test_as_it_was_it_is_the_fifth_that_was_held_out(here: Path) -> None:
    samples = samples_of(str(here / "mine.npz"), [training_record(str(here / "run"))], None)
    assert (samples.split, samples.taken) == ("test", "")
    assert samples.ids.tolist() == places("test")
    assert (here / "run" / SEEN).stat().st_size < 64 * SIZE + 1000


@pytest.mark.parametrize(
    ("change", "few"),
    [
        (lambda x, y: (np.concatenate([x, MORE]), np.concatenate([y, MORE_Y])), 90),
        (lambda x, y: (np.concatenate([MORE, x]), np.concatenate([MORE_Y, y])), 90),
        (lambda x, y: (x[::-1], y[::-1]), 30),
        (lambda x, y: (x[:150], y[:150]), 15),
        (lambda x, y: (altered(x), y), 30),
        (lambda x, y: (x, (y + 1) % 10), 30),
        (lambda x, y: ((x / 255).astype(np.float32), y), 30),
        (lambda x, y: (np.concatenate([x // 2, MORE]), np.concatenate([y, MORE_Y])), 50),
        (lambda x, y: (np.concatenate([x, x[:5] // 2]), np.concatenate([y, y[:5]])), 30),
    ],
    ids=["grown", "grown before", "turned round", "shrunk", "a bit", "labels", "floats", "darker and grown", "copies"],
)
@pytest.mark.parametrize("name", ["mine.npz", "other.npz"])
def test_changed_it_is_what_the_training_never_saw(
    here: Path, change: Callable[[Pixels, Labels], tuple[Pixels, Labels]], few: int, name: str
) -> None:
    x, y = change(X, Y)
    (here / "mine.npz").unlink()
    np.savez_compressed(here / name, x=x, y=y)
    samples = samples_of(str(here / name), [training_record(str(here / "run"))], None)
    seen = {X[place].tobytes() for place in places("train")} | {(X[place] // 2).tobytes() for place in places("train")}
    images = (samples.x[:, 0] * (1 if samples.x.dtype == torch.uint8 else 255)).round().to(torch.uint8).numpy()
    assert not [number for number, image in enumerate(images) if image.tobytes() in seen]
    assert few <= len(samples) <= len(x) - 0.6 * SIZE
    if len(x) == SIZE and np.array_equal(x, altered(X)):
        assert set(samples.ids.tolist()) <= set(places("test"))


def test_a_folder_that_grew_and_a_card_that_says_so(tmp_path: Path) -> None:
    def write(numbers: range) -> None:
        for number in numbers:
            folder = tmp_path / "images" / str(int(DIGITS.y[number]))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(DIGITS.x[number, 0].numpy()).save(folder / f"{number}.png")

    write(range(100))
    dataset = str(tmp_path / "images")
    folder = train("standard", dataset=dataset, settings={"epochs": "1"}, results=tmp_path / "r", quiet=True)
    trained = {image.numpy().tobytes() for image in load(dataset, "train").x}
    write(range(100, 130))
    card, path = evaluate(str(folder), dataset=dataset, plan_name="smoke", eps="0.01", quiet=True)
    assert 40 <= card.n <= 50
    assert f"{card.n} of 130: without those that the network was trained on" in card.data.taken
    ids = torch.tensor(pd.read_parquet(path.parent / "samples.parquet").id.unique())
    assert not [image for image in load(dataset, "all").x[ids] if image.numpy().tobytes() in trained]
    (row,) = verify_cards([path], Given(dataset=dataset), quiet=True)
    assert row.verdict == "holds"
    # A choice of samples that nothing explains is no row.
    forged = card.model_copy(update={"data": card.data.model_copy(update={"taken": "the best"})})
    (folder / SEEN).unlink()
    forged.save(path)
    (row,) = verify_cards([path], Given(dataset=dataset), quiet=True)
    assert row.verdict == "fails"


@pytest.mark.parametrize("split", [False, True])
def test_test_images_that_were_trained_on_are_told(tmp_path: Path, split: bool) -> None:
    """The row is what the data says it is; that it is too good is said beside it."""
    x, y = np.concatenate([X[:60], X[:60]]), np.concatenate([Y[:60], Y[:60]])
    arrays = {"x_train": x[:80], "y_train": y[:80], "x_test": x[80:], "y_test": y[80:]} if split else {"x": x, "y": y}
    np.savez(tmp_path / "twice.npz", **arrays)
    dataset = str(tmp_path / "twice.npz")
    folder = train("standard", dataset=dataset, settings={"epochs": "1"}, results=tmp_path / "r", quiet=True)
    known = {image.numpy().tobytes() for image in load(dataset, "train").x}
    test = load(dataset, "test")
    count = sum(image.numpy().tobytes() in known for image in test.x)
    card, _ = evaluate(str(folder), plan_name="smoke", eps="0.01", quiet=True)
    assert (card.n, card.data.digest) == (len(test), test.digest)
    assert count > 5
    assert [told for told in card.warnings if told.startswith(f"{count} of {len(test)} test images of {dataset} are among")]


def test_weights_named_by_themselves_have_seen_what_their_run_saw(here: Path) -> None:
    weights = f"ckpt:{here}/run/best.safetensors"
    assert training_beside(weights)["dataset"] == str(here / "mine.npz")
    card, _ = evaluate(weights, dataset=str(here / "mine.npz"), plan_name="smoke", eps="0.01", results=here / "r", quiet=True)
    assert (card.data.split, card.n) == ("test", SIZE // 5)
    (here / "run" / "train.json").write_text('{"epochs": 3}')
    assert training_beside(weights) == training_beside("py:x.py:net") == {}


def test_a_file_without_what_was_trained_on_under_its_path_is_refused(here: Path) -> None:
    np.savez(here / "mine.npz", x=MORE, y=MORE_Y)
    record = training_record(str(here / "run"))
    with pytest.raises(BadInput, match=r"holds none of the images .* was trained on, though that was on this path"):
        samples_of(str(here / "mine.npz"), [record], None)
    np.savez(here / "new.npz", x=MORE, y=MORE_Y)
    assert len(samples_of(str(here / "new.npz"), [record], None)) >= 58


def test_nothing_but_what_was_trained_on_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rest, held = hold_out(load(str(here / "mine.npz"), "train"), 1000)
    for part in (rest, held):
        np.savez(here / "part.npz", x=pixels(part.x), y=part.y.numpy())
        with pytest.raises(BadInput, match=r"every image of .*part\.npz that could be judged on is one that"):
            samples_of(str(here / "part.npz"), [training_record(str(here / "run"))], None)
    arguments = ["gauntlet", "evaluate", str(here / "run"), "--dataset", str(here / "part.npz"), "--plan", "smoke", "--quiet"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "accuracy there is memory; give images that the network never saw" in capsys.readouterr().err


def test_a_split_of_its_own_is_cleared_of_what_was_trained_on(here: Path) -> None:
    split = here / "split.npz"
    np.savez(
        split, x_train=MORE, y_train=MORE_Y, x_test=np.concatenate([X[:50], MORE]), y_test=np.concatenate([Y[:50], MORE_Y])
    )
    samples = samples_of(str(split), [training_record(str(here / "run"))], None)
    fresh = set(places("test")) & set(range(50))
    assert len(fresh) + 58 <= len(samples) <= len(fresh) + 60
    assert "without those that the network was trained on" in samples.taken


def test_a_run_of_an_earlier_release_goes_on_as_long_as_its_file_stays(here: Path) -> None:
    (here / "run" / SEEN).unlink()
    record = training_record(str(here / "run"))
    assert samples_of(str(here / "mine.npz"), [record], None).ids.tolist() == places("test")
    np.savez(here / "more.npz", x=np.concatenate([X, MORE]), y=np.concatenate([Y, MORE_Y]))
    assert 90 <= len(samples_of(str(here / "more.npz"), [record], None)) <= 100
    shutil.copy(here / "more.npz", here / "mine.npz")
    for name in ("mine.npz", "more.npz"):
        with pytest.raises(BadInput, match="does not say which images it was trained on"):
            samples_of(str(here / name), [record], None)
    np.savez(here / "split.npz", x_train=X, y_train=Y, x_test=MORE, y_test=MORE_Y)
    assert len(samples_of(str(here / "split.npz"), [record], None)) == 60


def test_a_named_set_is_known_too(fast_run: Path, tmp_path: Path) -> None:
    record = training_record(str(fast_run))
    assert len(samples_of("digits", [record], None)) == 360
    test = load("digits", "test")
    x, y = (
        np.concatenate([part.numpy() for part in parts])
        for parts in ((DIGITS.x[:50, 0], test.x[:, 0]), (DIGITS.y[:50], test.y))
    )
    np.savez(tmp_path / "both.npz", x=x, y=y)
    samples = samples_of(str(tmp_path / "both.npz"), [record], None)
    assert 350 <= len(samples) <= 360
    assert min(samples.ids.tolist()) >= 50


def test_several_models_are_judged_on_what_none_of_them_saw(here: Path, fast_run: Path) -> None:
    other, mine = training_record(str(fast_run)), training_record(str(here / "run"))
    with pytest.raises(BadInput, match="every image of"):
        samples_of(str(here / "mine.npz"), [{}, mine, other], None)
    assert samples_of(str(here / "mine.npz"), [{}, mine], None).ids.tolist() == places("test")
    fresh = pixels(load("digits").x[:80])
    np.savez(here / "more.npz", x=np.concatenate([X, fresh]), y=np.concatenate([Y, load("digits").y[:80].numpy()]))
    samples = samples_of(str(here / "more.npz"), [mine, other], None)
    assert set(samples.ids.tolist()) <= set(range(SIZE, SIZE + 80))
    assert len(samples) >= 75
