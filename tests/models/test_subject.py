"""What a model is when it is evaluated: with what its defense adds at test time, and what is proved about it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench import evaluate, train
from bench.core.expectation import randomised
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.errors import BadInput, GauntletError
from bench.evaluation.restarts import RADII
from bench.models import load_subject, resolve, samples_of, training_record
from bench.plugins.registry import make_defense
from bench.report import Entry, leaderboard, render
from bench.results import Card


def entries(*cards: Card) -> list[Entry]:
    return [Entry(card, Path(), None) for card in cards]


@pytest.fixture(scope="module")
def ibp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"epochs": "8"}
    return train("ibp", eps="0.1", settings=settings, results=tmp_path_factory.mktemp("ibp"), quiet=True)


@pytest.mark.slow
def test_what_is_proved_is_in_the_card_and_no_attack_goes_below_it(ibp: Path) -> None:
    card, path = evaluate(str(ibp), plan_name="smoke", quiet=True)
    proved = card.certified
    assert proved is not None
    assert proved.defense == "ibp"
    assert proved.n == card.n == 360
    assert 0.2 < proved.accuracy <= card.robust_accuracy <= card.clean_accuracy
    assert proved.contradicted == 0
    assert [point.eps for point in proved.curve] == ["0", *(ThreatModel.parse("linf", "0.1").scaled(f).eps_text for f in RADII)]
    accuracies = [point.robust_accuracy for point in proved.curve]
    assert accuracies[0] == card.clean_accuracy
    assert accuracies[4] == proved.accuracy
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[1] > accuracies[4] > accuracies[-1]
    assert leaderboard(entries(card)).certified.tolist() == [100 * proved.accuracy]
    assert "| certified" in render(entries(card), "md").replace("|   certified", "| certified")
    again, _ = evaluate(str(ibp), plan_name="smoke", quiet=True)
    assert again == card
    assert path.parent.parent == ibp


def test_a_column_without_proofs_is_not_shown(fast_run: Path) -> None:
    card, _ = evaluate(str(fast_run), plan_name="smoke", n=20, quiet=True)
    assert card.certified is None
    assert "certified" not in render(entries(card), "md")


def test_a_defense_added_at_test_time_makes_another_row(fast_run: Path) -> None:
    plain, _ = evaluate(str(fast_run), plan_name="smoke", n=60, quiet=True)
    added, path = evaluate(str(fast_run), plan_name="smoke", n=60, test_time="rfi?k=2", quiet=True)
    assert added.name == f"{plain.name}+rfi"
    assert (plain.model.test_time, added.model.test_time) == ("", "rfi?k=2")
    data = load("digits", "test").first(60)
    base, projected = (load_subject(str(fast_run), data, "digits", 0, text).model.net for text in ("", "rfi?k=2"))
    x, _ = data.batch(torch.arange(60))
    assert not torch.equal(base(x), projected(x))
    records = pd.read_parquet(path.parent / added.records.file)
    assert (records[records.attack == "clean"].broken == (projected(x).argmax(1) != data.y).numpy()).all()


def own_file(path: Path, *, split: bool) -> str:
    """The first 40 test digits, alone or with training images of their own."""
    test, train = load("digits", "test").first(40), load("digits", "train").first(200)
    images = {"_test": test, "_train": train} if split else {"": test}
    arrays = {f"x{of}": part.x.permute(0, 2, 3, 1).numpy() for of, part in images.items()}
    np.savez(path, **arrays, **{f"y{of}": part.y.numpy() for of, part in images.items()})
    return str(path)


def test_what_is_fitted_is_fitted_on_what_was_trained_on(fast_run: Path, tmp_path: Path) -> None:
    """And never on the images that are judged, wherever those are from."""
    own, rival = own_file(tmp_path / "own.npz", split=False), own_file(tmp_path / "split.npz", split=True)
    samples = load("digits", "test").first(40)
    x, _ = samples.batch(torch.arange(40))
    nets = {}
    for name, dataset in (("digits", "digits"), ("own", own), ("rival", rival)):
        under = load_subject(str(fast_run), samples, dataset, 0, "rfi?k=2")
        nets[name] = under.model.net(x)
    assert torch.equal(nets["digits"], nets["own"])
    assert torch.equal(nets["digits"], nets["rival"])


def test_what_a_network_from_elsewhere_is_fitted_on_is_a_part_of_what_it_is(fast_run: Path, tmp_path: Path) -> None:
    own, rival = own_file(tmp_path / "own.npz", split=False), own_file(tmp_path / "split.npz", split=True)
    file = tmp_path / "net.safetensors"
    shutil.copy(fast_run / "best.safetensors", file)
    asked: dict[str, Any] = {"plan_name": "smoke", "n": 20, "test_time": "rfi?k=2", "quiet": True}
    with pytest.raises(BadInput, match=r"would learn from those that it is judged on: .*own.npz has none of its own"):
        evaluate(f"ckpt:{file}", dataset=own, results=tmp_path, **asked)
    first, path = evaluate(f"ckpt:{file}", dataset=rival, results=tmp_path, **asked)
    assert first.model.answers
    with np.load(rival) as arrays:
        fewer = {key: array[:100] if key.endswith("train") else array for key, array in arrays.items()}
    np.savez(rival, **fewer)
    _, other = evaluate(f"ckpt:{file}", dataset=rival, results=tmp_path, **asked)
    assert path != other


def test_randomness_is_seen_beside_an_offset_of_all_logits(fast_run: Path) -> None:
    """Likelihoods share one that is a thousand times what tells classes apart."""
    samples = load("digits", "test").first(40)
    body = load_subject(str(fast_run), samples, "digits", 0).model.net

    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return body(x + 0.25 * torch.randn_like(x)) - 1e5

    x, _ = samples.batch(torch.arange(40))
    assert randomised(Noisy(), x, 0)
    assert not randomised(body, x, 0)


def test_statistics_of_the_batch_are_used_where_the_training_says_so(tmp_path: Path) -> None:
    folder = train(
        "standard", model="resnet18?width=2", settings={"epochs": "1", "statistics": "batch"}, results=tmp_path, quiet=True
    )
    data = load("digits", "test").first(40)
    under = load_subject(str(folder), data, "digits", 0)
    net = under.model.net
    x, _ = data.batch(torch.arange(40))
    assert not torch.allclose(net(x)[:10], net(x[:10]), atol=1e-3)
    assert under.batch_dependent


@pytest.mark.slow
def test_a_network_of_the_batch_is_neither_certified_nor_ranked(tmp_path: Path) -> None:
    cards = []
    for statistics in ("running", "batch"):
        settings = {"epochs": "2", "statistics": statistics, "estimation": "1000", "draws": "4"}
        folder = train(
            "smoothing", norm="l2", eps="0.1", model="resnet18?width=4", settings=settings, results=tmp_path / statistics,
            quiet=True,
        )  # fmt: skip
        cards.append(evaluate(str(folder), plan_name="smoke", n=40, quiet=True)[0])
    plain, tied = cards
    assert (plain.batch_dependent, tied.batch_dependent) == (False, True)
    assert plain.certified is not None
    assert tied.certified is None
    table = leaderboard(entries(*cards))
    assert dict(zip(table.verdict, table["rank"], strict=True)) == {"": "1", "not comparable": "-"}
    assert "not comparable: the answer to an image depends on the others" in render(entries(*cards), "md")


def test_an_ensemble_is_projected_member_by_member(tmp_path: Path) -> None:
    settings = {"epochs": "2", "steps": "1", "snapshots": "[0.5, 1.0]"}
    folder = train("rfi", model="digits_cnn?width=8", settings=settings, results=tmp_path, quiet=True)
    data = load("digits", "test").first(40)
    net = load_subject(str(folder), data, "digits", 0).model.net
    x, _ = data.batch(torch.arange(40))
    rfi, members = make_defense("rfi", {}), []
    for number in (1, 2):
        member = resolve(f"{folder}?weights=snapshot-{number}", (1, 8, 8), 10).net
        members.append(rfi.fit(member.eval(), load("digits", "train"))(x).softmax(1))
    torch.testing.assert_close(net(x).exp(), sum(members) / 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fast_at", "changes nothing at test time"),
        ("rfo", "did you mean"),
        ("rfi?k=0", "k = '0'"),
        ("rfi?j=3", "j"),
        ("rfi?k", "not key=value"),
    ],
)
def test_what_cannot_be_added_is_told(fast_run: Path, text: str, told: str) -> None:
    with pytest.raises(GauntletError, match=told):
        load_subject(str(fast_run), load("digits", "test").first(20), "digits", 0, text)


def test_samples_and_record_of_a_run(fast_run: Path) -> None:
    record = training_record(f"run:{fast_run}?weights=last")
    assert record["defense"] == "fast_at"
    assert len(samples_of("digits", [record], None)) == 360
    assert len(samples_of("digits", [record], 7)) == 7
    assert training_record("nowhere") == {}


@pytest.mark.parametrize("name", ["run:row", "ckpt:row", "py:row.py:net", "row?weights=last"])
def test_a_training_may_lie_in_a_folder_whose_name_reads_like_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {"model": "digits_cnn?width=2", "settings": {"epochs": 1}, "device_name": "cpu", "quiet": True}
    run = train("standard", results=name, **asked)
    assert run.parts[0] == name
    assert train("standard", results=name, **asked) == run


GREEDY = """
import torch


class Greedy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 640).sin().reshape(10, 64))

    def forward(self, x):
        if len(x) > LIMIT:
            raise MemoryError
        return x.flatten(1) @ self.weight.T


def net():
    return Greedy()
"""


def test_where_memory_runs_out_while_loading_fewer_images_are_looked_at(tmp_path: Path) -> None:
    """And the model is the same one: its answers to the first samples are a part of what it is."""
    samples, found = load("digits", "test").first(64), []
    for limit in (1000, 20, 15):
        file = tmp_path / f"{limit}" / "greedy.py"
        file.parent.mkdir()
        file.write_text(
            GREEDY.replace("LIMIT", "self.limit").replace("super().__init__()", f"super().__init__(); self.limit = {limit}")
        )
        if limit < 16:
            with pytest.raises(MemoryError):
                load_subject(f"py:{file}:net", samples, "digits", 0)
            continue
        found.append(load_subject(f"py:{file}:net", samples, "digits", 0).answers)
    assert found[0] == found[1]
