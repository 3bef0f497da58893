"""What a row is of: what answers, the content of every file that decides it, the plug-in that trained it, its data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench import check_regression, compare_rows, evaluate, examine_plugin, load_plugin, read_card, train, transfer_matrix
from bench.data import load
from bench.errors import BadInput, PluginWarning, UnknownName
from bench.evaluation import EvaluationRequest, Execution, evaluated
from bench.evaluation.transfer import render
from bench.models import resolve
from bench.plans import PLANS
from bench.report.entries import chosen
from bench.training import TrainingRequest
from bench.verify.cards import verify_card
from bench.verify.loading import Given

LOOK: dict[str, Any] = {"dataset": "digits", "plan_name": "smoke", "n": 40, "quiet": True}

NET = """
import json
import numpy as np
import torch
from pathlib import Path
from torch import nn
from bench.models import resolve
HERE = Path(__file__).parent
{imports}

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = resolve({run!r}, (1, 8, 8), 10).net
        {init}

    def forward(self, x):
        return {forward}

def net():
    return Mine()

def other():
    made = Mine()
    made.base = nn.Sequential(made.base)
    return made
"""


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def sibling(folder: Path) -> dict[str, str]:
    (folder / "scale.py").write_text("FACTOR = 1.0\n")
    return {"imports": "from scale import FACTOR", "forward": "self.base(x * FACTOR)"}


def from_json(folder: Path) -> dict[str, str]:
    (folder / "config.json").write_text("1.0")
    return {"init": "self.factor = json.loads((HERE / 'config.json').read_text())", "forward": "self.base(x * self.factor)"}


def from_npy(folder: Path) -> dict[str, str]:
    np.save(folder / "factor.npy", np.float32(1.0))
    return {
        "init": "self.factor = torch.from_numpy(np.load(HERE / 'factor.npy')[None])", "forward": "self.base(x * self.factor)",
    }  # fmt: skip


def in_a_list(folder: Path) -> dict[str, str]:
    (folder / "config.json").write_text("1.0")
    return {
        "init": "self.members = [nn.Conv2d(1, 1, 1, bias=False)]; "
        "nn.init.constant_(self.members[0].weight, json.loads((HERE / 'config.json').read_text()))",
        "forward": "self.base(self.members[0](x))",
    }


def noise(folder: Path) -> dict[str, str]:
    (folder / "config.json").write_text("0.1")
    return {
        "init": "self.width = json.loads((HERE / 'config.json').read_text())",
        "forward": "self.base(x + self.width * torch.randn_like(x))",
    }


KINDS: dict[str, tuple[Callable[[Path], dict[str, str]], Callable[[Path], Any]]] = {
    "a sibling module": (sibling, lambda folder: changed(folder / "scale.py", "1.0", "0.4")),
    "a JSON file": (from_json, lambda folder: (folder / "config.json").write_text("0.4")),
    "an array": (from_npy, lambda folder: np.save(folder / "factor.npy", np.float32(0.4))),
    "members in a plain list": (in_a_list, lambda folder: (folder / "config.json").write_text("0.4")),
    "how much noise there is": (noise, lambda folder: (folder / "config.json").write_text("0.4")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_code_reads_is_a_part_of_a_model(fast_run: Path, tmp_path: Path, kind: str) -> None:
    """Another answer is another model, to evaluate, to verify and to the gate; the same answer is the same row."""
    write, change = KINDS[kind]
    parts = {"imports": "", "init": "", **write(tmp_path)}
    (tmp_path / "mine.py").write_text(NET.format(run=str(fast_run), **parts))
    reference = f"py:{tmp_path}/mine.py:net"
    first, path = evaluate(reference, results=tmp_path / "r", **LOOK)
    assert evaluate(reference, results=tmp_path / "r", **LOOK) == (first, path)
    change(tmp_path)
    second, other = evaluate(reference, results=tmp_path / "r", **LOOK)
    assert other != path
    assert second.model.leads != first.model.leads
    assert second.identity != first.identity
    assert not any("the same model" in note for note in check_regression(path.parent, other.parent).notes)
    assert "A and B are the same model" not in compare_rows(path.parent, other.parent).notes
    found = verify_card(path, Given(model=reference))
    assert found.verdict == "fails"
    assert any("another model than the one evaluated" in told or "answers otherwise" in told for told in _told(found, "model"))


def test_what_a_defense_of_somebodys_reads_at_test_time_is_a_part_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("1.0")
    (tmp_path / "scaled.py").write_text(
        "import json\nfrom pathlib import Path\nfrom torch import nn\nfrom bench.defense import Defense, defense\n\n\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self, net):\n        super().__init__()\n        self.net = net\n"
        "        self.factor = json.loads((Path(__file__).parent / 'config.json').read_text())\n"
        "    def forward(self, x):\n        return self.net(x * self.factor)\n\n\n"
        "@defense('scaled')\nclass Mine(Defense):\n    'Scales.'\n\n"
        "    def loss(self, net, x, y, ctx):\n        return ctx.cross_entropy(net(x), y)\n\n"
        "    def wrap(self, net):\n        return Scaled(net)\n"
    )
    load_plugin(tmp_path / "scaled.py")
    run = train("scaled", settings={"epochs": "1"}, model="digits_cnn?width=4", results=tmp_path, quiet=True)
    first, path = evaluate(str(run), plan_name="smoke", n=40, quiet=True)
    assert evaluate(str(run), plan_name="smoke", n=40, quiet=True) == (first, path)
    (tmp_path / "config.json").write_text("0.4")
    second, other = evaluate(str(run), plan_name="smoke", n=40, quiet=True)
    assert other != path
    assert second.model.leads != first.model.leads
    assert verify_card(path, Given()).verdict == "fails"


def test_where_no_seed_makes_answers_repeat_a_card_that_was_there_says_so(fast_run: Path, tmp_path: Path) -> None:
    own = "torch.from_numpy(np.random.default_rng().normal(size=x.shape)).to(x)"
    parts = {"imports": "", "init": "", "forward": f"self.base(x + 0.1 * {own})"}
    (tmp_path / "mine.py").write_text(NET.format(run=str(fast_run), **parts))
    asked = EvaluationRequest(model=f"py:{tmp_path}/mine.py:net", dataset="digits", plan="smoke", n=20)
    first, second = (evaluated(asked, Execution(results=tmp_path / "r", quiet=True)) for _ in range(2))
    assert second.path == first.path
    assert "nothing shows whether this is still the same one" in second.told
    assert not first.told


def _told(found: Any, name: str) -> list[str]:
    return [told for check in found.checks if check.name == name for told in check.told]


def test_two_defenses_around_the_same_weights_are_two_rows(tmp_path: Path) -> None:
    """One seed of one training is the same network, whatever stands around it at test time."""
    settings = {"epochs": "1"}
    runs = [
        train(name, settings={**settings, **own}, model="digits_cnn?width=4", results=tmp_path, quiet=True)
        for name, own in (("broken_logit_scale", {}), ("broken_saturation", {}), ("broken_saturation", {"height": "2"}))
    ]
    cards = [evaluate(f"run:{run}", plan_name="smoke", n=20, quiet=True)[0] for run in runs]
    assert len({card.model.digest for card in cards}) == 1
    assert len({card.identity for card in cards}) == 3
    assert sorted(entry.card.name for entry in chosen(tmp_path)[0]) == sorted(card.name for card in cards)


def test_two_factories_of_one_file_are_two_models(fast_run: Path, tmp_path: Path) -> None:
    source = NET.format(run=str(fast_run), imports="", init="", forward="self.base(x)")
    (tmp_path / "mine.py").write_text(source)
    one, other = (evaluate(f"py:{tmp_path}/mine.py:{name}", results=tmp_path / "r", **LOOK)[0] for name in ("net", "other"))
    assert one.model.answers == other.model.answers
    assert one.identity != other.identity


def test_another_processors_rounding_is_not_another_model(fast_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NET.format(run=str(fast_run), imports="", init="", forward="self.base(x)"))
    reference = f"py:{tmp_path}/mine.py:net"
    _, path = evaluate(reference, results=tmp_path / "r", **LOOK)
    content = json.loads(path.read_text())
    content["model"]["answers"] = "0" * 64
    content["model"]["leads"] = [lead * (1 + 1e-5) for lead in content["model"]["leads"]]
    path.write_text(json.dumps(content))
    assert verify_card(path, Given(model=reference)).verdict == "holds"
    content["model"]["leads"] = [lead * 1.5 for lead in content["model"]["leads"]]
    path.write_text(json.dumps(content))
    assert "answers otherwise than the model evaluated" in _told(verify_card(path, Given(model=reference)), "model")[0]


def test_a_run_is_its_weights_alone(fast_run: Path) -> None:
    """Its keys stay what they were: answers say nothing about it that weights do not."""
    card, _ = evaluate(str(fast_run), **{**LOOK, "dataset": None})
    assert (card.model.answers, card.model.leads) == ("", ())


def test_one_model_under_two_references_is_one(fast_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(fast_run, tmp_path / "copy")
    found = transfer_matrix([str(fast_run), str(copy)], n=16, quiet=True)
    assert found.same == [(fast_run.name, "copy")]
    assert "are the same model; drop one of them" in render(found)


HAT = """
from bench.defense import Defense, {kind}defense
from bench.models import resolve

@defense("student_{name}")
class Student(Defense):
    teacher: {annotation} = ""
    {more}

    def loss(self, net, x, y, ctx):
        teacher = resolve(self.teacher, (1, 8, 8), 10).net
        return ((net(x) - teacher(x)) ** 2).mean()
"""


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_that_a_setting_names_is_its_content(fast_run: Path, periodic_run: Path, tmp_path: Path, declared: bool) -> None:
    name = "declared" if declared else "plain"
    text = {"kind": "WeightsFile, ", "annotation": "WeightsFile"} if declared else {"kind": "", "annotation": "str"}
    (tmp_path / f"{name}.py").write_text(HAT.format(name=name, more="", **text))
    load_plugin(tmp_path / f"{name}.py")
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(fast_run / "best.safetensors", teacher)
    asked: dict[str, Any] = {"teacher": str(teacher), "epochs": 1, "results": tmp_path / "r", "quiet": True}
    if declared:
        first = train(f"student_{name}", **asked)
    else:
        with pytest.warns(PluginWarning, match=r"teacher = .* names a file: its content counts"):
            first = train(f"student_{name}", **asked)
    assert len(json.loads((first / "train.json").read_text())["files"]["teacher"]) == 64
    assert train(f"student_{name}", **asked) == first
    shutil.copy(periodic_run / "best.safetensors", teacher)
    assert train(f"student_{name}", **asked) != first
    card, _ = evaluate(str(first), plan_name="smoke", n=20, quiet=True)
    assert "training teacher" in card.files


def test_the_doctor_tries_a_defense_with_what_it_needs(fast_run: Path, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(HAT.format(name="needy", more="", kind="WeightsFile, ", annotation="WeightsFile"))
    load_plugin(tmp_path / "needy.py")
    with_it = {f.check: f for f in examine_plugin("student_needy", {"teacher": str(fast_run / "best.safetensors")})}
    without = {f.check: f for f in examine_plugin("student_needy")}
    assert sum(f.ok is False for f in with_it.values()) < sum(f.ok is False for f in without.values())
    with pytest.raises(BadInput, match="epochs is an option of every training"):
        examine_plugin("student_needy", {"epochs": "3"})
    with pytest.raises(UnknownName, match="did you mean 'teacher'"):
        examine_plugin("student_needy", {"techer": "x.pt"})


def test_a_declared_file_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "missing.py").write_text(HAT.format(name="missing", more="", kind="WeightsFile, ", annotation="WeightsFile"))
    load_plugin(tmp_path / "missing.py")
    with pytest.raises(BadInput, match=r"teacher = 'nowhere.pt': there is no weights file of that name"):
        TrainingRequest(defense="student_missing", settings={"teacher": "nowhere.pt"}).job()


PLUGIN = """
from bench.defense import Defense, defense

@defense("moving_{name}")
class Moving(Defense):
    strength: float = 0.5

    def loss(self, net, x, y, ctx):
        return ctx.cross_entropy(net(x), y)
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("strength", "force", "its field 'strength' is gone; its field 'force' is new"),
        ("= 0.5", "= 0.7", "its code was"),
        ("    strength: float = 0.5\n", "", "its field 'strength' is gone"),
    ],
)
def test_a_run_of_a_plugin_that_has_changed_is_not_evaluated_as_something_else(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    file, source, name = tmp_path / "moving.py", PLUGIN.replace("{name}", str(len(old))), f"moving_{len(old)}"
    file.write_text(source)
    load_plugin(file)
    folder = train(name, epochs=1, results=tmp_path, quiet=True)
    evaluate(str(folder), plan_name="smoke", n=20, quiet=True)
    file.write_text(source.replace(old, new))
    load_plugin(file)
    with pytest.raises(BadInput, match=told) as error:
        evaluate(str(folder), plan_name="smoke", n=20, quiet=True)
    assert "load the plug-in as it was, or train anew" in str(error.value)


def test_data_are_their_content(fast_run: Path, tmp_path: Path) -> None:
    digits = load("digits", "test")
    for name, part in (("a/mine", slice(0, 60)), ("b/mine", slice(60, 120))):
        (tmp_path / name).parent.mkdir()
        np.savez(tmp_path / f"{name}.npz", x=digits.x[part].permute(0, 2, 3, 1).numpy(), y=digits.y[part].numpy())
    shutil.copy(tmp_path / "a/mine.npz", tmp_path / "a/copy.npz")
    asked = {**LOOK, "n": None, "eps": 0.1}
    paths = {
        name: evaluate(
            f"ckpt:{fast_run}/best.safetensors", results=tmp_path / name[:1], **{**asked, "dataset": f"{tmp_path}/{name}.npz"}
        )[1]
        for name in ("a/mine", "a/copy", "b/mine")
    }
    assert read_card(paths["a/mine"]).data.whole == read_card(paths["a/copy"]).data.whole != ""
    assert check_regression(paths["a/mine"].parent, paths["a/copy"].parent).drop == 0
    with pytest.raises(BadInput, match="cannot be compared: other samples"):
        check_regression(paths["a/mine"].parent, paths["b/mine"].parent)


def test_a_name_takes_effect_on_an_evaluation_that_is_there(fast_run: Path) -> None:
    asked: dict[str, Any] = {"plan_name": "smoke", "n": 30, "quiet": True}
    card, path = evaluate(str(fast_run), **asked)
    again, same = evaluate(str(fast_run), name="a better name", **asked)
    assert (same, again.name) == (path, "a better name")
    assert read_card(path) == again == card.model_copy(update={"name": "a better name"})
    for wrong in ("../up", "", "two\nlines", "x" * 101):
        with pytest.raises(BadInput, match="a name becomes a part of a folder's name"):
            evaluate(str(fast_run), name=wrong, **asked)


# What people have in Python


def test_live_networks_and_data(fast_run: Path, tmp_path: Path) -> None:
    digits = load("digits", "test")
    x, y = digits.x[:50].float() / 255, digits.y[:50]
    net = resolve(str(fast_run), (1, 8, 8), 10).net.train().requires_grad_(True)
    asked: dict[str, Any] = {"eps": 0.1, "plan_name": PLANS["smoke"], "results": str(tmp_path), "quiet": True}
    card, path = evaluate(net, dataset=(x, y), **asked)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert (card.n, card.threat.eps) == (50, "0.1")
    for same in (
        torch.utils.data.TensorDataset(x, y), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7),
        (x.numpy(), y.numpy()),
    ):  # fmt: skip
        assert evaluate(net, dataset=same, **asked) == (card, path)
    file = evaluate(fast_run / "best.safetensors", dataset=(x, y), **asked)[0]
    assert file.robust_accuracy == card.robust_accuracy
    with torch.no_grad():
        next(net.parameters()).mul_(0.5)
    assert evaluate(net, dataset=(x, y), **asked)[1] != path


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dataset": torch.zeros(3)}, "give images"),
        ({"dataset": (torch.zeros(3, 1, 8, 8) + 7, torch.zeros(3).long())}, r"from 7 to 7: scale them to \[0, 1\]"),
        ({"dataset": (torch.zeros(3, 1, 8, 8), torch.zeros(3))}, "give whole numbers from 0"),
        ({"dataset": (torch.zeros(3, 8, 8), torch.zeros(3).long())}, "give images"),
        ({"dataset": 3}, "give images"),
        ({"plan_name": 3}, "plan"),
        ({"eps": [0.1]}, "eps"),
        ({"n": "many"}, "n = 'many'"),
        ({"epsilon": 0.1}, "did you mean 'eps'"),
    ],
)
def test_anything_else_is_told(fast_run: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=told):
        evaluate(str(fast_run), **{"plan_name": "smoke", "quiet": True, **given})


def test_settings_are_what_they_are_in_python() -> None:
    def key(**settings: Any) -> str:
        return TrainingRequest.of(defense="fast_at", settings=settings).job().key()

    assert key(epochs=2, snapshots=[0.5, 1], box_start=True) == key(epochs="2", snapshots="[0.5, 1]", box_start="true")
    one = TrainingRequest.of(defense="fast_at", eps=8 / 255)
    assert one == TrainingRequest.of(defense="fast_at", eps="8/255")
    assert one.eps == "8/255"
    with pytest.raises(UnknownName, match="did you mean 'epochs'"):
        train("fast_at", epoch=1)


def test_a_request_is_a_value() -> None:
    one = EvaluationRequest.of(model=Path("a"), eps=(0.2, "4/255", 8 / 255), plan="smoke")
    assert one.eps == ("4/255", "8/255", "0.2")
    assert EvaluationRequest.model_validate_json(one.to_json()) == one
    assert one.key() == EvaluationRequest.of(model="a", eps=("1/5", "0.20", "8/255", "4/255"), plan=PLANS["smoke"]).key()
    assert one.key() != EvaluationRequest.of(model="b", eps=one.eps, plan="smoke").key()
    job = TrainingRequest.of(defense="fast_at", settings={"epochs": 2})
    assert TrainingRequest.model_validate_json(job.to_json()) == job


def test_a_live_network_that_cannot_be_copied_is_told(tmp_path: Path) -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no")

    with pytest.raises(BadInput, match=r"cannot be copied .*; give py:FILE.py:factory"):
        evaluate(nn.Sequential(nn.Flatten(), Stubborn(64, 10)), results=tmp_path, **LOOK)
