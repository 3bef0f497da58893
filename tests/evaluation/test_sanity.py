"""What a card says of samples, labels and answers, per class and in sentences."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bench import evaluate
from bench.compare import compare_rows
from bench.data.datasets import load
from bench.models import resolve
from bench.results import Card, read_card
from bench.verify import Given, verify_cards

DIGITS = load("digits", "test")
NETS = """
import torch
from torch import nn
from bench.models import resolve


class Leaning(nn.Module):
    def __init__(self, lean, scale=1.0):
        super().__init__()
        self.net = resolve({run!r}, (1, 8, 8), 10).net
        self.lean, self.scale = lean, scale

    def forward(self, x):
        return self.net(x * self.scale) + self.lean * torch.eye(10)[4]


def honest():
    return Leaning(0.0)


def constant():
    return Leaning(1e4)


def dead():
    return Leaning(10.0, 0.0)


def dimmed():
    return Leaning(0.0, 1 / 255)
"""


@pytest.fixture(scope="module")
def nets(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nets") / "nets.py"
    file.write_text(NETS.replace("{run!r}", repr(str(fast_run))))
    return file


def measured(nets: Path, place: Path, name: str, **options: Any) -> tuple[Card, Path]:
    options = {"eps": "0.05", "plan_name": "smoke", "results": place / "results", "quiet": True, **options}
    return evaluate(f"py:{nets}:{name}", **options)


def saved(path: Path, x: Any, y: Any) -> str:
    np.savez(path, x=x, y=y)
    return str(path)


def images(n: int) -> tuple[Any, Any]:
    return DIGITS.x[:n, 0].numpy(), DIGITS.y[:n].numpy()


def test_accuracies_per_class_are_those_of_the_records(nets: Path, tmp_path: Path) -> None:
    card, path = measured(nets, tmp_path, "honest", n=150, eps="0.15")
    records = pd.read_parquet(path.parent / card.records.file)
    broken = records.groupby("id").broken.any()
    clean = records[records.attack == "clean"].set_index("id")
    for row in card.classes:
        mine = clean.index[clean.label == row.label]
        assert row.n == len(mine)
        assert row.clean_accuracy == pytest.approx(1 - clean.broken[mine].mean())
        assert row.robust_accuracy == pytest.approx(1 - broken[mine].mean())
    assert [row.label for row in card.classes] == list(range(10))
    assert card.balanced_accuracy == pytest.approx(np.mean([row.clean_accuracy for row in card.classes]))
    assert card.balanced_robust_accuracy == pytest.approx(np.mean([row.robust_accuracy for row in card.classes]))
    assert card.robust_accuracy < card.clean_accuracy
    assert not card.constant
    assert card.warnings == ()
    assert card.data.taken == ""


@pytest.mark.slow
def test_a_constant_network_is_told(nets: Path, tmp_path: Path) -> None:
    card, path = measured(nets, tmp_path, "constant", n=100, diagnosed=True)
    (warning,) = card.warnings
    assert warning.startswith("the network answers class 4 to 100% of the images, whatever they show")
    assert card.constant
    assert card.balanced_accuracy == pytest.approx(0.1)
    assert card.answers is not None
    assert (card.answers.label, card.answers.share, card.answers.elsewhere) == (4, 1.0, 1.0)
    assert card.diagnosis is not None
    first = card.diagnosis.findings[0]
    assert (first.check, first.verdict) == ("more than one answer", "broken")
    assert read_card(path) == card
    honest, other = measured(nets, tmp_path, "honest", n=100)
    assert honest.warnings == ()
    notes = compare_rows(str(other), str(path)).notes
    assert any("the network answers one class to almost every image" in note for note in notes)


def test_of_few_images_of_other_classes_nothing_is_said_of_all(tmp_path: Path) -> None:
    """A single image of a rare class, answered with the common one, made a sound network constant."""
    x, y = load("digits").batch(torch.arange(100))
    zeros = (y == 0).nonzero().squeeze(1)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n"
        "        mean = x.flatten(1).mean(1)\n        return torch.stack([1 + 0 * mean, mean], 1)\n\n"
        "def net():\n    return Net()\n"
    )
    for others, told in ((1, False), (60, True)):
        chosen = torch.cat([zeros, (y != 0).nonzero().squeeze(1)[:others]])
        card, _ = evaluate(
            f"py:{tmp_path / 'mine.py'}:net", dataset=(x[chosen], (y[chosen] != 0).long()), norm="linf", eps="0.05",
            plan_name="smoke", results=tmp_path / str(others), quiet=True,
        )  # fmt: skip
        assert card.constant is told
        assert any("whatever they show" in warning for warning in card.warnings) is told


def test_chance_that_sets_in_under_attack_is_told(fast_run: Path, tmp_path: Path) -> None:
    """On clean images the network repeats itself, so that nothing averages its answers; the card did not hold a moment."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\nfrom bench.models import resolve\n\nclass Unsure(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        f"        self.net = resolve({str(fast_run)!r}, (1, 8, 8), 10).net\n"
        "    def forward(self, x):\n        z = self.net(x)\n        top = z.topk(2, 1).values\n"
        "        near = (top[:, 0] - top[:, 1] < 3).float()[:, None]\n        return z + 3 * near * torch.randn_like(z)\n\n"
        "def net():\n    return Unsure()\n"
    )
    x, y = load("digits").batch(torch.arange(360))
    top = resolve(str(fast_run), (1, 8, 8), 10).net(x).topk(2, 1)
    sure = ((top.values[:, 0] - top.values[:, 1] > 3) & (top.indices[:, 0] == y)).nonzero().squeeze(1)[:80]
    asked: dict[str, Any] = {"norm": "linf", "eps": "0.2", "plan_name": "smoke", "quiet": True}
    card, _ = evaluate(f"py:{tmp_path / 'mine.py'}:net", dataset=(x[sure], y[sure]), results=tmp_path, **asked)
    assert card.eot == 1
    (finding,) = (finding for finding in card.noticed if finding.check == "same answer twice")
    assert finding.verdict == "broken"
    assert "examples no longer break their samples when they are judged again" in " ".join(card.notes)
    assert card.verdict == "suspicious"


def test_nothing_is_spent_on_a_network_that_hides_nothing(nets: Path, tmp_path: Path) -> None:
    card, _ = measured(nets, tmp_path, "dead", n=40, plan_name="fast")
    (search,) = card.attacks
    assert card.constant
    assert search.masked == ""
    assert "escalation" not in {round.stage for round in search.rounds}
    assert {round.effort for round in search.rounds} == {1}


def test_images_scaled_twice_by_the_network_are_told(nets: Path, tmp_path: Path) -> None:
    card, _ = measured(nets, tmp_path, "dimmed", n=100)
    assert len(card.warnings) == 1
    assert "how it expects its images scaled" in card.warnings[0] or "the images scaled and cut as there" in card.warnings[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x // 255, "no pixel is brighter than 0.00392 on a scale from 0 to 1"),
        (lambda x: np.rint(x / 255 * 16).astype(np.uint8), "no pixel is brighter than 0.0627"),
        (lambda x: (x / 255 / 255).astype(np.float32), "no pixel is brighter than 0.00392"),
        (lambda x: (x // 4).astype(np.int64), "no pixel is brighter than 0.247"),
        (lambda x: x * 0 + 77, "every pixel of every image is 0.302"),
        (lambda x: x, ""),
        (lambda x: (x / 255).astype(np.float64), ""),
        (lambda x: (x // 3 + 100).astype(np.uint8), ""),
    ],
)  # fmt: skip
def test_pixels_of_another_range_are_told(nets: Path, tmp_path: Path, change: Any, told: str) -> None:
    x, y = images(40)
    card, _ = measured(nets, tmp_path, "honest", dataset=saved(tmp_path / "mine.npz", change(x), y))
    found = [warning for warning in card.warnings if "pixel" in warning]
    assert len(found) == bool(told)
    assert all(told in warning for warning in found)


def test_labels_numbered_otherwise_are_told(nets: Path, tmp_path: Path) -> None:
    x, y = images(100)
    right, _ = measured(nets, tmp_path, "honest", dataset=saved(tmp_path / "right.npz", x, y))
    assert right.warnings == ()
    wrong, _ = measured(nets, tmp_path, "honest", dataset=saved(tmp_path / "wrong.npz", x, (y + 1) % 10))
    (warning,) = wrong.warnings
    assert warning.startswith(f"clean accuracy {wrong.clean_accuracy:.1%} is not above that of always answering label")
    one, _ = measured(nets, tmp_path, "honest", dataset=saved(tmp_path / "one.npz", x[y == 9], y[y == 9]))
    assert one.warnings == (f"all {(y == 9).sum()} samples have the label 9: the numbers say nothing of other classes; "
                            "take samples of several",)  # fmt: skip


def test_more_outputs_than_classes_are_told_and_placed(nets: Path, tmp_path: Path) -> None:
    x, y = images(120)
    for image, label, number in zip(x, y, range(120), strict=True):
        if label in (3, 5, 8):
            (tmp_path / "some" / f"digit{label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "some" / f"digit{label}" / f"{number}.png")
    (tmp_path / "some" / "readme.md").write_text("three of ten")
    card, _ = measured(nets, tmp_path, "honest", dataset=str(tmp_path / "some"))
    assert card.data.labels == {"digit3": 0, "digit5": 1, "digit8": 2}
    unread, chance, outputs = card.warnings
    assert unread.startswith("1 files below")
    assert "always answering label" in chance
    assert outputs.startswith(
        "the network has 10 outputs and the data 3 classes: labels 0 to 2 are taken for its first outputs"
    )
    (tmp_path / "some" / "classes.txt").write_text("\n".join(f"digit{digit}" for digit in range(10)))
    (tmp_path / "some" / "readme.md").unlink()
    placed, _ = measured(nets, tmp_path, "honest", dataset=str(tmp_path / "some"))
    assert placed.data.labels == {"digit3": 3, "digit5": 5, "digit8": 8}
    assert placed.warnings == ()
    three = np.isin(y, (3, 5, 8))
    same, _ = measured(nets, tmp_path, "honest", dataset=saved(tmp_path / "three.npz", x[three], y[three]))
    # One image may turn out otherwise, as its pixels went through 8 bits.
    assert placed.clean_accuracy == pytest.approx(same.clean_accuracy, abs=1.1 / three.sum())
    assert placed.clean_accuracy > 0.7
    assert [row.label for row in placed.classes] == [3, 5, 8]
    renumbered, _ = measured(
        nets,
        tmp_path,
        "honest",
        dataset=saved(tmp_path / "some.npz", x[np.isin(y, [3, 5, 8])], np.arange(np.isin(y, [3, 5, 8]).sum()) % 3),
    )
    assert any("10 outputs and the data 3 as far as its labels tell" in warning for warning in renumbered.warnings)


def test_n_of_a_sorted_folder_is_a_row_that_can_be_checked(nets: Path, tmp_path: Path) -> None:
    x, y = images(200)
    for image, label, number in zip(x, y, range(200), strict=True):
        (tmp_path / "set" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / str(label) / f"{number}.png")
    card, path = measured(nets, tmp_path, "honest", dataset=str(tmp_path / "set"), n=50)
    assert card.data.taken.startswith("50 of 200: the classes take turns")
    assert [row.n for row in card.classes] == [5] * 10
    given = Given(model=f"py:{nets}:honest", dataset=str(tmp_path / "set"))
    (row,) = verify_cards([path], given, quiet=True)
    assert row.verdict == "holds", row.checks
    # The same number of other samples, whose records and examples would all hold.
    data = card.data.model_copy(update={"taken": "50 of 200: the classes take turns, by another seed"})
    card.model_copy(update={"data": data}).save(path)
    (row,) = verify_cards([path], given, quiet=True)
    assert row.verdict == "fails"


def test_cards_without_any_of_it_are_read(nets: Path, tmp_path: Path) -> None:
    card, path = measured(nets, tmp_path, "honest", n=20)
    content = card.model_dump(mode="json")
    for key in ("classes", "answers", "warnings", "balanced_accuracy", "balanced_robust_accuracy"):
        del content[key]
    for key in ("taken", "labels"):
        del content["data"][key]
    path.write_text(json.dumps(content))
    old = read_card(path)
    assert (old.classes, old.answers, old.warnings, old.constant) == ((), None, (), False)
    (row,) = verify_cards([path], Given(model=f"py:{nets}:honest"), quiet=True)
    assert row.verdict == "holds"
    assert torch.equal(DIGITS.take(20).ids, torch.arange(20))
