"""`gauntlet verify`: whatever is changed in a card or beside it is caught by name; a row can be lowered and never raised."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import evaluate, train
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.data.datasets import load
from bench.errors import BadInput, GauntletError
from bench.files.atomic import sha256
from bench.models import load_subject, resolve
from bench.plans import PLANS, Plan, reads_like
from bench.report import read_entries
from bench.results.archive import read_archive, read_examples, read_records, read_tensors, write_archive, write_records
from bench.results.card import Card, read_card
from bench.results.eight_bit import rounded
from bench.statistics.proportions import wilson
from bench.verify import contradictions
from bench.verify.additions import add
from bench.verify.cards import Verified, exit_code, render, verify_cards
from bench.verify.consistency import Samples
from bench.verify.loading import Given
from bench.verify.recheck import Jury

HERE = Given(device="cpu")
N = 120
NOISY = """
import torch
from torch import nn

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        from bench.data.datasets import load
        x, y = load("digits", "train").batch(torch.arange(1437))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        steps = torch.optim.Adam(self.net.parameters(), 1e-2)
        for _ in range(150):
            steps.zero_grad()
            nn.functional.cross_entropy(self.net(x), y).backward()
            steps.step()

    def forward(self, x):
        return self.net(x + 0.15 * torch.randn_like(x))

def net():
    return Noisy()
"""


def checked(path: Path, given: Given = HERE) -> Verified:
    (row,) = verify_cards([path], given, quiet=True)
    return row


def failing(row: Verified) -> dict[str, str]:
    """What fails, by name."""
    return {found.name: "; ".join(found.told) for found in row.checks if found.ok is False}


@pytest.fixture(scope="module")
def row(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of an evaluated run."""
    home = tmp_path_factory.mktemp("verify") / fast_run.name
    home.mkdir()
    for file in fast_run.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    return evaluate(str(home), plan_name="smoke", n=N, quiet=True, device_name="cpu")[1]


@pytest.fixture
def card(row: Path, tmp_path: Path) -> Path:
    """The same in a place of its own, to be tampered with."""
    shutil.copytree(row.parent.parent, tmp_path / row.parent.parent.name)
    return tmp_path / row.parent.parent.name / row.parent.name / "card.json"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_archive(path: Path, change: Callable[[Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor]]) -> None:
    """Another archive, which the card vouches for."""
    tensors, about = read_tensors(path.parent / "archive.safetensors")
    ids, z = change(tensors["ids"].clone(), tensors["z"].clone(), about)
    info = write_archive(path.parent / "archive.safetensors", ids, z, about)
    edit(path, lambda content: content["archive"].update(info.model_dump()))


def replace_records(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    rows = change(pd.read_parquet(path.parent / "samples.parquet"))
    info = write_records(path.parent / "samples.parquet", rows)
    edit(path, lambda content: content["records"].update(info.model_dump()))


def flip(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0x10
    path.write_bytes(content)


def test_what_was_evaluated_holds(row: Path) -> None:
    """Every check, on the card as the evaluation left it; the robust accuracy is that of an independent recount."""
    found = checked(row)
    assert failing(found) == {}
    assert found.verdict == "holds"
    told, card = read_tensors(row.parent / "archive.safetensors")[0], read_card(row)
    data = load("digits", "test").first(N)
    net = resolve(str(row.parent.parent), (1, 8, 8), 10).net
    x, y = data.batch(torch.arange(N))
    standing = net(x).argmax(1) == y
    standing[told["ids"][net(told["z"]).argmax(1) != y[told["ids"]]]] = False
    assert found.robust == card.robust_accuracy == int(standing.sum()) / N
    assert found.holding == found.examples == len(told["ids"]) > 20
    saved = (told["z"] * 255).round().to(torch.uint8).float() / 255
    inside = card.threat.eps == "0.2" and ((saved - x[told["ids"]]).abs().flatten(1).amax(1) <= 0.2 + 1e-6)
    survivors = int(((net(saved).argmax(1) != y[told["ids"]]) & inside).sum())
    assert found.surviving == survivors
    assert card.eight_bit_accuracy == (int((net(x).argmax(1) == y).sum()) - survivors) / N


def _larger_eps(path: Path) -> None:
    edit(path, lambda content: content["threat"].update(eps="0.4"))


def _renamed(path: Path) -> None:
    edit(path, lambda content: content.update(dataset="optdigits"))


def _accuracy(key: str, interval: str, by: int) -> Callable[[Path], None]:
    """Another accuracy, with the interval that goes with it."""

    def change(content: dict[str, Any]) -> None:
        count = round(content[key] * N) + by
        content.update({key: count / N, interval: wilson(count, N)})

    return lambda path: edit(path, change)


def _twice(ids: Tensor, z: Tensor, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    del about
    ids[1] = ids[0]
    return ids, z


def _outside(ids: Tensor, z: Tensor, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    del about
    x, _ = load("digits", "test").batch(ids[3:4])
    far = x + torch.where(x > 0.5, -0.23, 0.23)
    return ids, torch.cat([z[:3], far, z[4:]])


def _clean_instead(ids: Tensor, z: Tensor, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    del about
    x, _ = load("digits", "test").batch(ids[3:4])
    return ids, torch.cat([z[:3], x, z[4:]])


def _not_finite(ids: Tensor, z: Tensor, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    del about
    z[3, 0, 0, 0] = torch.nan
    return ids, z


def _out_of_the_box(ids: Tensor, z: Tensor, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    del about
    z[3, 0, 0, 0] = -0.1
    return ids, z


def _one_less(ids: Tensor, z: Tensor, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    del about
    return ids[1:], z[1:]


def _relabelled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(label=rows["label"].where(rows["id"] != 7, 9 - rows["label"]))


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(id=rows["id"].where(rows["id"] != 7, 300))


def _no_rows_of(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["attack"] != "square"]


def _set(*place: str | int, **changes: Any) -> Callable[[Path], None]:
    """Other values at a place of the card."""

    def change(content: Any) -> None:
        for key in place:
            content = content[key]
        content.update(changes)

    return lambda path: edit(path, change)


def _weaker(path: Path) -> None:
    edit(path, lambda content: content["attacks"][0]["parameters"].update(step=1e-9))


def _autoattack(path: Path) -> None:
    edit(path, lambda content: content["plan"]["attacks"][0].update(name="autoattack"))
    edit(path, lambda content: content["attacks"][0].update(name="autoattack"))
    replace_records(path, lambda rows: rows.assign(attack=rows["attack"].replace("pgd-20", "autoattack")))


def _left_out(path: Path) -> None:
    replace_records(path, lambda rows: rows[rows["attack"] != "pgd-20"])
    rows = pd.read_parquet(path.parent / "samples.parquet")
    stand = N - len(set(rows["id"][rows["broken"]]))
    nothing = {"attempted": 0, "broken": 0, "forwards": 0.0, "backwards": 0.0, "restarts": [], "notes": ["left out: a file"]}
    shares = {"robust_accuracy": stand / N, "interval": wilson(stand, N)}
    edit(path, lambda content: content["attacks"][0].update(nothing | shares))


def _certified(path: Path) -> None:
    proof = {"defense": "ibp", "n": N, "accuracy": 1.0, "interval": wilson(N, N), "curve": [], "contradicted": 0}
    edit(path, lambda content: content.update(certified=proof))


def _drop_class(path: Path) -> None:
    edit(path, lambda content: content["classes"].pop())


def _flipped(file: str, where: float) -> Callable[[Path], None]:
    return lambda path: flip(path.parent / file, where)


def _archived(change: Callable[[Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor]]) -> Callable[[Path], None]:
    return lambda path: replace_archive(path, change)


def _recorded(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda path: replace_records(path, change)


TAMPERED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a flipped byte in an example": (
        _flipped("archive.safetensors", 0.6), "archive", "sha256"),
    "a flipped byte in the archive's header": (_flipped("archive.safetensors", 0.004), "archive", "sha256"),
    "a flipped byte in the records": (_flipped("samples.parquet", 0.5), "records", "sha256"),
    "a larger eps": (_larger_eps, "header", "eps: the card says 0.4, archive.safetensors was made for 0.2"),
    "a renamed data set": (_renamed, "header", "dataset: the card says optdigits, archive.safetensors was made for digits"),
    "a robust accuracy edited upward": (_accuracy("robust_accuracy", "interval", 5), "outcomes", "robust accuracy: the card"),
    "a robust accuracy edited downward": (
        _accuracy("robust_accuracy", "interval", -5), "outcomes", "robust accuracy: the card"),
    "a clean accuracy edited": (_accuracy("clean_accuracy", "clean_interval", 2), "outcomes", "clean accuracy: the card"),
    "an interval edited": (
        _set(interval=[0.0, 1.0]), "card", "is not the interval of"),
    "an 8-bit accuracy edited": (
        _set(eight_bit_accuracy=1 / N),
        "8-bit accuracy", "and it is"),
    "an accuracy of an attack edited": (
        _set("attacks", 0, robust_accuracy=0.9, interval=wilson(108, 120)),
        "outcomes", "pgd-20: robust accuracy: the card says 90.00%"),
    "a cheaper attack": (
        _set("attacks", 0, forwards=1.0), "outcomes", "forwards are"),
    "an attack that is not of the plan": (
        _set("attacks", 1, name="autoattack"), "card", "the attacks are"),
    "no attacks": (_set(attacks=[]), "card", "the attacks are none"),
    "another plan": (
        _set("plan", "attacks", 0, "parameters", steps=1000),
        "card", "the digest of the plan is"),
    "an example out of the ball": (
        _archived(_outside), "examples", "0.23 from the clean image, the ball has 0.2"),
    "an example that does not fool": (_archived(_clean_instead), "examples", "does not fool the network"),
    "an example that is not finite": (_archived(_not_finite), "examples", "values that are not finite"),
    "an example out of the box": (_archived(_out_of_the_box), "examples", "leaves [0, 1] by 0.1"),
    "two examples of a sample": (_archived(_twice), "archive", "holds two examples of sample"),
    "a broken sample without an example": (_archived(_one_less), "archive", "without an example"),
    "edited labels": (_recorded(_relabelled), "data", "the labels of the records"),
    "chosen samples": (_recorded(_chosen), "data", "the ids of the records"),
    "rows left out": (_recorded(_no_rows_of), "outcomes", "square: was not run on"),
    "another n": (_set(n=N - 1), "records", f"{N} clean samples"),
    "training samples": (
        _set("data", split="train"), "card", "a row is measured on test samples"),
    "another digest of the data": (
        _set("data", digest="0" * 64), "data", "it is of other data"),
    "samples taken as nobody takes them": (
        _set("data", taken="120 of 360: the best"), "model", "neither a seed nor what the model was trained on explains"),
    "an accuracy of a class edited": (
        _set("classes", 3, robust_accuracy=1.0), "classes", "class 3: the card says 100.00% robust, the records"),
    "a class left out": (_drop_class, "classes", "the records hold other labels"),
    "a balanced accuracy edited": (
        _set(balanced_robust_accuracy=0.99), "classes", "balanced robust accuracy: the card says 99.00%, the records"),
    "answers that the records deny": (
        _set(answers={"label": 0, "share": 1.0, "elsewhere": 1.0}), "classes", "class 0 is not answered to so many"),
    "another architecture": (
        _set("model", arch="wide_resnet"), "model", "other arch in its train.json"),
    "a training of another architecture": (
        lambda path: edit(path.parents[1] / "train.json", lambda content: content.update(arch="wide_resnet")),
        "model", "other arch in its train.json"),
    "a training that collapsed otherwise": (
        _set("model", "training", collapse_epoch=3), "model", "other collapse_epoch of the training in its train.json"),
    "more epochs on the card than it was trained for": (
        _set("model", "training", epochs=300), "model", "other epochs of the training in its train.json"),
    "another defense": (
        _set("model", defense="trades"), "model", "other defense in its train.json"),
    "weaker parameters than the plan's": (
        _weaker, "attacks", "pgd-20: it ran with step = 1e-09, and its plan has 0.25"),
    "a column that another attack fills": (
        _set("attacks", 1, attack="pgd"), "attacks", "square: attack is 'pgd', and its plan has 'square'"),
    "a column called as another attack": (
        _autoattack, "attacks", "autoattack: its column is called as another attack, and it is pgd"),
    "an attack left out that is not optional": (
        _left_out, "attacks", "pgd-20: it was left out, which its plan does not allow"),
    "a certificate above what stands": (
        _certified, "attacks", f"certified accuracy: {N} of {N} samples are said to be certain"),
    "records that are gone": (lambda path: (path.parent / "samples.parquet").unlink(), "records", "No such file"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_was_tampered_with_is_caught_by_name(card: Path, what: str) -> None:
    tamper, name, told = TAMPERED[what]
    tamper(card)
    found = checked(card)
    assert found.verdict == "fails"
    assert told in failing(found)[name]
    assert exit_code([found]) == 1


@pytest.mark.parametrize(("more", "fails"), [({}, True), ({"eot": 20}, False), ({"batch_dependent": True}, False)])
def test_answers_are_bound_by_the_records_where_a_network_repeats_itself(card: Path, more: dict[str, Any], fails: bool) -> None:
    """One answer of chance, or in other company, need not be what the accuracy was counted from."""
    _set(answers={"label": 0, "share": 1.0, "elsewhere": 1.0}, **more)(card)
    assert ("classes" in failing(checked(card))) == fails


def test_a_swapped_model_is_caught(card: Path, periodic_run: Path) -> None:
    shutil.copy(periodic_run / "best.safetensors", card.parent.parent)
    found = checked(card)
    assert failing(found).keys() == {"model"}
    assert "is another model than the one evaluated" in failing(found)["model"]
    assert "another model" in failing(checked(card, HERE._replace(model=str(periodic_run))))["model"]


def test_samples_are_named_with_what_is_wrong(card: Path) -> None:
    ids = read_tensors(card.parent / "archive.safetensors")[0]["ids"]
    replace_archive(card, _outside)
    found = checked(card)
    assert f"sample {int(ids[3])}: 0.23 from the clean image, the ball has 0.2" in render([found])
    assert found.holding == found.examples - 1
    assert found.robust == pytest.approx(read_card(card).robust_accuracy + 1 / N)


def test_a_card_without_its_weights_is_not_checked_and_no_failure(card: Path, row: Path) -> None:
    (card.parent.parent / "best.safetensors").unlink()
    found = checked(card)
    assert found.verdict == "not checked"
    assert "its weights are not here" in render([found])
    assert exit_code([found]) == 2
    assert exit_code([found, checked(row)]) == 0
    assert checked(card, HERE._replace(model=str(row.parent.parent))).verdict == "holds"
    # What contradicts itself fails without them.
    _larger_eps(card)
    assert checked(card).verdict == "fails"


def test_a_card_without_its_archive_is_not_checked(card: Path) -> None:
    (card.parent / "archive.safetensors").unlink()
    found = checked(card)
    assert found.verdict == "not checked"
    assert "archive.safetensors is not here" in render([found])
    assert exit_code([found]) == 2


def test_strict_fails_where_anything_was_not_checked(card: Path, row: Path) -> None:
    (card.parent / "archive.safetensors").unlink()
    both = [checked(card), checked(row)]
    assert (exit_code(both), exit_code(both, strict=True), exit_code(both[1:], strict=True)) == (0, 1, 0)


def test_records_of_the_first_schema_are_read(card: Path) -> None:
    replace_records(card, lambda rows: rows.drop(columns="distance"))
    assert checked(card).verdict == "holds"


def test_code_runs_only_when_it_is_named(card: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n" + NOISY)
    edit(card, lambda content: content["model"].update(reference=f"py:{mine}:net"))
    found = checked(card)
    assert found.verdict == "not checked"
    assert "code, which runs only when you name it" in render([found])
    assert not (tmp_path / "ran").exists()
    assert checked(card, HERE._replace(model=f"py:{mine}:net")).verdict == "fails"
    assert (tmp_path / "ran").exists()


def test_a_plan_that_only_borrows_a_name_is_told(card: Path, row: Path) -> None:
    assert checked(row).notes == ()
    weak = {"name": "standard"}
    edit(card, lambda content: content["plan"].update(weak))
    assert "its plan is called standard and is not what this release runs" in render([checked(card)])
    assert [reads_like(name) for name in ("fast ", "FAST", "\uff46ast", "faster")] == ["fast", "fast", "fast", ""]


@pytest.fixture(scope="module")
def planned(row: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of a plan with a grid, restarts and a portfolio."""
    home = tmp_path_factory.mktemp("planned")
    pgd = {"attack": "pgd", "name": "searched", "parameters": {"steps": 3}, "grid": {"step": [0.05, 0.5]}, "restarts": 3}
    plan = Plan.model_validate({"name": "both", "attacks": [pgd, PLANS["fast"].attacks[0].model_dump()]})
    weights = str(row.parent.parent / "best.safetensors")
    return evaluate(
        weights, dataset="digits", plan_name=plan, n=60, results=home, quiet=True, device_name="cpu"
    )[1]  # fmt: skip


def _without(run: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows[~rows["run"].str.startswith(run)]


def _no_sweep(path: Path) -> None:
    """A portfolio that stopped after its opening."""
    rounds = json.loads(path.read_text())["attacks"][1]["rounds"]
    first = sum(round["stage"] == "opening" for round in rounds)
    edit(path, lambda content: content["attacks"][1].update(rounds=rounds[:first]))
    replace_records(path, lambda rows: rows[~rows["run"].str.startswith("round") | rows["run"].isin(_first(rows, first))])


def _first(rows: pd.DataFrame, count: int) -> list[str]:
    runs = [run for run in rows["run"].unique() if run.startswith("round")]
    return sorted(runs, key=lambda run: int(run.split()[1].strip(":")))[:count]


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (_recorded(_without("restart 1")), "searched: restart 1 was not run on"),
        (_recorded(_without("grid 0")), "searched: the records hold 1 of the 2 points of its grid"),
        (lambda path: edit(path, lambda content: content["attacks"][0]["restarts"].pop()), "and its plan has 3"),
        (lambda path: edit(path, lambda content: content["attacks"][0].update(grid=None)), "searched: its grid is not the one"),
        (_recorded(_without("round 6")), "rounds on the card are not the"),
        (_no_sweep, "it does not begin with the opening and the pilot of its plan"),
    ],
)
def test_a_run_of_the_plan_that_was_not_made_is_caught(
    planned: Path, tmp_path: Path, tamper: Callable[[Path], None], told: str
) -> None:
    files = HERE._replace(model=read_card(planned).model.reference)
    assert checked(planned, files).verdict == "holds"
    shutil.copytree(planned.parent, tmp_path / "mine")
    tamper(tmp_path / "mine" / "card.json")
    assert told in failing(checked(tmp_path / "mine" / "card.json", files))["attacks"]


@pytest.mark.slow
def test_a_sweep_a_portfolio_and_a_test_time_defense_hold(card: Path) -> None:
    weights = str(card.parent.parent / "best.safetensors")
    home = card.parent.parent.parent / "more"
    given = {"dataset": "digits", "n": 60, "results": home, "quiet": True, "device_name": "cpu"}
    evaluate(weights, plan_name="smoke", eps_sweep=["0.05", "0.12"], **given)  # type: ignore[arg-type]
    evaluate(weights, plan_name="smoke", test_time="rfi", **given)  # type: ignore[arg-type]
    evaluate(weights, plan_name="fast", **given)  # type: ignore[arg-type]
    named = HERE._replace(model=weights)
    rows = verify_cards([home], named, quiet=True)
    assert [found.verdict for found in rows] == ["holds"] * 3
    swept = next(path for path in home.rglob("card.json") if read_card(path).curve)
    edit(swept, lambda content: content["curve"][0].update(robust_accuracy=1.0, interval=wilson(60, 60)))
    assert "robust accuracy at 0.05: the card says 100.00%" in failing(checked(swept, named))["outcomes"]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("noisy")
    (home / "noisy.py").write_text(NOISY)
    model = f"py:{home / 'noisy.py'}:net"
    given = {"dataset": "digits", "n": 60, "eps": "0.1", "eot": 4, "results": home, "quiet": True, "device_name": "cpu"}
    return evaluate(model, plan_name="smoke", **given)[1], model  # type: ignore[arg-type]


def test_a_randomised_model_holds_as_far_as_chance_goes(noisy: tuple[Path, str]) -> None:
    """Fresh noise misses borderline examples; examples that never fool are no accident."""
    path, model = noisy
    named = HERE._replace(model=model)
    found = checked(path, named)
    assert found.verdict == "holds"
    assert found.robust == read_card(path).robust_accuracy
    seen = {one.name: one.told[0] for one in found.checks}
    confirmed = int(seen["examples"].split(", ")[1].split()[0])
    assert 0.3 * found.examples < confirmed < found.examples
    assert checked(path, named._replace(batch_size=7)).verdict == "holds"
    kept = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    replace_archive(path, lambda ids, z, about: (ids, load("digits", "test").batch(ids)[0]))
    told = failing(checked(path, named))
    assert "does not fool the network, whatever the noise" in told["examples"]
    assert "robust accuracy" in told
    for file, content in kept.items():
        file.write_bytes(content)


@pytest.mark.slow
def test_no_attack_is_imported(row: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from bench.cli.commands import main\n"
        "sys.argv = ['gauntlet', 'verify', sys.argv[1], '--quiet', '--device', 'cpu']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "bad = ('bench.attacks', 'bench.evaluation', 'bench.compat')\n"
        "print([name for name in sys.modules if name.startswith(bad)], code)\n"
    )
    command = [sys.executable, "-c", code, str(row)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert "examples         holds" in done.stdout


# Additions


@pytest.fixture(scope="module")
def better(weak: Path) -> tuple[Tensor, Tensor]:
    """Examples of five samples that still stand, from a longer search in the card's ball."""
    path = weak
    card = read_card(path)
    threat = ThreatModel.parse(card.threat.norm, card.threat.eps)
    data = load("digits", "test").first(N)
    net = resolve(str(path.parent.parent), (1, 8, 8), 10).net
    fallen = torch.cat([read_tensors(file)[0]["ids"] for file in path.parent.glob("*.safetensors")])
    x, y = data.batch(torch.arange(N))
    found = x.clone()
    for start in range(2):
        z = threat.random_start(x, Rng(start, data.ids))
        for step in range(20):
            z.requires_grad_()
            logits = net(z)
            true = logits.gather(1, y[:, None])[:, 0]
            other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            (grad,) = torch.autograd.grad((other - true).sum(), z)
            z = threat.project(z.detach() + 0.08 * (1 - step / 20) * grad.sign(), x)
            fooled = net(z).argmax(1) != y
            found[fooled] = z[fooled]
    good = (net(found).argmax(1) != y) & (net(x).argmax(1) == y) & ~torch.isin(data.ids, fallen)
    assert int(good.sum()) >= 5
    return data.ids[good][:5], found[good][:5].detach()


@pytest.fixture(scope="module")
def weak(row: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of a weak attack, which leaves much to be found."""
    home = tmp_path_factory.mktemp("weak") / row.parent.parent.name
    home.mkdir()
    for file in row.parent.parent.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    plan = home.parent / "weak.toml"
    plan.write_text('[[attacks]]\nattack = "fgsm"\n')
    return evaluate(str(home), plan_name=str(plan), n=N, quiet=True, device_name="cpu")[1]


@pytest.fixture
def standing(weak: Path, tmp_path: Path) -> Path:
    shutil.copytree(weak.parent.parent, tmp_path / "run")
    return tmp_path / "run" / weak.parent.name / "card.json"


def test_a_row_in_which_nothing_fell_is_lowered_too(row: Path, better: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """That nothing was broken says that no attempt was made, or none that could succeed."""
    run = tmp_path / row.parent.parent.name
    shutil.copytree(row.parent.parent, run, ignore=lambda folder, names: [name for name in names if name.startswith("smoke")])
    plan = tmp_path / "idle.toml"
    plan.write_text('[[attacks]]\nattack = "pgd"\nparameters = { steps = 1, step = 1e-9, start = "clean" }\n')
    card, path = evaluate(str(run), plan_name=str(plan), n=N, quiet=True, device_name="cpu")
    assert card.robust_accuracy == card.clean_accuracy
    ids, z = better
    save_file({"ids": ids, "z": z}, tmp_path / "found.safetensors")
    done = add(path, tmp_path / "found.safetensors", "Ada", HERE, quiet=True)
    assert done.card is not None, done.told
    assert done.card.robust_accuracy < card.robust_accuracy


def test_examples_of_another_shape_are_told(card: Path) -> None:
    replace_archive(card, lambda ids, z, about: (ids, torch.nn.functional.interpolate(z, scale_factor=2)))
    assert "holds images of (1, 16, 16), the data (1, 8, 8)" in failing(checked(card))["examples"]


def test_one_sure_answer_does_not_make_all_others_ties(row: Path) -> None:
    """A unit that is active on one image alone gives it a lead beside which any other looks like rounding."""
    samples, ids = load("digits").first(N), torch.arange(N)
    found = load_subject(str(row.parent.parent), samples, "digits", 0)
    body, first = found.model.net, samples.batch(torch.arange(1))[0]

    class Sure(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            same = (x == first).flatten(1).all(1)
            return body(x) + 1e11 * torch.nn.functional.one_hot(samples.y[:1], 10) * same[:, None]

    jury = Jury(found._replace(model=replace(found.model, net=Sure())), samples, ThreatModel.parse("linf", "0.2"), "", 32)
    x, y = samples.batch(ids)
    right = Sure()(x).argmax(1) == y
    assert not jury.clean(Samples(ids, y, right)).problems
    assert len(jury.clean(Samples(ids, y, torch.ones_like(right))).problems) == int((~right).sum()) > 0


def test_better_examples_lower_a_row_again_and_again(standing: Path, better: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    before, (ids, z) = read_card(standing), better
    save_file({"ids": ids[:3], "z": z[:3]}, tmp_path / "first.safetensors")
    np.savez(tmp_path / "second.npz", ids=ids.numpy(), x_adv=z.numpy())
    done = add(standing, tmp_path / "first.safetensors", "Ada", HERE, quiet=True)
    assert done.card == (first := read_card(standing))
    assert round((before.robust_accuracy - first.robust_accuracy) * N) == 3
    assert first.interval == wilson(round(first.robust_accuracy * N), N)
    # Three of the five are in the first file already.
    add(standing, tmp_path / "second.npz", "Grace", HERE, quiet=True)
    second = read_card(standing)
    assert [(addition.by, addition.broken) for addition in second.additions] == [("Ada", 3), ("Grace", 2)]
    assert round((before.robust_accuracy - second.robust_accuracy) * N) == 5
    assert second.attacks == before.attacks
    assert read_tensors(standing.parent / "added-002.safetensors")[1]["by"] == "Grace"
    found = checked(standing)
    assert found.verdict == "holds"
    assert found.examples == before.archive.rows + 5
    # The same evaluation finds the lowered card, and does not start anew without the examples.
    plan = tmp_path / "weak.toml"
    plan.write_text('[[attacks]]\nattack = "fgsm"\n')
    run = str(standing.parent.parent)
    assert evaluate(run, plan_name=str(plan), n=N, quiet=True, device_name="cpu")[0] == second
    flip(standing.parent / "added-001.safetensors", 0.7)
    assert "sha256" in failing(checked(standing))["archive of addition 1"]
    with pytest.raises(BadInput, match="would lose the examples that Ada added"):
        evaluate(run, plan_name=str(plan), n=N, quiet=True, device_name="cpu")


def test_an_addition_that_is_undone_is_caught(standing: Path, better: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """An old card put back while the examples that lowered it still lie there; handing them in again puts it right."""
    old, (ids, z) = standing.read_bytes(), better
    save_file({"ids": ids, "z": z}, tmp_path / "mine.safetensors")
    add(standing, tmp_path / "mine.safetensors", "Ada", HERE, quiet=True)
    lowered, file = read_card(standing), standing.parent / "added-001.safetensors"
    standing.write_bytes(old)
    found = checked(standing)
    assert set(failing(found)) == {"unlisted"}
    assert "break 5 samples that it counts as standing" in failing(found)["unlisted"]
    assert found.robust == lowered.robust_accuracy
    assert "added-001.safetensors lies beside the card" in contradictions(read_card(standing), standing.parent)[0]
    assert read_entries([standing])[0] == []
    # Further examples take no place of one that still counts, and neither does a part of them.
    save_file({"ids": ids[:2], "z": z[:2]}, tmp_path / "part.safetensors")
    digest = sha256(file)
    add(standing, tmp_path / "part.safetensors", "Ada", HERE, quiet=True)
    assert sha256(file) == digest
    assert read_card(standing).additions[0].archive.file == "added-002.safetensors"
    assert "break 3 samples" in failing(checked(standing))["unlisted"]
    (standing.parent / "added-002.safetensors").unlink()
    standing.write_bytes(old)
    assert add(standing, file, "Ada", HERE, quiet=True).card == lowered
    assert checked(standing).verdict == "holds"


def test_an_addition_that_was_interrupted_is_made_whole_by_the_same_command(
    standing: Path, better: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, z = better
    save_file({"ids": ids, "z": z}, tmp_path / "mine.safetensors")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Card, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            add(standing, tmp_path / "mine.safetensors", "Ada", HERE, quiet=True)
    assert set(failing(checked(standing))) == {"unlisted"}
    add(standing, tmp_path / "mine.safetensors", "Ada", HERE, quiet=True)
    assert [path.name for path in standing.parent.glob("added-*")] == ["added-001.safetensors"]
    assert checked(standing).verdict == "holds"


@pytest.mark.parametrize("kind", ["idle", "shape", "text", "pipe", "folder", "link"])
def test_whatever_is_called_like_an_addition_is_seen(standing: Path, better: tuple[Tensor, Tensor], kind: str) -> None:
    place, (ids, z) = standing.parent / "added-", better
    if kind == "idle":
        write_archive(place, ids, load("digits", "test").batch(ids)[0], {})
    elif kind == "shape":
        write_archive(place, ids, z[:, :, :4, :4], {})
    elif kind == "text":
        place.write_text("nothing")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    found = checked(standing)
    assert set(failing(found)) == {"unlisted"}
    assert found.robust == read_card(standing).robust_accuracy


def test_an_addition_that_does_not_hold_later_is_caught(standing: Path, better: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    ids, z = (part[:2].clone() for part in better)
    save_file({"ids": ids, "z": z}, tmp_path / "mine.safetensors")
    add(standing, tmp_path / "mine.safetensors", "Ada", HERE, quiet=True)
    file = standing.parent / "added-001.safetensors"
    _, about = read_tensors(file)
    info = write_archive(file, ids, load("digits", "test").batch(ids)[0], about)
    edit(standing, lambda content: content["additions"][0]["archive"].update(info.model_dump()))
    told = failing(checked(standing))
    assert f"sample {int(ids[0])}: does not fool" in told["examples"]
    assert "robust accuracy" in told
    edit(standing, lambda content: content["additions"][0].update(broken=1))
    assert "2 examples, the card says 1" in failing(checked(standing))["additions"]


def test_what_does_not_lower_a_row_changes_nothing(standing: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in standing.parent.iterdir() if file.is_file()}
    old, x = read_tensors(standing.parent / "archive.safetensors")[0], load("digits", "test").batch(torch.arange(N))[0]
    fallen = set(old["ids"].tolist())
    left = next(sample for sample in range(N) if sample not in fallen)
    cases = {
        f"sample {left}: does not fool": (torch.tensor([left]), x[left : left + 1]),
        f"sample {left}: 0.23 from": (
            torch.tensor([left]),
            x[left : left + 1] + torch.where(x[left : left + 1] > 0.5, -0.23, 0.23),
        ),
        "sample 5000: is none of the samples": (torch.tensor([5000]), x[:1]),
        f"sample {int(old['ids'][0])}: has fallen already": (old["ids"][:1].clone(), old["z"][:1].clone()),
    }
    for told, (ids, z) in cases.items():
        save_file({"ids": ids, "z": z}, tmp_path / "mine.safetensors")
        done = add(standing, tmp_path / "mine.safetensors", "Ada", HERE, quiet=True)
        assert done.card is None
        assert any(line.startswith(told) for line in done.told)
        assert before == {file.name: file.read_bytes() for file in standing.parent.iterdir() if file.is_file()}
    for name in ("", " ", "x" * 101, "a\x1b[2J"):
        with pytest.raises(BadInput, match="1 to 100 printable"):
            add(standing, tmp_path / "mine.safetensors", name, HERE, quiet=True)


def test_two_who_add_at_once_are_both_counted(standing: Path, better: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    ids, z = (part[:4].clone() for part in better)
    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.safetensors")
        save_file({"ids": ids[2 * number :][:2].clone(), "z": z[2 * number :][:2].clone()}, files[-1])
    before = read_card(standing)
    fork = multiprocessing.get_context("fork")
    adders = [fork.Process(target=add, args=(standing, file, file.stem, HERE), kwargs={"quiet": True}) for file in files]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(120)
    assert [adder.exitcode for adder in adders] == [0, 0]
    after = read_card(standing)
    assert {addition.by for addition in after.additions} == {"0", "1"}
    assert round((before.robust_accuracy - after.robust_accuracy) * N) == 4
    assert checked(standing).verdict == "holds"


# Hostile files


def refuse_card(path: Path, content: str, told: str) -> None:
    path.write_text(content)
    with pytest.raises(BadInput, match=told):
        read_card(path)
    assert checked(path).verdict == "fails"


def test_hostile_cards_are_refused(row: Path, tmp_path: Path) -> None:
    good, path = json.loads(row.read_text()), tmp_path / "card.json"
    refuse_card(path, row.read_text().replace('"seconds"', '"seconds": NaN, "seconds"', 1), "not JSON")
    refuse_card(path, row.read_text().replace(f'"n": {N}', f'"n": {N}, "seconds": 1e999', 1), "not JSON")
    refuse_card(path, "[" * 100_000, r"not JSON|nested")
    refuse_card(path, json.dumps({**good, "notes": [[[]]] * 30_000}), "values")
    refuse_card(path, json.dumps({**good, "n": 10**9}), "n: ")
    refuse_card(path, json.dumps({**good, "n": 0}), "n: ")
    refuse_card(path, json.dumps({**good, "robust_accuracy": 1.5}), "robust_accuracy: ")
    refuse_card(path, json.dumps({**good, "schema_version": True}), "schema version True")
    for eps in ("1e999999999", "9" * 4000, "1/0", "8/255/3", "nan", "-1", "inf"):
        refuse_card(path, json.dumps({**good, "threat": {"norm": "linf", "eps": eps}}), "eps")
    for name in ("../../secret", "/dev/zero", "a/b", ".hidden", ""):
        refuse_card(path, json.dumps({**good, "archive": {**good["archive"], "file": name}}), "archive.file")
    path.write_text(" " * (2**22 + 1))
    with pytest.raises(BadInput, match="at most"):
        read_card(path)
    path.unlink()
    path.symlink_to(row)
    with pytest.raises(BadInput, match="symbolic link, not a regular file"):
        read_card(path)
    for device in ("/dev/zero", str(tmp_path)):
        with pytest.raises(BadInput, match="not a regular file"):
            read_card(Path(device))


def test_a_pipe_is_not_waited_for(card: Path) -> None:
    for name in ("archive.safetensors", "samples.parquet"):
        (card.parent / name).unlink()
        os.mkfifo(card.parent / name)
    done: list[Verified] = []
    worker = threading.Thread(target=lambda: done.append(checked(card)), daemon=True)
    worker.start()
    worker.join(20)
    assert done
    assert "is a pipe, not a regular file" in failing(done[0])["archive"]
    assert "is a pipe, not a regular file" in failing(done[0])["records"]


def test_hostile_archives_are_refused_before_they_are_loaded(row: Path, tmp_path: Path) -> None:
    path = tmp_path / "archive.safetensors"
    huge = json.dumps({"ids": {"dtype": "I64", "shape": [2**40], "data_offsets": [0, 2**43]}}).encode()
    contents = {
        b"": "not a whole",
        (2**62).to_bytes(8, "little") + b"{}": "its header has",
        len(huge).to_bytes(8, "little") + huge: "not a whole",
        b"\xff" * 100: "its header has",
    }
    for content, told in contents.items():
        path.write_bytes(content)
        with pytest.raises(BadInput, match=told):
            read_archive(path, (1, 8, 8), N)
    ids, z = torch.arange(4), torch.zeros(4, 1, 8, 8)
    for tensors, told in (
        ({"ids": ids, "z": z.double()}, "float64"), ({"ids": ids.int(), "z": z}, "int32"),
        ({"ids": ids, "z": z[:3]}, "ids int64"),
        ({"ids": ids * 0, "z": z}, "two examples"), ({"ids": ids, "z": z[..., :4].contiguous()}, "images of 1x8x4"),
        ({"ids": ids, "z": z, "w": z + 1}, "no archive of examples"),
    ):  # fmt: skip
        save_file(tensors, path, {"about": "{}"})
        with pytest.raises(BadInput, match=told):
            read_archive(path, (1, 8, 8), N)
    save_file({"ids": ids, "z": z}, path, {"about": "{}"})
    with pytest.raises(BadInput, match="at most 3"):
        read_archive(path, (1, 8, 8), 3)
    save_file({"ids": torch.arange(9000), "z": torch.zeros(9000, 1, 8, 8)}, path, {"about": "{}"})
    with pytest.raises(BadInput, match="it is not read"):
        read_archive(path, (1, 8, 8), 3)


def test_hostile_records_are_refused_before_they_are_loaded(row: Path, tmp_path: Path) -> None:
    good, path = pd.read_parquet(row.parent / "samples.parquet"), tmp_path / "samples.parquet"
    write_records(path, good)
    read = read_records(path)
    assert read.astype({"attack": str, "run": str}).equals(good.astype({"attack": str, "run": str}))
    with pytest.raises(BadInput, match="at most 10"):
        read_records(path, 10)
    for rows, told in (
        (good.drop(columns="margin"), "has the columns"), (good.assign(surprise=1), "has the columns"),
        (good.assign(id=good["id"].astype(float)), "column id holds double"),
        (good.assign(label=[[1]] * len(good)), "column label holds list"),
        (good.assign(broken=pd.Series([None] * len(good), dtype="boolean")), "rows without a value"),
    ):  # fmt: skip
        write_records(path, rows)
        with pytest.raises(BadInput, match=told):
            read_records(path)
    good.to_parquet(path, compression="zstd", index=False)
    with pytest.raises(BadInput, match="compressed with ZSTD"):
        read_records(path)
    long = good.assign(run="x" * 2_000_000)
    long.to_parquet(path, compression="snappy", index=False, use_dictionary=True)
    with pytest.raises(BadInput, match=r"unpacks to more than|not a whole"):
        read_records(path)
    content = (row.parent / "samples.parquet").read_bytes()
    for cut in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(GauntletError):
            read_records(path)


def test_hostile_npz_files_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    path, z = tmp_path / "mine.npz", np.zeros((2, 1, 8, 8), np.float32)
    np.savez(path, ids=np.arange(2), z=z)
    assert read_examples(path, (1, 8, 8), 2)[0].tolist() == [0, 1]
    for arrays, told in (
        ({"ids": np.arange(2)}, "needs the keys"), ({"z": z}, "needs the keys"),
        ({"ids": np.arange(2), "z": z[:1]}, "ids int64"),
        ({"ids": np.array([{}, {}]), "z": z}, "Python objects"), ({"ids": np.arange(2, dtype=">i8"), "z": z}, "int64"),
        ({"ids": np.array(["a", "b"]), "z": z}, "int64"), ({"ids": np.arange(2), "z": z.astype(float)}, "float64"),
    ):  # fmt: skip
        np.savez(path, **arrays)
        with pytest.raises(BadInput, match=told):
            read_examples(path, (1, 8, 8), 2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("z.npy", bytes(2**28))
    assert path.stat().st_size < 2**20
    with pytest.raises(BadInput, match="it is not read"):
        read_examples(path, (1, 8, 8), 2)


def test_nothing_of_a_strangers_card_steers_the_terminal(card: Path) -> None:
    edit(card, lambda content: content.update(dataset="\x1b[2J\x07evil"))
    shown = render([checked(card)])
    assert "evil" in shown
    assert "\x1b" not in shown


# 8 bits


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.3"), ("linf", "8/255"), ("l2", "0.5"), ("l1", "3")])
def test_rounding_stays_in_the_ball(norm: str, eps: str) -> None:
    """On the 8-bit grid, and no further from the clean image than the radius; where the nearest image is inside, it is that."""
    threat = ThreatModel.parse(norm, eps)
    ids = torch.arange(200)
    x = (255 * Rng(0, ids).uniform((3, 6, 6))).round() / 255
    z = threat.random_start(x, Rng(1, ids), corner=True)
    image = rounded(z, x, threat)
    assert torch.equal((image * 255).round() / 255, image)
    assert threat.contains(image, x).all()
    nearest = (z.double() * 255).round().div(255).float()
    inside = threat.contains(nearest, x)
    assert torch.equal(image[inside], nearest[inside])
    assert ((image - x).abs() <= (z - x).abs() + 1e-6).flatten(1).all(1)[~inside].all()
    assert norm != "linf" or eps != "0.3" or not inside.all()


def test_a_card_of_an_earlier_schema_can_be_lowered(standing: Path, better: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    edit(standing, lambda content: [content.pop(key) for key in ("eight_bit_accuracy", "additions", "diagnosis")])
    edit(standing, lambda content: content.update(schema_version=2))
    ids, z = (part[:1].clone() for part in better)
    save_file({"ids": ids, "z": z}, tmp_path / "mine.safetensors")
    lowered = add(standing, tmp_path / "mine.safetensors", "Ada", HERE, quiet=True).card
    assert isinstance(lowered, Card)
    assert json.loads(standing.read_text())["schema_version"] == 3
    assert lowered.eight_bit_accuracy is None
    assert lowered.additions[0].archive.sha256 == sha256(standing.parent / "added-001.safetensors")


@pytest.mark.parametrize(
    ("defense", "why"), [("broken_stateful", "when it is asked again"), ("broken_batch_statistics", "in other company")]
)
def test_a_network_that_contradicts_its_own_examples_is_told_with_the_reason(defense: str, why: str, tmp_path: Path) -> None:
    run = train(defense, results=tmp_path, epochs=3, quiet=True)
    evaluate(str(run), plan_name="fast", n=120, results=tmp_path, quiet=True)
    (found,) = verify_cards([run], HERE, quiet=True)
    (told,) = [one.told for one in found.checks if one.name == "examples"]
    assert found.verdict == "fails"
    assert told[0].startswith("the network answers ")
    assert why in told[0]
    assert told[1].startswith("sample ")
