"""Which tensors of a file are a network's weights: what their names begin with, and which of several sets is meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import BadInput
from bench.models.checkpoint import AVERAGED, without_module

_INSIDE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and checkpointing put into names, at the beginning or within them."""
_NORMALISING = re.compile(r"(?:^|[._])(?:means?|mu|stds?|sds?|sigmas?|vars?|variance)$")
_STATISTICS = re.compile(r"(?:^|[._])(?:new_)?(mean|mu|std|sigma)$")


def choose(
    state: Mapping[str, Tensor], own: Collection[str], path: Path, wanted: str | None, *, normalized: bool
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights called as a network has them in `own`, with a sentence for everything that a reader has to know.

    wanted: the set to take where there are several, as `&weights=` has it. normalized: whether the reference gives mean and
    std. BadInput where several sets differ and none is named. Where nothing fits, the state as it is: `fit` tells.
    """
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    bare = {_INSIDE.sub("", key): value for key, value in state.items()}
    starts = _starts(bare, needed) if len(bare) == len(state) else []
    if not starts:
        _only(wanted, [], path)
        return without_module(state), ()
    start = _meant(bare, starts, needed, path, wanted)
    others = [part for part in starts if part != start]
    elsewhere = {part + key for part in others for key in own}
    # Torch's own averages count what they are the mean of.
    rest = [key for key in bare if key not in elsewhere and key.rpartition(".")[2] != "n_averaged"]
    chosen = {key.removeprefix(start): bare[key] for key in rest if key.startswith(start)}
    left = [key for key in rest if not key.startswith(start)]
    beside = _statistics({key: bare[key] for key in (*left, *(start + key for key in chosen if key not in own))})
    if beside and not normalized:
        raise BadInput(_unnormalised(bare, beside, path))
    if not normalized and wanted is None and (lost := [key for key in left if _normalises(key, start)]):
        raise BadInput(
            f"{path} holds what may be a normalisation of the network ({', '.join(lost[:3])}), which nothing here would apply: "
            f"give py:FILE.py:net, which builds the whole, or &weights={_name(start)} to do without it"
        )
    chosen = {key: value for key, value in chosen.items() if start + key not in beside}
    return chosen, tuple(_told(state, start, others, [key for key in left if key not in beside], path))


def _starts(state: Mapping[str, Tensor], needed: Collection[str]) -> list[str]:
    """What may stand before all names of the network, the shortest first."""
    first = max(needed, key=len, default="")
    found = {key.removesuffix(first) for key in state if key.endswith(first)} if first else set()
    whole = [start for start in found if (not start or start.endswith(".")) and all(start + key in state for key in needed)]
    return sorted(whole, key=lambda start: (len(start), start))


def _meant(state: Mapping[str, Tensor], starts: list[str], needed: Collection[str], path: Path, wanted: str | None) -> str:
    """The one set of weights that the reference names; without a name, the only one there is."""
    names = {_name(start): start for start in starts}
    if wanted is not None:
        return names[_only(wanted, list(names), path)]
    first = starts[0]
    if all(_same(state, first, other, needed) for other in starts[1:]):
        return first
    choices = " or ".join(f"&weights={name}" for name in names)
    raise BadInput(
        f"{path} holds {len(starts)} sets of weights that differ, {', '.join(names)}, such as raw and averaged (EMA) ones; "
        f"their accuracies differ too: say which in the reference, by its name or a word of it: {choices}"
    )


def _same(state: Mapping[str, Tensor], one: str, other: str, needed: Collection[str]) -> bool:
    return all(torch.equal(state[one + key], state[other + key]) for key in needed)


def _only(wanted: str | None, names: list[str], path: Path) -> str:
    """The name that was meant: that one, or the only one it is a word of."""
    if wanted is None or wanted in names:
        return wanted or ""
    close = [name for name in names if wanted in re.split(r"[._]", name)]
    if len(close) == 1:
        return close[0]
    there = f"it holds {', '.join(names)}" if names else "it holds none that the network could load"
    raise BadInput(f"{path} has no one set of weights called {wanted!r}: {there}")


def _name(start: str) -> str:
    """What a set of weights is called: by what its names begin with, less the words that every wrapper adds."""
    parts = [part for part in start.split(".") if part not in ("", "module")]
    return ".".join(parts) or start.strip(".") or "plain"


def _told(state: Mapping[str, Tensor], start: str, others: list[str], left: list[str], path: Path) -> list[str]:
    told = []
    inside = sorted({found for key in state for found in _INSIDE.findall(key)})
    if begins := [*([start] if start else []), *inside]:
        told.append(f"{path.name}: the prefix {' and '.join(map(repr, begins))} was taken off the names of the weights")
    if others:
        told.append(f"{path.name}: of several sets of weights, {_name(start)} was evaluated")
    elif AVERAGED.search(start):
        told.append(f"{path.name}: holds averaged weights alone ({_name(start)}), which were evaluated")
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        told.append(f"{path.name}: {', '.join(left[:3])}{more} belong to no part of the network and were left out")
    return told


def _statistics(beside: Mapping[str, Tensor]) -> list[str]:
    """The mean and the std of a normalisation that a file holds beside the network; nothing where it does not hold both."""
    found = {match[1]: key for key in beside if (match := _STATISTICS.search(key)) and 0 < beside[key].numel() <= 16}
    mean, std = found.get("mean") or found.get("mu"), found.get("std") or found.get("sigma")
    return [mean, std] if mean and std else []


def _normalises(key: str, start: str) -> bool:
    """Whether a tensor that is no part of the network may stand before it: by its name, or as the part before it in a row."""
    first, number = key.partition(".")[0], start.removesuffix(".")
    if first.isdigit() and number.isdigit():
        return int(first) < int(number)
    return key.count(".") <= 1 and _NORMALISING.search(key) is not None


def _unnormalised(state: Mapping[str, Tensor], beside: list[str], path: Path) -> str:
    """What to do about a normalisation that the network would do without."""
    mean, std = (",".join(f"{value:.6g}" for value in state[key].flatten().tolist()) for key in beside)
    return (
        f"{path} holds a normalisation that belongs to the network ({', '.join(beside)}); give it in the reference: "
        f"&mean={mean}&std={std}"
    )
