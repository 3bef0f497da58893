"""Weights on disk: written as safetensors, read from safetensors or torch files, and never by running code."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.errors import BadInput, out_of_memory
from bench.files import atomic, opened, parse_json

SCHEMA = "1"
_METADATA = "gauntlet"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_DEEPEST = 8
"""Wrappers around a state dict, at most."""
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?|avg|shadow|teacher)(?:[._]|$)")
"""In the name of a set of weights: they are a mean over those of a training, or another network's."""
_BESIDES = re.compile(r"optim|sched|scaler|rng|_states$", re.IGNORECASE)
"""What a training keeps beside its weights."""
_SAVE_PLAIN = "save the weights alone, torch.save(net.state_dict(), file), and use that file"


def save_weights(path: Path, net_or_state: nn.Module | Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write weights and what they are to a safetensors file, whole or not at all."""
    state = net_or_state.state_dict() if isinstance(net_or_state, nn.Module) else net_or_state
    # Cloned, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    # One metadata key, because the library writes several in no fixed order and equal weights should be equal bytes.
    content = safetensors.torch.save(tensors, metadata={_METADATA: json.dumps({**metadata, "schema": SCHEMA}, sort_keys=True)})
    with atomic(path) as part:
        part.write_bytes(content)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weights file by name, without the "module." of DataParallel, on the CPU, and its metadata."""
    state, metadata = read_file(path)
    return without_module(state), metadata


def check_weights(path: Path) -> None:
    """BadInput where a weights file is missing, or is no file."""
    if not path.exists():
        raise BadInput(f"no weights file at {path}; check the path")
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not a weights file; name the file inside it")
    if not path.is_file():
        raise BadInput(f"{path} is a pipe or a device, not a weights file; name a file")


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The same under the names that the file has; the format is told by the content.

    A file with several sets of weights, such as raw and averaged ones, has the name of each before its tensors' names.
    """
    try:
        check_weights(path)
        with opened(path) as file:
            head = file.read(512)
        # Eight bytes of header length, which is far below 2^32, then JSON.
        if head[4:9] == b"\0\0\0\0{":
            return _load_safetensors(path)
        _refuse_pretenders(path, head)
        state = _tensors(path, _load_torch(path))
        _refuse_expanded(path, state)
        return state, {}
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}; check the path and its permissions") from None


def fit(net: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load weights into a network that must have exactly these; origin names them in errors."""
    own = net.state_dict()
    check_fit(own, state, origin)
    net.load_state_dict({**{key: own[key] for key in own if key not in state}, **state})


def check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str) -> None:
    """BadInput where weights are not those of a network with this state, which may be one without memory."""
    shapes = [
        f"{key} is {list(state[key].shape)} and not {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    found = {
        # Checkpoints older than torch 0.4.1 lack this counter, which evaluation never reads.
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "wrong shape": shapes,
    }
    if any(found.values()):
        told = "; ".join(f"{what}: {_first_three(keys)}" for what, keys in found.items() if keys)
        raise BadInput(f"the weights of {origin} look like another architecture ({told}); {_remedy(found, own, state)}")


def _remedy(found: Mapping[str, Sequence[str]], own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What to do about weights that do not fit, by how they do not."""
    apart = [(own[key].shape, state[key].shape) for key in own if key in state and state[key].shape != own[key].shape]
    if found["unexpected"] and not found["missing"] and not apart:
        return "take those out of the file, or name the network that has them as py:FILE.py:net"
    ours, theirs = ({shapes[side][0] if shapes[side] else 0 for shapes in apart} for side in (0, 1))
    last = len(ours) == len(theirs) == 1 and all(one[1:] == other[1:] for one, other in apart)
    if last and not found["missing"] and not found["unexpected"]:
        return f"they seem to know {theirs.pop()} classes, and the data have {ours.pop()}: give the data that they are for"
    return "name theirs with ?arch=, or build it in a file of your own, py:FILE.py:net"


def digest(net: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's state, in the order of the names."""
    total = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        if not isinstance(value, Tensor):
            total.update(f"{name} {value!r}\n".encode())
            continue
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = _metadata(path, dict(file.metadata() or {}))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError:
        raise
    except BadInput:
        raise
    except Exception as error:  # shapes that overflow and types that torch lacks raise errors of all kinds
        raise BadInput(f"{path} is a truncated or corrupt safetensors file ({error}); copy or download it again") from None
    if metadata.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"{path} has schema {metadata['schema']}, and this version reads {SCHEMA}; update gauntlet-bench")
    return _tensors(path, state), metadata


def _metadata(path: Path, stored: dict[str, str]) -> dict[str, str]:
    """Ours, out of the one key it is written under; a foreign file's as it is."""
    if _METADATA not in stored:
        return stored
    try:
        return {str(key): str(value) for key, value in parse_json(stored[_METADATA]).items()}
    except (ValueError, AttributeError):
        raise BadInput(f"{path} has damaged metadata; copy or download it again") from None


def _refuse_pretenders(path: Path, head: bytes) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise BadInput(f"{path} is empty; copy or download it again")
    if text.startswith(b"<"):
        raise BadInput(f"{path} is a web page, not weights: the download was a quota or login page; open its link in a browser")
    if text.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path} is a git-lfs pointer, not weights; fetch the file with `git lfs pull`")


def _load_torch(path: Path) -> Any:
    _refuse_bombs(path)
    file = opened(path)
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Given a path, torch would judge the format by its suffix.
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise nearly anything: EOFError, IndexError, RuntimeError, ...
        if out_of_memory(error):
            raise BadInput(f"{path} asks for more memory than there is; it is too large for this machine, or damaged") from None
        if blocked := _blocked(path, error):
            raise BadInput(
                f"{path} is a pickle that would run code: it asks for {blocked}, which was blocked and not executed; "
                f"{_SAVE_PLAIN}, or, if it is a whole network that you trust, write a Python file with `def net(): return "
                f"torch.load({str(path)!r}, weights_only=False)` and evaluate py:FILE.py:net"
            ) from None
        if "TorchScript" in str(error):
            raise BadInput(
                f"{path} is a TorchScript program: code, which ckpt: never runs; {_SAVE_PLAIN}, or, if you trust it, "
                f"write a Python file with `def net(): return torch.jit.load({str(path)!r})` and evaluate py:FILE.py:net"
            ) from None
        raise BadInput(
            f"{path} is truncated, corrupt or not a weights file at all ({type(error).__name__}); "
            "copy or download it again, as safetensors or a torch state dict"
        ) from None


def _refuse_bombs(path: Path) -> None:
    """Refuse a zip whose entries unpack to more than the file itself; torch writes them as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            promised = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # not a zip, or a damaged one, which torch will say
        return
    if promised > path.stat().st_size:
        raise BadInput(f"{path} is compressed to unpack to {promised} bytes, as torch writes no file; {_SAVE_PLAIN}")


def _refuse_expanded(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that repeat a few stored numbers into many: a few bytes would become a network of gigabytes."""
    for name, value in state.items():
        if (size := value.numel() * value.element_size()) > value.untyped_storage().nbytes():
            raise BadInput(f"{path}: {name} has {size} bytes, of which the file holds fewer; save it with .contiguous()")


def _blocked(path: Path, error: Exception) -> str | None:
    """What a refused pickle asked for; None where the refusal had another reason."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    if told := re.search(r"GLOBAL (\S+)|(?:function|but got) (<[^>]+>)", str(error)):
        return told[1] or told[2]
    return next((name for name in _globals(path) if not name.startswith(("torch.", "collections."))), None)


def _globals(path: Path) -> list[str]:
    """The classes and functions named in a pickle, found without running it; torch reads protocols 2 and 3 only."""
    found: list[str] = []
    texts: list[str] = []
    try:
        content = _pickle_of(path)
        for code, argument, _ in pickletools.genops(content):
            if code.name in ("GLOBAL", "INST"):
                found.append(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                found.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception:  # what follows is not a pickle any more; the names up to here are worth telling
        return found
    return found


def _pickle_of(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict inside what a file holds, without wrappers; of several, all, each below its own name."""
    sets = _sets(content, set())
    if len(sets) > 1 or any(AVERAGED.search(name) for name in sets):
        return {f"{name}.{key}": value for name, state in sets.items() for key, value in state.items()}
    content = next(iter(sets.values())) if sets else _unwrapped(content)
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds a {type(content).__name__}, not a dict of tensors; {_SAVE_PLAIN}")
    names = [key if isinstance(key, str) else f"{_spoken(key)} (not a name)" for key in content]
    strange = [f"{name} ({_odd(value)})" for name, value in zip(names, content.values(), strict=True) if _odd(value)]
    strange += [name for name, key in zip(names, content, strict=True) if not isinstance(key, str)]
    if strange or not content:
        told = f"also {_first_three(strange)}" if strange else "nothing"
        raise BadInput(f"{path} holds {told}, not a dict of tensors; {_SAVE_PLAIN}")
    return dict(content)


def without_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without the "module." that DataParallel puts before every name."""
    bare = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if bare else key: value for key, value in state.items()}


def _unwrapped(content: Any) -> Any:
    """What is inside the wrappers that training scripts put around a state dict."""
    # A bounded number of times, because a dict can be made to hold itself.
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _sets(content: Any, seen: set[int], depth: int = _DEEPEST) -> dict[str, Mapping[str, Tensor]]:
    """Every state dict in what a file holds, by the path of names that leads there; optimisers have none.

    seen: the dicts that were looked into, because one can be made to hold itself.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    if not depth or not isinstance(content, Mapping) or _is_state(content):
        return found
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Mapping) or id(value) in seen or _BESIDES.search(name):
            continue
        seen.add(id(value))
        if value and all(isinstance(key, str) and not _odd(part) for key, part in value.items()):
            found[name] = value
        else:
            found |= {f"{name}.{inner}": state for inner, state in _sets(value, seen, depth - 1).items()}
    return found


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether it holds weights itself, and not below the name of a wrapper."""
    weights = any(isinstance(value, Tensor) and value.dim() for value in content.values())
    return weights and not any(isinstance(content.get(name), Mapping) for name in _WRAPPERS)


def _spoken(key: object) -> str:
    """A key that is no name; anything but a small number may be too large to print."""
    return str(key) if isinstance(key, int) and abs(key) < 10**9 else f"a {type(key).__name__}"


def _odd(value: Any) -> str:
    """What a value is that is no plain tensor of real numbers; nothing for one that is."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
        return f"a {value.layout} tensor of {value.dtype} on {value.device}".replace("torch.", "")
    return ""


def _first_three(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
