"""The zoo of RobustBench, on the package itself; `make extras` runs this in an environment that has it.

The published weights cannot be assumed here, so the files hold fresh networks of the zoo's own architectures, in the form
and at the place the package expects.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

if importlib.util.find_spec("robustbench") is None:
    pytest.skip("extra zoo is not installed", allow_module_level=True)

from bench import evaluate
from bench.core.rng import isolated
from bench.errors import BadInput, UnknownName
from bench.models import check_outputs, resolve

CIFAR = (3, 32, 32)
NAME = "robustbench:Wong2020Fast"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with a proxy that refuses every connection, so that nothing is ever fetched."""
    monkeypatch.setenv("GAUNTLET_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    return tmp_path / "robustbench"


@pytest.fixture(scope="module")
def wong() -> nn.Module:
    """The architecture of Wong2020Fast with fresh weights."""
    with pytest.raises(UnknownName):
        resolve(f"{NAME}?threat=L2", CIFAR, 10)  # imports the package as the product does
    cifar10 = sys.modules["robustbench.model_zoo.cifar10"]
    with isolated(0, "wong"):
        net: nn.Module = cifar10.Wong2020FastNet().eval()
    return net


def place(cache: Path, content: Mapping[str, Any] | bytes, name: str = "cifar10/Linf/Wong2020Fast.pt") -> Path:
    file = cache / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    return file


def published(net: nn.Module) -> dict[str, Tensor]:
    """The file as its authors published it: trained in parallel, and normalised outside the network."""
    return {f"module.{key}": value for key, value in net.state_dict().items() if key not in ("mu", "sigma")}


def test_the_zoo_builds_what_the_file_holds(cache: Path, wong: nn.Module) -> None:
    place(cache, published(wong))
    for reference in (NAME, f"{NAME}?dataset=cifar10&threat=Linf", f"{NAME}?folder={cache}"):
        model = resolve(reference, CIFAR, 10)
        assert (model.reference, model.name, model.arch, model.run) == (reference, "Wong2020Fast", "Wong2020FastNet", None)
        assert not any(module.training for module in model.net.modules())
        assert not any(parameter.requires_grad for parameter in model.net.parameters())
        images = torch.rand(4, *CIFAR)
        check_outputs(model.net, images, 10, reference)
        assert torch.equal(model.net(images), wong(images))


def test_the_number_of_classes_tells_the_data_set(cache: Path) -> None:
    for classes, dataset in ((10, "cifar10"), (100, "cifar100")):
        with pytest.raises(BadInput, match=f"at {cache}/{dataset}/Linf/Rice2020Overfitting.pt"):
            resolve("robustbench:Rice2020Overfitting", CIFAR, classes)


def test_an_evaluation_runs_on_it(cache: Path, wong: nn.Module, tmp_path: Path) -> None:
    place(cache, published(wong))
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        labels = wong(torch.tensor(images).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
    labels[:3] = (labels[:3] + 1) % 10
    labels[3:13] = np.arange(10)  # so that the file has ten classes
    np.savez(tmp_path / "images.npz", x=images, y=labels)
    card, _ = evaluate(NAME, dataset=str(tmp_path / "images.npz"), eps="8/255", plan_name="smoke", results=tmp_path, quiet=True)
    assert card.model.reference == NAME
    assert card.model.arch == "Wong2020FastNet"
    right = (wong(torch.tensor(images).permute(0, 3, 1, 2) / 255).argmax(1).numpy() == labels).mean()
    assert card.clean_accuracy == pytest.approx(right)
    assert card.robust_accuracy <= card.clean_accuracy


def test_without_network_the_file_to_place_is_named(cache: Path) -> None:
    file = cache / "cifar10" / "Linf" / "Wong2020Fast.pt"
    told = rf"weights of '{NAME}' are not here, and fetching them failed: .*put https://drive.google.com/uc\?id=\S+ at {file}$"
    with pytest.raises(BadInput, match=told):
        resolve(NAME, CIFAR, 10)
    assert not file.exists()
    done = subprocess.run(
        [Path(sys.executable).with_name("gauntlet"), "evaluate", NAME, "--dataset", "digits", "--quiet"],
        capture_output=True, text=True, cwd=cache.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"at {file}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_ensemble_names_its_first_missing_member(cache: Path) -> None:
    with pytest.raises(BadInput, match=r"at \S+/cifar10/Linf/Chen2020Adversarial\.pt_m0\.pt$"):
        resolve("robustbench:Chen2020Adversarial", CIFAR, 10)


class Malice:
    """A pickle that leaves a file where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_no_file_runs_code(cache: Path, wong: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place(cache, {**published(wong), "extra": Malice(tmp_path / "mark")})
    for forced in ("0", "1"):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
        with pytest.raises(
            BadInput, match=f"{file} is a pickle that would run code: it asks for posix.mkdir, which was blocked"
        ):
            resolve(NAME, CIFAR, 10)
        assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == forced
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert not (tmp_path / "mark").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "mark").exists()


def test_files_that_are_no_weights_are_told(cache: Path, wong: nn.Module) -> None:
    place(cache, b"<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(BadInput, match="is a web page, not weights"):
        resolve(NAME, CIFAR, 10)
    whole = place(cache, published(wong)).read_bytes()
    place(cache, whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="is truncated, corrupt or not a weights file"):
        resolve(NAME, CIFAR, 10)
    place(cache, {"linear.weight": torch.zeros(10, 3)})
    with pytest.raises(BadInput, match=r"cannot build .* from the weights at .*Missing key"):
        resolve(NAME, CIFAR, 10)


def test_unknown_names_are_told(cache: Path) -> None:
    for reference, message in [
        ("robustbench:Wong2020Fats", "for cifar10 and Linf 'Wong2020Fats': did you mean 'Wong2020Fast'"),
        (f"{NAME}?threat=linf", "threat model of robustbench on cifar10 'linf': did you mean 'Linf'"),
        (f"{NAME}?threat=L2", "model of robustbench for cifar10 and L2 'Wong2020Fast'"),
        (f"{NAME}?dataset=cifar11", "data set of robustbench 'cifar11': did you mean 'cifar10'"),
        (f"{NAME}?treat=Linf", "option of a robustbench reference 'treat': did you mean 'threat'"),
    ]:
        with pytest.raises(UnknownName, match=message):
            resolve(reference, CIFAR, 10)


def test_the_stand_ins_are_gone_after_the_import(wong: nn.Module) -> None:
    assert "robustbench.eval" in sys.modules
    for name in ("autoattack", "autoattack.state"):
        assert name not in sys.modules


def test_a_package_that_another_overwrote_is_refused(tmp_path: Path) -> None:
    """As the wheel of torchattacks does: here on a copy of the package with one line more."""
    for file in {file.parts[0] for file in metadata.files("robustbench") or []} - {".."}:
        origin = Path(str(metadata.distribution("robustbench").locate_file(file)))
        if origin.is_dir() and origin.name.startswith("robustbench"):
            shutil.copytree(origin, tmp_path / origin.name)
    code = f"from bench.models import resolve; resolve({NAME!r} + '?threat=none', (3, 32, 32), 10)"
    for line, message in (
        ("", "unknown threat model"),
        ("# older\n", "robustbench/utils.py is not what robustbench installed"),
    ):
        with (tmp_path / "robustbench" / "utils.py").open("a") as utils:
            utils.write(line)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            check=False,
        )  # fmt: skip
        assert message in done.stderr
