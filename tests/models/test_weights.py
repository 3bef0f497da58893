"""Weights files as trainings leave them: prefixes, several sets in one file, programs, and what is said of each."""

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.data.datasets import load
from bench.errors import BadInput, GauntletError
from bench.models import Model, build, load_subject, resolve
from bench.models.checkpoint import digest
from bench.models.reference import PROGRAM

SHAPE = (1, 8, 8)
ARCH = "digits_cnn?width=4"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(ARCH, SHAPE, 10)


def renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def loaded(tmp_path: Path, content: Any, more: str = "") -> Model:
    torch.save(content, tmp_path / "w.pt")
    return resolve(f"ckpt:{tmp_path / 'w.pt'}?arch=digits_cnn&width=4{more}", SHAPE, 10)


@pytest.fixture
def raw() -> nn.Module:
    return network(0)


@pytest.fixture
def mean() -> nn.Module:
    return network(1)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "module.model.", "module.module.",
        "model.model.", "model._orig_mod.", "backbone.0.", "_fsdp_wrapped_module.", "student.encoder.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_are_taken_off_and_said(tmp_path: Path, raw: nn.Module, prefix: str, wrapper: str | None) -> None:
    state = renamed(raw.state_dict(), prefix)
    model = loaded(tmp_path, state if wrapper is None else {wrapper: state, "epoch": 3, "hyper_parameters": {"lr": 0.1}})
    assert model.digest == digest(raw)
    assert "was taken off the names of the weights" in model.notes[0]
    assert prefix.split(".", maxsplit=1)[0] in model.notes[0]


def test_what_was_compiled_in_part_loads(tmp_path: Path, raw: nn.Module) -> None:
    state = {
        key.replace(".", "._orig_mod.", 1) if key.endswith("weight") else key: value for key, value in raw.state_dict().items()
    }
    assert loaded(tmp_path, state).digest == digest(raw)


def test_a_plain_file_needs_no_word(tmp_path: Path, raw: nn.Module) -> None:
    assert loaded(tmp_path, raw.state_dict()).notes == ()
    assert loaded(tmp_path, {"state_dict": raw.state_dict(), "optimizer": {"state": {0: {"m": torch.ones(2)}}}}).notes == ()


def test_what_belongs_to_the_training_is_left_out_and_said(tmp_path: Path, raw: nn.Module) -> None:
    state = renamed(raw.state_dict(), "model.") | {"criterion.weight": torch.ones(10)}
    model = loaded(tmp_path, {"state_dict": state, "pytorch-lightning_version": "2.0"})
    assert model.digest == digest(raw)
    assert any("criterion.weight belong to no part of the network and were left out" in note for note in model.notes)


AVERAGED = {
    "timm": ("state_dict", "state_dict_ema"),
    "convnext": ("model", "model_ema"),
    "yolo": ("model", "ema"),
    "robustbench": ("model_state_dict", "ema_model_state_dict"),
    "swa": ("net", "swa_net"),
}


@pytest.mark.parametrize("names", AVERAGED.values(), ids=AVERAGED)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_raw_and_averaged_weights_in_one_file_ask_which(
    tmp_path: Path, raw: nn.Module, mean: nn.Module, names: tuple[str, str], prefix: str
) -> None:
    content = {name: renamed(net.state_dict(), prefix) for name, net in zip(names, (raw, mean), strict=True)}
    content |= {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}, "epoch": 3}  # type: ignore[dict-item]
    with pytest.raises(BadInput, match="2 sets of weights that differ, ") as asked:
        loaded(tmp_path, content)
    assert set(str(asked.value).rpartition(": ")[2].split(" or ")) == {f"&weights={name}" for name in names}
    for name, net in zip(names, (raw, mean), strict=True):
        model = loaded(tmp_path, content, f"&weights={name}")
        assert model.digest == digest(net)
        assert any(f"of several sets of weights, {name} was evaluated" in note for note in model.notes)
    assert loaded(tmp_path, content, "&weights=" + ("swa" if "swa" in names[1] else "ema")).digest == digest(mean)
    with pytest.raises(GauntletError, match="no one set of weights called 'best': it holds"):
        loaded(tmp_path, content, "&weights=best")


def test_averages_in_the_same_dict_ask_too(tmp_path: Path, raw: nn.Module, mean: nn.Module) -> None:
    """As Lightning keeps an AveragedModel beside the network, and torch's own counter with it."""
    average = torch.optim.swa_utils.AveragedModel(mean)
    for start in ("model.", ""):
        flat = renamed(raw.state_dict(), start) | renamed(average.state_dict(), "ema_model.")
        with pytest.raises(BadInput, match="2 sets of weights that differ"):
            loaded(tmp_path, {"state_dict": flat})
        assert loaded(tmp_path, {"state_dict": flat}, "&weights=ema").digest == digest(mean)
        assert loaded(tmp_path, {"state_dict": flat}, f"&weights={start.strip('.') or 'plain'}").digest == digest(raw)
    assert loaded(tmp_path, average.state_dict()).digest == digest(mean)


def test_equal_sets_are_one(tmp_path: Path, raw: nn.Module) -> None:
    state = raw.state_dict()
    twice = renamed(state, "module.model.") | renamed(state, "module.attacker.model.")
    assert loaded(tmp_path, {"model": twice}).digest == digest(raw)
    assert loaded(
        tmp_path, {"model": state, "model_ema": {key: value.clone() for key, value in state.items()}}
    ).digest == digest(raw)


@pytest.mark.parametrize("name", ["ema", "model_ema", "state_dict_ema", "ema_state_dict"])
def test_averages_alone_are_taken_and_said(tmp_path: Path, mean: nn.Module, name: str) -> None:
    model = loaded(tmp_path, {name: mean.state_dict(), "updates": 100})
    assert model.digest == digest(mean)
    assert any(f"averaged weights alone ({name})" in note for note in model.notes)


def test_a_normalisation_beside_the_network_is_not_dropped_in_silence(tmp_path: Path, raw: nn.Module) -> None:
    statistics = {
        "module.normalizer.new_mean": torch.full((1, 1, 1), 0.25),
        "module.normalizer.new_std": torch.full((1, 1, 1), 0.5),
    }
    content = {"model": renamed(raw.state_dict(), "module.model.") | statistics}
    with pytest.raises(BadInput, match=r"holds a normalisation that belongs to the network .*&mean=0\.25&std=0\.5"):
        loaded(tmp_path, content)
    model = loaded(tmp_path, content, "&mean=0.25&std=0.5")
    x = torch.rand(4, *SHAPE)
    assert torch.equal(model.net(x), raw.eval()((x - 0.25) / 0.5))


@pytest.mark.parametrize(
    "names", [("0.mean", "0.std"), ("0.offset", "0.gain"), ("norm.means", "norm.sds"), ("norm.var", "norm.mean")]
)
def test_what_may_be_a_normalisation_of_any_size_is_not_left_out(
    tmp_path: Path, raw: nn.Module, names: tuple[str, str]
) -> None:
    body = {f"1.{key}" if names[0].startswith("0.") else f"net.{key}": value for key, value in raw.state_dict().items()}
    torch.save({**body, **{name: torch.full(SHAPE, 0.3) for name in names}}, tmp_path / "net.pt")
    with pytest.raises(
        BadInput, match=r"may be a normalisation of the network .*which builds the whole, or &weights=(1|net) to do"
    ):
        resolve(f"ckpt:{tmp_path / 'net.pt'}?arch={ARCH}", SHAPE, 10)
    prefix = "1" if names[0].startswith("0.") else "net"
    assert resolve(f"ckpt:{tmp_path / 'net.pt'}?arch={ARCH}&weights={prefix}", SHAPE, 10).notes


def test_weights_that_do_not_fit_are_told_with_the_remedy_of_their_kind(tmp_path: Path, raw: nn.Module) -> None:
    state = raw.state_dict()
    last = [*state][-2:]
    cases = {
        "take those out of the file, or name the network": {**state, "criterion.weight": torch.ones(10)},
        "seem to know 100 classes, and the data have 10": {
            **state, **{key: state[key].repeat_interleave(10, 0) for key in last}
        },
        "name theirs with \\?arch=, or build it in a file": {key: value for key, value in state.items() if key not in last},
    }  # fmt: skip
    for told, content in cases.items():
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(BadInput, match=told):
            resolve(f"ckpt:{tmp_path / 'net.pt'}?arch={ARCH}", SHAPE, 10)


def test_a_network_whose_class_lived_in_a_script_says_how_to_bring_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Own(nn.Linear):\n    pass\n\n"
        "if __name__ == '__main__':\n    torch.save(Own(2, 2), 'net.pt')\n"
    )
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=100)
    (tmp_path / "mine.py").write_text(
        f"import torch\n\ndef net():\n    return torch.load({str(tmp_path / 'net.pt')!r}, weights_only=False)\n"
    )
    with pytest.raises(
        BadInput, match=r"begin the file with `import __main__; from THAT_SCRIPT import Own; __main__\.Own = Own`"
    ):
        resolve(f"py:{tmp_path / 'mine.py'}:net", SHAPE, 10)


def test_names_that_do_not_fit_are_still_told(tmp_path: Path, raw: nn.Module) -> None:
    state = OrderedDict(raw.state_dict())
    state["extra.weight"] = torch.ones(2)
    with pytest.raises(BadInput, match=r"unexpected: extra\.weight"):
        loaded(tmp_path, state)
    with pytest.raises(BadInput, match=r"unexpected: extra\.weight"):
        loaded(tmp_path, renamed(state, "module."))
    with pytest.raises(BadInput, match="missing: "):
        loaded(tmp_path, {"model.other.weight": torch.ones(2), "model.other.bias": torch.ones(2)})


def test_dicts_that_hold_themselves_end(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"epoch": 3}
    endless |= {f"part{number}": endless for number in range(200)}
    with pytest.raises(BadInput):
        loaded(tmp_path, endless)


class Scripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


def test_a_torchscript_program_says_what_it_is_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(Scripted()), str(file))
    with pytest.raises(BadInput, match=r"is a TorchScript program: code, .*torch\.jit\.load\(.*py:FILE\.py:net"):
        resolve(f"ckpt:{file}?arch=digits_cnn", SHAPE, 10)
    (tmp_path / "mine.py").write_text(f"import torch\n\ndef net():\n    return torch.jit.load({str(file)!r})\n")
    model = load_subject(f"py:{tmp_path / 'mine.py'}:net", load("digits", "test").first(8), "digits", 0).model
    x = torch.rand(4, *SHAPE)
    assert torch.equal(model.net.to("cpu")(x), x.flatten(1)[:, :10])
    assert [note for note in model.notes if "TorchScript" in note] == [PROGRAM]


def test_an_exported_program_says_what_to_hand_in(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef net():\n    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
        f"    return torch.export.export(plain, (torch.rand(2, *{SHAPE}),)).module()\n"
    )
    with pytest.raises(BadInput, match=r"has no eval mode \(.*\); give the module that it was exported from"):
        resolve(f"py:{tmp_path / 'mine.py'}:net", SHAPE, 10)


def test_a_pickled_network_says_what_to_do(tmp_path: Path, raw: nn.Module) -> None:
    torch.save(raw, tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"would run code: .*blocked.*weights_only=False.*py:FILE\.py:net"):
        resolve(f"ckpt:{tmp_path / 'net.pt'}?arch={ARCH}", SHAPE, 10)


@pytest.mark.parametrize("method", ["eval", "train", "cpu", "requires_grad_", "to"])
def test_methods_that_return_nothing_work(tmp_path: Path, method: str) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n"
        f"    def {method}(self, *args, **kwargs):\n        super().{method}(*args, **kwargs)\n\n"
        "def net():\n    return Net(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))\n"
    )
    subject = load_subject(f"py:{tmp_path / 'mine.py'}:net", load("digits", "test").first(8), "digits", 0)
    assert not subject.noisy
    assert not subject.model.net.training
    assert not any(part.requires_grad for part in subject.model.net.parameters())
    assert isinstance(subject.model.net.to("cpu"), nn.Module)
