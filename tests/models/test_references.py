"""Model references: run folders, checkpoints, Python files, and the outputs a model may give."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import isolated
from bench.errors import BadInput, GauntletError, UnknownName
from bench.evaluation import Execution, evaluate, transfer_matrix
from bench.measures import MeasureRequest, measured
from bench.models import Model, build, check_outputs, resolve
from bench.models.checkpoint import digest, save_weights
from bench.models.ensemble import SnapshotEnsemble
from bench.models.layers import Normalized
from bench.models.reference import listed

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
ARCH = "digits_cnn?width=4"
METADATA = {"arch": ARCH, "shape": "1,8,8", "classes": "10", "normalized": "0"}


def net_of(seed: int, statistics: tuple[list[float], list[float]] | None = None) -> nn.Module:
    with isolated(seed):
        return build(ARCH, DIGITS, 10, statistics).eval()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished training with its best and last weights and one snapshot."""
    folder = tmp_path / "pgd-digits"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps({"defense": "pgd"}))
    for seed, weights in enumerate(("best", "last", "snapshot-1")):
        save_weights(folder / f"{weights}.safetensors", net_of(seed), METADATA)
    return folder


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import torch\nfrom torch import nn\n" + text)
    return path


def test_a_run_folder_gives_its_best_weights(run: Path) -> None:
    for reference in (str(run), f"run:{run}", f"{run}?weights=best"):
        model = resolve(reference, DIGITS, 10)
        assert model == Model(reference, "pgd-digits", model.net, ARCH, digest(net_of(0)), run)
        assert not model.net.training
        assert not any(parameter.requires_grad for parameter in model.net.parameters())


def test_a_run_folder_gives_the_weights_asked_for(run: Path) -> None:
    for seed, weights in enumerate(("best", "last", "snapshot-1")):
        assert resolve(f"run:{run}?weights={weights}", DIGITS, 10).digest == digest(net_of(seed))


def test_an_ensemble_comes_before_the_best(run: Path) -> None:
    members = SnapshotEnsemble([net_of(seed, ([0.2], [0.3])) for seed in range(3)]).eval()
    save_weights(run / "ensemble.safetensors", members, {**METADATA, "normalized": "1", "members": "3"})
    model = resolve(str(run), DIGITS, 10)
    assert model.digest == digest(members)
    images = torch.rand(4, *DIGITS)
    assert torch.equal(model.net(images), members(images))


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("run:absent", "no run folder at absent"),
        ("run:absent?weights=last", "no run folder at absent"),
        ("absent", "neither a folder nor a known kind"),
        ("absent.pth?arch=mnist_fast", "no weights file at absent.pth"),
        ("ckpt:absent.bin", "no weights file at absent.bin"),
        ("ckpt:.", "is a folder, not a weights file"),
        ("py:absent.py:make", "no Python file at absent.py"),
        ("py:absent.py", "names no factory"),
        ("run:" + "long" * 2000, "File name too long; check the path"),
    ],
)
def test_what_is_not_there_is_told_before_any_question_of_data(reference: str, told: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for asked in (
        lambda: evaluate(reference, n=500, results=results, quiet=True),
        lambda: transfer_matrix([reference, reference], n=500),
        lambda: measured(MeasureRequest(model=reference, measure="kernel"), Execution(results=results, quiet=True)),
    ):
        with pytest.raises(BadInput, match=told):
            asked()
    assert not results.exists()


def test_a_network_of_the_zoo_is_judged_on_what_it_is_listed_for(run: Path) -> None:
    assert listed(str(run)) == listed("ckpt:zoo.pth?arch=vgg16") == {}
    assert listed("robustbench:Wong2020Fast") == {"dataset": "cifar10", "threat": {"norm": "linf", "eps": "8/255"}}
    assert listed("robustbench:Any?dataset=cifar100&threat=L2") == {
        "dataset": "cifar100",
        "threat": {"norm": "l2", "eps": "0.5"},
    }
    assert listed("robustbench:Any?threat=corruptions")["threat"] == {}


def test_unusable_run_folders_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no snapshot-7.safetensors: its weights are best, last, snapshot-1; name one"):
        resolve(f"{run}?weights=snapshot-7", DIGITS, 10)
    with pytest.raises(UnknownName, match="unknown weights 'bset': did you mean 'best'"):
        resolve(f"{run}?weights=bset", DIGITS, 10)
    with pytest.raises(UnknownName, match="option of a run reference 'weigths': did you mean 'weights'"):
        resolve(f"{run}?weigths=best", DIGITS, 10)
    with pytest.raises(BadInput, match="no run folder at"):
        resolve(f"run:{tmp_path / 'absent'}", DIGITS, 10)
    (run / "best.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no best\.safetensors: its weights are last, snapshot-1"):
        resolve(str(run), DIGITS, 10)
    (run / "train.json").unlink()
    with pytest.raises(BadInput, match=r"the training has not finished, .*its weights are last, snapshot-1"):
        resolve(str(run), DIGITS, 10)
    with pytest.raises(BadInput, match="it holds no weights"):
        resolve(str(tmp_path), DIGITS, 10)


def test_weights_for_other_data_are_told(run: Path) -> None:
    with pytest.raises(BadInput, match="images of shape 1,8,8 and the data set has 1,28,28"):
        resolve(str(run), MNIST, 10)
    with pytest.raises(BadInput, match="for 10 classes and the data set has 3"):
        resolve(str(run), DIGITS, 3)


def test_a_weights_file_with_metadata_needs_no_more(run: Path) -> None:
    file = run / "last.safetensors"
    for reference in (str(file), f"ckpt:{file}"):
        model = resolve(reference, DIGITS, 10)
        assert (model.name, model.arch, model.run, model.digest) == ("last", ARCH, None, digest(net_of(1)))


def test_the_reference_wins_over_the_metadata(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(file, net_of(0), {**METADATA, "arch": "lenet?width=9"})
    assert resolve(f"{file}?arch=digits_cnn&width=4", DIGITS, 10).arch == ARCH
    assert resolve(f"{file}?arch=digits_cnn?width=4", DIGITS, 10).arch == ARCH
    save_weights(file, net_of(0), {**METADATA, "arch": "digits_cnn?width=9"})
    assert resolve(f"{file}?width=4", DIGITS, 10).arch == ARCH
    with pytest.raises(BadInput, match=r"w.safetensors look like another architecture"):
        resolve(str(file), DIGITS, 10)
    with pytest.raises(UnknownName, match="parameter of architecture 'digits_cnn' 'widht'"):
        resolve(f"{file}?widht=4", DIGITS, 10)


def test_a_normalised_checkpoint_brings_its_statistics(tmp_path: Path) -> None:
    net, file = net_of(0, ([0.2], [0.3])), tmp_path / "w.safetensors"
    save_weights(file, net, {**METADATA, "normalized": "1"})
    model = resolve(str(file), DIGITS, 10)
    assert model.digest == digest(net)
    with pytest.raises(BadInput, match="holds its own normalisation; drop mean and std"):
        resolve(f"{file}?mean=0.1&std=0.2", DIGITS, 10)


def test_a_foreign_checkpoint_is_read_with_what_the_reference_says(tmp_path: Path) -> None:
    body, file = net_of(0), tmp_path / "foreign.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in body.state_dict().items()}}, file)
    assert resolve(f"{file}?arch={ARCH}", DIGITS, 10).digest == digest(body)
    model = resolve(f"ckpt:{file}?arch=digits_cnn&width=4&mean=0.25&std=0.5", DIGITS, 10)
    assert isinstance(model.net, Normalized)
    images = torch.rand(3, *DIGITS)
    torch.testing.assert_close(model.net(images), body((images - 0.25) / 0.5))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", r"does not say its architecture; add \?arch=NAME .*one of digits_bn, digits_cnn, lenet, linear, mnist_fast"),
        ("?width=4", "does not say its architecture"),
        ("?arch=digit_cnn", "did you mean 'digits_cnn'"),
        ("?arch=digits_cnn&width=4&mean=0.5", "mean alone does not normalise"),
        ("?arch=digits_cnn&width=4&mean=a&std=1", "are not numbers separated by commas"),
        ("?arch=digits_cnn&width=4&mean=0,0&std=1,1", "2 means and 2 stds for 1 channels"),
        ("?arch=digits_cnn&width=4&mean=0&std=0", "must be positive"),
        ("?arch", "'arch' is not key=value"),
        ("?arch=mnist_fast", "look like another architecture"),
    ],
)
def test_unusable_checkpoint_references_are_told(tmp_path: Path, query: str, message: str) -> None:
    torch.save(net_of(0).state_dict(), tmp_path / "foreign.pt")
    with pytest.raises(GauntletError, match=message):
        resolve(f"ckpt:{tmp_path / 'foreign.pt'}{query}", DIGITS, 10)


def test_metadata_that_nobody_here_wrote_are_told(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    for wrong in ({"members": "many"}, {"members": "0"}, {"classes": "ten"}):
        save_weights(file, net_of(0), {**METADATA, **wrong})
        with pytest.raises(BadInput, match=r"metadata say \w+ = '\w+', not a positive number"):
            resolve(str(file), DIGITS, 10)


def test_the_published_mnist_network_loads() -> None:
    data = os.environ.get("GAUNTLET_DATA")
    file = Path(data or "").parent / "models" / "wong2020_mnist_fgsm.pth"
    if data is None or not file.is_file():
        pytest.skip("needs GAUNTLET_DATA with the published models beside it")
    model = resolve(f"ckpt:{file}?arch=mnist_fast", MNIST, 10)
    assert model.name == "wong2020_mnist_fgsm"
    check_outputs(model.net, torch.rand(4, *MNIST), 10, model.reference)
    with pytest.raises(BadInput, match=r"look like another architecture \(wrong shape: 5\.weight"):
        resolve(f"ckpt:{file}?arch=mnist_fast", DIGITS, 10)


def test_a_factory_gives_a_frozen_network(tmp_path: Path) -> None:
    file = write(tmp_path, "def factory():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\nnet = factory()\n")
    model = resolve(f"py:{file}:factory", DIGITS, 10)
    assert (model.name, model.arch, model.run) == ("factory", "Sequential", None)
    assert not model.net.training
    assert not any(parameter.requires_grad for parameter in model.net.parameters())
    assert isinstance(resolve(f"py:{file}:net", DIGITS, 10).net, nn.Sequential)


def test_files_with_equal_weights_and_other_code_differ_in_digest(tmp_path: Path) -> None:
    code = "class Net(nn.Module):\n    def forward(self, x):\n        return x.flatten(1)[:, :10] * {}\n"
    first, second = (write(tmp_path, code.format(factor), f"net{factor}.py") for factor in (1, 2))
    digests = [resolve(f"py:{file}:Net", DIGITS, 10).digest for file in (first, first, second)]
    assert digests[0] == digests[1] != digests[2]


def test_a_factory_imports_its_own_siblings(tmp_path: Path) -> None:
    before, modules = list(sys.path), set(sys.modules)
    for user in ("first", "second"):
        # A package without __init__.py would lose to any `attacks` elsewhere on the path.
        write(tmp_path / user / "attacks", f"WHO = '{user}'\n", "who.py")
        write(tmp_path / user / "defenses", f"WHO = '{user}'\n", "__init__.py")
        write(tmp_path / user, f"WHO = '{user}'\n", "helper_of_a_user.py")
        write(
            tmp_path / user,
            "import attacks.who, defenses, helper_of_a_user\n"
            "class Net(nn.Module):\n"
            "    who = (attacks.who.WHO, defenses.WHO, helper_of_a_user.WHO)\n"
            "    def forward(self, x): return x\n"
            "def factory():\n"
            "    import helper_of_a_user\n"
            "    assert helper_of_a_user.WHO == Net.who[0]\n"
            "    return Net()\n",
        )
    for user in ("first", "second", "first"):
        net = resolve(f"py:{tmp_path / user / 'mine.py'}:factory", DIGITS, 10).net
        assert net.who == (user, user, user)  # type: ignore[comparison-overlap]
    assert sys.path == before
    assert modules <= set(sys.modules)
    assert not any(type(finder).__name__ == "_Siblings" for finder in sys.meta_path)
    import bench.attacks

    assert "second" not in str(bench.attacks.__file__)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def factori(): pass\n", r"unknown factory in .*mine.py 'factory': did you mean 'factori'"),
        ("", "has no 'factory', nor any other function"),
        ("factory = 3\n", "factory in .*mine.py is a int, not a function"),
        ("def factory():\n    return 'net'\n", r"factory\(\) in .*mine.py returned a str; return an nn.Module"),
        ("def factory():\n    x = {}\n    return x['key']\n", r"mine.py:5: KeyError: 'key'"),
        ("def factory():\n    return nn.Linear('a', 2)\n", r"mine.py:4: TypeError"),
        ("import no_such_package_here\n", r"mine.py:3: ModuleNotFoundError: No module named 'no_such_package_here'"),
        ("def factory(:\n", r"mine.py:3: SyntaxError"),
        ("def factory(size):\n    return nn.Linear(size, 2)\n", r"TypeError: factory\(\) missing 1 required"),
        ("raise SystemExit('usage: ...')\n", r"mine.py:3: SystemExit: usage"),
        ("def factory():\n    return nn.LazyLinear(3)\n", "mine.py: .*[Uu]ninitialized"),
    ],
)
def test_mistakes_in_a_users_file_are_told_with_their_place(tmp_path: Path, code: str, message: str) -> None:
    file = write(tmp_path, code)
    with pytest.raises(GauntletError, match=message):
        resolve(f"py:{file}:factory", DIGITS, 10)
    assert not any(name.startswith("gauntlet_model_mine") and not hasattr(sys.modules[name], "nn") for name in sys.modules)


def test_unknown_references_list_the_forms(tmp_path: Path) -> None:
    for reference in ("zoo:Wong2020Fast", "resnet", "", str(tmp_path / "absent")):
        with pytest.raises(BadInput, match=r"a model is a run folder, run:FOLDER.*ckpt:FILE.*py:FILE\.py:factory"):
            resolve(reference, DIGITS, 10)
    for reference in ("mine.py", "py:mine.py", "py:mine.py:", "py::factory"):
        with pytest.raises(BadInput, match="names no factory; write py:"):
            resolve(reference, DIGITS, 10)
    with pytest.raises(BadInput, match="no Python file at"):
        resolve("py:absent.py:factory", DIGITS, 10)
    with pytest.raises(BadInput, match=r"no weights file at absent\.pt"):
        resolve("absent.pt", DIGITS, 10)
    for reference in ("ckpt:{}.pt", "run:{}", "py:{}.py:factory", "{}"):
        with pytest.raises(BadInput, match="File name too long; check the path"):
            resolve(reference.format("a" * 5000), DIGITS, 10)
    write(tmp_path, "", "mine.txt")
    with pytest.raises(BadInput, match=r"its name must end in \.py"):
        resolve(f"py:{tmp_path / 'mine.txt'}:factory", DIGITS, 10)


class Answer(nn.Module):
    """Answers with what it is given, for as many images as it gets."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(x) if callable(self.answer) else self.answer


def spoilt(x: Tensor) -> Tensor:
    logits = x.flatten(1)[:, :10] * 5 + 1
    logits[1, 3] = float("nan")
    logits[2, 0] = float("inf")
    return logits


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda x: nn.Linear(5, 10)(x.flatten(1)),
            r"fails on images of shape \[20, 1, 8, 8\]: RuntimeError: .*cannot be multiplied",
        ),
        ((torch.zeros(20, 10), None), "returns a tuple, not a tensor of logits"),
        (lambda x: x[:, 0], r"returns float32 \[20, 8, 8\] for 20 images; return float logits \[20, 10\]"),
        (torch.zeros(3, 10), r"returns float32 \[3, 10\] for 20 images"),
        (lambda x: torch.zeros(len(x), 10).argmax(1, keepdim=True).expand(-1, 10), r"returns int64 \[20, 10\]"),
        (lambda x: x.flatten(1), "has 64 outputs and the data set 10 classes"),
        (spoilt, "returns NaN or infinite logits for 2 of 20 images"),
        (lambda x: x.flatten(1)[:, :10].softmax(1), "returns probabilities.* return logits: remove the softmax"),
    ],
)
def test_outputs_that_are_not_logits_are_refused(answer: object, message: str) -> None:
    images = torch.rand(20, *DIGITS)
    with pytest.raises(BadInput, match=f"^mine {message}"):
        check_outputs(Answer(answer), images, 10, "mine")


def test_honest_outputs_pass() -> None:
    images = torch.rand(3, *DIGITS)
    check_outputs(net_of(0), images, 10, "a network")
    check_outputs(Answer(lambda x: x.flatten(1)[:, :10].log_softmax(1)), images, 10, "log-probabilities")
    check_outputs(Answer(lambda x: x.flatten(1)[:, :10]), images, 10, "logits that happen to lie in [0, 1]")
