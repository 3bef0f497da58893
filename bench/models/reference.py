"""Where a model comes from: a run folder, a checkpoint, a Python file or a zoo, written as one line of text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import BadInput, UnknownName
from bench.models import architectures
from bench.models.checkpoint import check_fit, check_weights, digest, fit, read_file
from bench.models.ensemble import SnapshotEnsemble
from bench.models.factory import call_factory, check_python
from bench.models.layers import Normalize, Normalized
from bench.models.outputs import check_outputs as check_outputs  # noqa: PLC0414
from bench.models.weights import choose
from bench.plugins import code_digest, user_code, was_run

FORMS = (
    "a run folder, run:FOLDER?weights=best, a weights file, ckpt:FILE?arch=preact_resnet18, py:FILE.py:factory, "
    "or robustbench:NAME?dataset=cifar10&threat=Linf"
)
_SUFFIXES = (".safetensors", ".pt", ".pth")
_WEIGHTS = re.compile(r"best|last|ensemble|snapshot-\d+|epoch-\d+")


PROGRAM = (
    "a part of the network is a TorchScript program, inside which attacks cannot look for what hides from gradients, such as "
    "rounding or other networks: evaluate the module that it was made from, or diagnose it before the number is trusted"
)


@dataclass(frozen=True)
class Model:
    """A network ready to be attacked, and where it came from."""

    reference: str
    """As the user gave it."""
    name: str
    """A short label: the run folder's name, the file's stem or the factory's name."""
    net: nn.Module
    """In eval mode, its parameters frozen, on the CPU."""
    arch: str
    """The architecture's spec, or the class of a network from elsewhere."""
    digest: str
    """SHA-256 of its weights; for a network from a Python file, of the factory's name and the code beside it too."""
    run: Path | None
    """The run folder it came from."""
    elsewhere: bool = False
    """Whether its code is not ours, and may do anything with what it is given: its weights do not settle what it answers."""
    notes: tuple[str, ...] = ()
    """What was done to the weights so that they fit, and what of the network cannot be seen, for a reader of the card."""
    learns: frozenset[int] = field(default=frozenset(), compare=False)
    """Ids of the parameters that required a gradient before they were frozen."""


def resolve(
    reference: str, shape: tuple[int, int, int], classes: int, *, at_least: bool = False, run_code: bool = True
) -> Model:
    """The model a reference names, for images of shape (C, H, W) and K classes.

    at_least: the model may know more classes than these, because a user's own file need not hold an example of each.
    run_code: whether py: may run a file that the user has not named otherwise; false where a file, such as a plan, names it.
    """
    try:
        return _resolve(reference, shape, classes, at_least, run_code)
    except OSError as error:  # a path too long, a folder without permission
        raise BadInput(f"model {reference!r}: {error.strerror or error}; check the path and its permissions") from None


def check_there(reference: str) -> None:
    """BadInput where the folder or file of a reference is missing: before questions about data that it would answer."""
    try:
        kind, rest = _kind(reference)
        file = Path(rest.partition("?")[0])
        if kind == "run":
            _check_folder(file)
        elif kind == "ckpt":
            check_weights(file)
        elif kind == "py":
            check_python(_file_and_factory(reference, rest)[0])
    except OSError as error:  # a path too long, a folder without permission
        raise BadInput(f"model {reference!r}: {error.strerror or error}; check the path and its permissions") from None


def listed(reference: str) -> dict[str, Any]:
    """The data set and the threat that a reference itself tells, as the record of a training does; empty for most."""
    if not reference.startswith("robustbench:"):
        return {}
    from bench.models.robustbench import listed

    return listed(reference)


def _resolve(reference: str, shape: tuple[int, int, int], classes: int, at_least: bool, run_code: bool) -> Model:
    kind, rest = _kind(reference)
    kinds: dict[str, Callable[[], Model]] = {
        "run": lambda: _from_run(reference, rest, shape, classes, at_least),
        "ckpt": lambda: _from_checkpoint(reference, rest, shape, classes, at_least),
        "py": lambda: _from_file(reference, rest, run_code),
        "robustbench": lambda: _from_zoo(reference, rest, classes),
        "live": lambda: _from_memory(reference),
    }
    return kinds[kind]()


def _kind(reference: str) -> tuple[str, str]:
    """The kind of a reference, and what it names; a folder and a weights file need not say theirs."""
    kind, colon, rest = reference.partition(":")
    if colon and kind in ("run", "ckpt", "py", "robustbench", "live"):
        return kind, rest
    path = Path(reference.partition("?")[0])
    if reference and path.is_dir():
        return "run", reference
    if path.suffix in _SUFFIXES:
        return "ckpt", reference
    if path.suffix == ".py":
        raise BadInput(f"model {reference!r} names no factory; write py:{reference}:factory")
    raise BadInput(f"model {reference!r} is neither a folder nor a known kind; a model is {FORMS}")


def _from_run(reference: str, rest: str, shape: tuple[int, int, int], classes: int, at_least: bool) -> Model:
    folder_text, _, query = rest.partition("?")
    folder = Path(folder_text)
    options = architectures.parse_query(query, f"model {reference!r}")
    for key in options:
        if key != "weights":
            raise UnknownName("option of a run reference", key, ["weights"])
    _check_folder(folder)
    held = sorted(path.stem for path in folder.glob("*.safetensors") if _WEIGHTS.fullmatch(path.stem))
    there = f"its weights are {', '.join(held)}" if held else "it holds no weights"
    if not (folder / "train.json").is_file() or (folder / "state.pt").exists():
        raise BadInput(
            f"{folder} has no train.json, or still a state.pt: the training has not finished, or it is no run folder "
            f"({there}); finish the training by running it again"
        )
    weights = options.get("weights") or ("ensemble" if "ensemble" in held else "best")
    if not _WEIGHTS.fullmatch(weights):
        raise UnknownName("weights", weights, {"best", "last", "ensemble", "snapshot-1", *held})
    if weights not in held:
        raise BadInput(f"{folder} has no {weights}.safetensors: {there}; name one with ?weights=, or train again")
    net, arch, _ = _read(folder / f"{weights}.safetensors", {}, shape, classes, at_least)
    return _model(reference, folder.resolve().name, net, arch, folder)


def _check_folder(folder: Path) -> None:
    """BadInput where a run folder is missing."""
    if not folder.is_dir():
        raise BadInput(f"no run folder at {folder}; train a model first, or check the path")


def _from_checkpoint(reference: str, rest: str, shape: tuple[int, int, int], classes: int, at_least: bool) -> Model:
    file, _, query = rest.removeprefix("ckpt:").partition("?")
    net, arch, notes = _read(Path(file), architectures.parse_query(query, f"model {reference!r}"), shape, classes, at_least)
    return replace(_model(reference, Path(file).stem, net, arch, None), notes=notes)


def _from_file(reference: str, rest: str, run_code: bool) -> Model:
    path, factory = _file_and_factory(reference, rest)
    if not run_code and path.is_file() and not was_run(path):
        raise BadInput(f"model {reference!r} is code, which runs only when you name it: add --plugin {path}")
    net = call_factory(path, factory)
    with user_code(path.resolve()):
        model = _model(reference, factory, net, type(net).__name__, None)
    # Two files may differ in what they compute and share every weight, or have none.
    all_of_it = f"{model.digest} {factory} {code_digest(path, path.parent)}"
    return replace(model, digest=hashlib.sha256(all_of_it.encode()).hexdigest(), elsewhere=True)


def _file_and_factory(reference: str, rest: str) -> tuple[Path, str]:
    file, colon, factory = rest.rpartition(":")
    if not colon or not file or not factory:
        raise BadInput(f"model {reference!r} names no factory; write py:FILE.py:factory")
    return Path(file), factory


_held: dict[str, nn.Module] = {}
"""Networks that a Python session hands in as they are."""


def hold(net: nn.Module) -> str:
    """Keep a network for as long as the process lives; the reference that `resolve` knows it by."""
    name = f"live:{type(net).__name__}-{digest(net)[:8]}"
    _held[name] = net
    return name


def _from_memory(reference: str) -> Model:
    if reference not in _held:
        raise BadInput(f"model {reference!r} was only in the memory of another process; hand it in again, or name a file")
    try:
        net = deepcopy(_held[reference])  # moved, frozen and put into eval mode, which is not for us to do to the user's own
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise BadInput(f"{reference} cannot be copied ({told}); give py:FILE.py:factory, which builds it") from None
    return replace(_model(reference, type(net).__name__, net, type(net).__name__, None), elsewhere=True)


def _from_zoo(reference: str, rest: str, classes: int) -> Model:
    from bench.models.robustbench import load

    name, net = load(reference, rest, classes)
    return replace(_model(reference, name, net, type(net).__name__, None), elsewhere=True)


def _model(reference: str, name: str, net: nn.Module, arch: str, run: Path | None) -> Model:
    # One by one: a network of somebody's may return nothing from any of them, and a TorchScript program lacks the last.
    net.cpu()
    try:
        net.eval()
    except NotImplementedError as error:  # of torch.export
        told = f"model {reference!r} has no eval mode ({error}); give the module that it was exported from"
        raise BadInput(told) from None
    learns = frozenset(id(parameter) for parameter in net.parameters() if parameter.requires_grad)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    notes = (PROGRAM,) if any(isinstance(part, torch.jit.ScriptModule) for part in net.modules()) else ()
    return Model(reference, name, net, arch, digest(net), run, notes=notes, learns=learns)


def _read(
    path: Path, options: Mapping[str, str], shape: tuple[int, int, int], classes: int, at_least: bool
) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The network of a weights file, its spec, and what a reader is to know of the weights.

    options: arch, the architecture's parameters, mean and std, and weights, the set to take where the file holds several.
    """
    state, metadata = read_file(path)
    classes = _agree(path, metadata, shape, classes, at_least)
    given = dict(options)
    wanted = given.pop("weights", None)
    statistics = _statistics(path, given, shape[0], metadata)
    spec = _spec(path, given, metadata)
    # Placeholders: the statistics of a network trained here are among its weights.
    inside = ([0.0] * shape[0], [1.0] * shape[0]) if metadata.get("normalized") == "1" else None
    # Without memory first: what a file says of its network may ask for more than there is, and its tensors say otherwise.
    with torch.device("meta"):
        plan = architectures.build(spec, shape, classes, inside).state_dict()
    count = _members(path, metadata, len(plan), len(state))
    own = plan if count is None else {f"members.{n}.{key}": value for n in range(count) for key, value in plan.items()}
    state, notes = choose(state, own, path, wanted, normalized=statistics is not None)
    check_fit(own, state, str(path))
    build = partial(architectures.build, spec, shape, classes, inside)
    net: nn.Module = build() if count is None else SnapshotEnsemble(build() for _ in range(count))
    fit(net, state, str(path))
    return (net if statistics is None else Normalized(Normalize(*statistics), net)), spec, notes


def _members(path: Path, metadata: Mapping[str, str], each: int, held: int) -> int | None:
    """How many networks an ensemble has; None for a single network. each: the tensors of one; held: of the file."""
    if "members" not in metadata:
        return None
    # Files older than torch 0.4.1 lack counters, a third of the tensors at most.
    if (count := _whole(path, metadata, "members")) * each > 2 * held:
        raise BadInput(f"{path} says that it holds {count} networks of {each} tensors, and holds {held} tensors; it is damaged")
    return count


def _agree(path: Path, metadata: Mapping[str, str], shape: tuple[int, int, int], classes: int, at_least: bool) -> int:
    """The number of classes of the network, which its metadata may say, once they and the data set agree."""
    own = metadata.get("shape")
    if own is not None and own != (wanted := ",".join(map(str, shape))):
        raise BadInput(f"{path} was trained on images of shape {own} and the data set has {wanted}; they must agree")
    count = _whole(path, metadata, "classes") if "classes" in metadata else classes
    if count != classes and not (at_least and count > classes):
        raise BadInput(f"{path} was trained for {count} classes and the data set has {classes}; they must agree")
    return count


def _spec(path: Path, given: Mapping[str, str], metadata: Mapping[str, str]) -> str:
    """The architecture's spec: what the reference says before what the metadata says."""
    spec = given.get("arch") or metadata.get("arch")
    if spec is None:
        known = ", ".join(architectures.names())
        raise BadInput(f"{path} does not say its architecture; add ?arch=NAME to the reference, one of {known}")
    name, parameters = architectures.parse_spec(spec)
    own = {key: value for key, value in given.items() if key != "arch"}
    return architectures.format_spec(name, {**parameters, **own})


def _statistics(
    path: Path, given: dict[str, str], channels: int, metadata: Mapping[str, str]
) -> tuple[list[float], list[float]] | None:
    """The mean and std that a reference puts in front of the network, taken out of `given`."""
    texts = {key: given.pop(key) for key in ("mean", "std") if key in given}
    if not texts:
        return None
    if metadata.get("normalized") == "1":
        raise BadInput(f"{path} holds its own normalisation; drop mean and std from the reference")
    if len(texts) < 2:
        raise BadInput(f"{path}: {next(iter(texts))} alone does not normalise; give both mean and std")
    try:
        mean, std = ([float(value) for value in texts[key].split(",")] for key in ("mean", "std"))
    except ValueError:
        raise BadInput(f"{path}: mean={texts['mean']}&std={texts['std']} are not numbers separated by commas") from None
    if {len(mean), len(std)} != {channels}:
        raise BadInput(f"{path}: {len(mean)} means and {len(std)} stds for {channels} channels; give one of each per channel")
    return mean, std


def _whole(path: Path, metadata: Mapping[str, str], key: str) -> int:
    text = metadata[key]
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise BadInput(f"{path}: its metadata say {key} = {text!r}, not a positive number; the file was not written here")
    return int(text)
