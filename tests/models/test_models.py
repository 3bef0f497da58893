"""Architectures, ensembles and weights on disk."""

import math
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.core import views
from bench.core.rng import isolated
from bench.errors import BadInput, GauntletError, UnknownName
from bench.models import architectures
from bench.models.architectures import build
from bench.models.checkpoint import digest, fit, load_weights, save_weights
from bench.models.ensemble import SnapshotEnsemble
from bench.models.layers import Normalize, Normalized
from bench.models.reference import check_outputs

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SLIM = (
    "digits_bn?width=4",
    "digits_cnn?width=4",
    "lenet?width=2",
    "linear",
    "mnist_fast",
    "patches?filters=2",
    "preact_resnet18?width=4",
    "resnet18?width=4",
    "vgg16?width=4",
    "wide_resnet?depth=10&width=1&dropout=0.3",
)


def small(spec: str = "digits_cnn?width=4", shape: tuple[int, int, int] = DIGITS, classes: int = 10) -> nn.Module:
    with isolated(0, spec):
        return build(spec, shape, classes).eval()


@pytest.mark.parametrize(
    ("spec", "shape", "exact", "published"),
    [
        ("digits_cnn", DIGITS, 151_306, "0.15"),
        # Two numbers for each of 32 and of 64 channels more.
        ("digits_bn", DIGITS, 151_498, "0.15"),
        ("mnist_fast", MNIST, 166_406, "0.17"),
        ("lenet", MNIST, 3_274_634, "3.27"),
        ("preact_resnet18", CIFAR, 11_172_170, "11.17"),
        ("resnet18", CIFAR, 11_173_962, "11.17"),
        ("resnet18?width=32", CIFAR, 2_797_610, "2.80"),
        ("vgg16", CIFAR, 14_724_042, "14.72"),
        ("vgg16?width=32", CIFAR, 3_684_842, "3.68"),
        ("wide_resnet", CIFAR, 36_479_194, "36.48"),
        ("wide_resnet?depth=34", CIFAR, 46_160_474, "46.16"),
    ],
)
def test_networks_have_their_published_size(spec: str, shape: tuple[int, int, int], exact: int, published: str) -> None:
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in build(spec, shape, 10).parameters())
    assert size == exact
    assert f"{size / 1e6:.2f}" == published


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, (2, 5, 9)])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("spec", SLIM)
def test_every_architecture_takes_every_shape(spec: str, classes: int, shape: tuple[int, int, int]) -> None:
    net = small(spec, shape, classes)
    images = torch.rand(3, *shape)
    with torch.no_grad():
        assert net(images).shape == (3, classes)
        assert net(images[:1]).shape == (1, classes)
    check_outputs(net, images, classes, spec)


@pytest.mark.parametrize("shape", [DIGITS, CIFAR])
@pytest.mark.parametrize("spec", SLIM)
def test_logits_do_not_depend_on_the_batch(spec: str, shape: tuple[int, int, int]) -> None:
    net = small(spec, shape)
    images = torch.rand(37, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = views.forward(net, images)
        for start, stop in ((0, 1), (4, 6), (20, 35), (1, 17), (3, 37)):
            assert torch.equal(views.forward(net, images[start:stop]), whole[start:stop])
        assert torch.equal(views.forward(net, images.flip(0)), whole.flip(0))


@pytest.mark.parametrize("spec", SLIM)
def test_a_forward_pass_leaves_the_images_alone_and_has_gradients(spec: str) -> None:
    net = small(spec, CIFAR)
    images = torch.rand(2, *CIFAR, requires_grad=True)
    before = images.detach().clone()
    (grad,) = torch.autograd.grad(net(images).sum(), images)
    assert torch.equal(images, before)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


def test_dropout_acts_in_training_only() -> None:
    net = small("wide_resnet?depth=10&width=1&dropout=0.5", CIFAR)
    images = torch.rand(4, *CIFAR)
    assert torch.equal(net(images), net(images))
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    assert not torch.equal(net(images), net(images))


def test_the_preactivation_shortcut_sees_the_activated_input() -> None:
    from bench.models.resnet import PreactBlock

    block = PreactBlock(2, 3, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 2, 6, 6)
    assert block.shortcut is not None
    torch.testing.assert_close(block(x), block.shortcut(torch.relu(block.bn1(x))))
    straight = PreactBlock(2, 2, 1).eval()
    nn.init.zeros_(straight.conv2.weight)
    assert torch.equal(straight(x), x)


def test_normalisation_is_the_first_layer() -> None:
    with isolated(0):
        net = build("digits_cnn?width=2", CIFAR, 10, ([0.1, 0.2, 0.3], [0.5, 0.25, 1.0])).eval()
    assert isinstance(net, Normalized)
    x = torch.rand(2, *CIFAR)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.25, 1.0]))
    torch.testing.assert_close(net(x), net.body((x - mean) / std))
    assert {"normalize.mean", "normalize.std"} < net.state_dict().keys()
    assert not any(name.startswith("normalize") for name, _ in net.named_parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("preact_resnet81", "unknown architecture 'preact_resnet81': did you mean 'preact_resnet18'"),
        ("lenet?widht=3", "unknown parameter of architecture 'lenet' 'widht': did you mean 'width'"),
        ("mnist_fast?width=3", "'mnist_fast' has no parameter 'width'"),
        ("lenet?width=wide", "width = 'wide' is not a whole number from 1 to 1024; it defaults to 16"),
        ("lenet?width=2.5", "not a whole number"),
        ("lenet?width=0", "not a whole number from 1"),
        ("lenet?width=99999999", "to 1024"),
        ("lenet?width", "'width' is not key=value"),
        ("lenet?width=2&width=3", "width is given twice"),
        ("wide_resnet?depth=30", "depth 30 is not 6n [+] 4; did you mean 28"),
        ("wide_resnet?depth=4", "did you mean 10"),
        ("wide_resnet?depth=10&dropout=1", r"dropout 1 is outside \[0, 1\)"),
        ("wide_resnet?depth=10&dropout=nan", "dropout = 'nan' is not a number"),
    ],
)
def test_bad_specs_are_told(spec: str, message: str) -> None:
    with pytest.raises(GauntletError, match=message):
        build(spec, DIGITS, 10)


def test_bad_shapes_classes_and_statistics_are_told() -> None:
    with pytest.raises(BadInput, match="1 classes: a classifier needs at least 2"):
        build("lenet", MNIST, 1)
    with pytest.raises(BadInput, match=r"image shape \(1, 0, 28\)"):
        build("lenet", (1, 0, 28), 10)
    with pytest.raises(BadInput, match="3x28 are too small for mnist_fast; they need at least 4x4"):
        build("mnist_fast", (1, 3, 28), 10)
    with pytest.raises(BadInput, match="statistics of 1 channels for images of 3"):
        build("digits_cnn", CIFAR, 10, ([0.5], [0.5]))
    with pytest.raises(BadInput, match="must be positive"):
        Normalize([0.5], [0.0])
    with pytest.raises(BadInput, match="mean has 2 values and std 1"):
        Normalize([0.5, 0.1], [1.0])


def test_architectures_are_listed() -> None:
    assert architectures.names() == sorted(spec.partition("?")[0] for spec in SLIM)
    for name in architectures.names():
        line = architectures.describe(name)
        assert line
        assert "\n" not in line
    assert architectures.describe("wide_resnet").endswith("depth=28&width=10&dropout=0.0")
    for family in ("digits", "mnist", "cifar"):
        assert architectures.default_architecture(family) in architectures.names()
    with pytest.raises(UnknownName, match="did you mean 'cifar'"):
        architectures.default_architecture("cifra")
    with pytest.raises(UnknownName, match="architecture"):
        architectures.describe("alexnet")


def ensemble(size: int = 3) -> SnapshotEnsemble:
    with isolated(1):
        return SnapshotEnsemble(build("digits_cnn?width=4", DIGITS, 10) for _ in range(size)).eval()


def test_an_ensemble_answers_with_the_log_of_the_mean_probability() -> None:
    net, x = ensemble(), torch.rand(20, *DIGITS)
    with torch.no_grad():
        direct = sum(member(x).double().softmax(1) for member in net.members) / 3
        torch.testing.assert_close(net(x).double(), direct.log(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ensemble(1)(x), ensemble(1).members[0](x).log_softmax(1))
        assert torch.equal(views.forward(net, x[:1]), views.forward(net, x)[:1])
    check_outputs(net, x, 10, "the ensemble")


def test_an_ensemble_of_very_sure_members_stays_finite() -> None:
    class Constant(nn.Module):
        def __init__(self, logits: list[float]) -> None:
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits.expand(len(x), -1)

    net = SnapshotEnsemble([Constant([1e4, 0.0, 0.0]), Constant([0.0, 1e4, 0.0])])
    out = net(torch.zeros(2, *DIGITS))
    torch.testing.assert_close(out[0], torch.tensor([-math.log(2), -math.log(2), -1e4 - math.log(1)]), atol=1e-2, rtol=0)
    with pytest.raises(BadInput, match="without members"):
        SnapshotEnsemble([])


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    net, path = small("preact_resnet18?width=2", CIFAR), tmp_path / "deep" / "net.safetensors"
    save_weights(path, net, {"arch": "preact_resnet18?width=2"})
    state, metadata = load_weights(path)
    assert metadata == {"arch": "preact_resnet18?width=2", "schema": "1"}
    other = build("preact_resnet18?width=2", CIFAR, 10)
    assert digest(other) != digest(net)
    fit(other, state, "net")
    assert digest(other) == digest(net)
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


def test_shared_and_strided_tensors_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    save_weights(tmp_path / "w", {"a": base.t(), "b": base, "c": base[0]}, {})
    state, _ = load_weights(tmp_path / "w")
    assert torch.equal(state["a"], base.t())
    assert torch.equal(state["c"], base[0])


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(1)}, {})

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(GauntletError, match="No space left"):
        save_weights(path, {"a": torch.ones(1)}, {})
    monkeypatch.undo()
    assert load_weights(path)[0]["a"] == 0
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str, zipped: bool) -> None:
    net = small()
    state: dict[str, object] = {prefix + key: value for key, value in net.state_dict().items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "best": 0.5}
    path = tmp_path / "weights.safetensors"  # the content decides, not the suffix
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read, metadata = load_weights(path)
    assert metadata == {}
    other = build("digits_cnn?width=4", DIGITS, 10)
    fit(other, read, "weights")
    assert digest(other) == digest(net)


def test_a_prefix_that_not_every_key_has_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w")
    assert set(load_weights(tmp_path / "w")[0]) == {"module.a", "b"}


class Trap:
    """Unpickled carelessly, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "zip, protocol 4", "legacy", "pickle", "pickle, protocol 2"])
def test_a_pickle_that_would_run_code_is_refused_unexecuted(tmp_path: Path, how: str) -> None:
    proof, path = tmp_path / "executed", tmp_path / "model.pt"
    content = {"state_dict": {"a": torch.zeros(1)}, "extra": Trap(proof)}
    if how == "zip":
        torch.save(content, path)
    elif how == "zip, protocol 4":
        torch.save(content, path, pickle_protocol=4)
    elif how == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Trap(proof), protocol=2 if "2" in how else 4))
    with pytest.raises(BadInput, match=r"asks for \w+\.mkdir, which was blocked and not executed; save the weights alone"):
        load_weights(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Trap(proof)))
    assert proof.exists(), "the trap must be a real one"


def test_a_pickled_network_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"asks for torch\.nn\.modules\.linear\.Linear, which was blocked"):
        load_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_truncation_is_told_at_any_length(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "whole"
    state = small().state_dict()
    if kind == "safetensors":
        save_weights(path, state, {})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    cut = tmp_path / "cut"
    for length in [1, 4, 8, 9, 20, 100, 511, 512, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="truncated"):
            load_weights(cut)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_an_error_and_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "w"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        load_weights(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255), st.sampled_from(["safetensors", "zip", "legacy"]))
def test_a_damaged_byte_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "w"
    state = {"weight": torch.arange(6.0), "bias": torch.ones(2)}
    if kind == "safetensors":
        save_weights(path, state, {"arch": "x"})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(GauntletError):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (
            b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
            "is a web page, not weights: .* quota or login page",
        ),
        (b"\xef\xbb\xbf\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git-lfs pointer.*git lfs pull"),
        (b"just some text that is long enough", "truncated, corrupt or not a weights file at all"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "truncated or corrupt safetensors file"),
    ],
)
def test_files_that_are_not_weights_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, not a dict of tensors"),
        (torch.zeros(2), "holds a Tensor, not a dict"),
        ({}, "holds nothing"),
        ({"epoch": 3, "weights": torch.zeros(1)}, r"also epoch \(int\)"),
        ({1: torch.zeros(1)}, r"1 \(not a name\)"),
    ],
)
def test_content_other_than_tensors_by_name_is_told(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=message):
        load_weights(tmp_path / "w.pt")


def test_missing_files_folders_and_newer_schemas_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no weights file at"):
        load_weights(tmp_path / "absent.pt")
    with pytest.raises(BadInput, match="is a folder"):
        load_weights(tmp_path)
    (tmp_path / "new").write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, {"schema": "9"}))
    with pytest.raises(BadInput, match="has schema 9, and this version reads 1; update"):
        load_weights(tmp_path / "new")


def test_weights_of_another_architecture_are_told() -> None:
    net = small("lenet?width=2", DIGITS)
    with pytest.raises(BadInput, match=r"of here look like another architecture \(.*missing: 3.weight, 3.bias.*unexpected"):
        fit(net, small().state_dict(), "here")
    with pytest.raises(BadInput, match=r"wrong shape: 0.weight is \[8, 1, 3, 3\] and not \[4, 1, 3, 3\].* more"):
        fit(small(), small("digits_cnn?width=8").state_dict(), "here")


def test_weights_without_batch_counters_load() -> None:
    net = small("resnet18?width=2")
    old = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    fit(build("resnet18?width=2", DIGITS, 10), old, "an old file")


def test_the_digest_sees_names_types_shapes_and_bytes() -> None:
    class Holder(nn.Module):
        def __init__(self, name: str, value: Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    values = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), -torch.zeros(4), torch.tensor(0.0)]
    digests = [digest(Holder("a", value)) for value in values] + [digest(Holder("b", values[0]))]
    assert len(set(digests)) == len(digests)
    assert digest(Holder("a", torch.zeros(8)[::2])) == digests[0]
    assert digest(Holder("a", torch.zeros(3, dtype=torch.bfloat16)))
