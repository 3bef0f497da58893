"""What the network of a row says to its own adversarial examples: one forward pass, and no attack."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import forward
from bench.errors import GauntletError
from bench.report import Row
from bench.results import read_archive
from bench.verify import Given, load_data, load_model, read_evidence

NAMES: dict[str, tuple[str, ...]] = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
}
"""What the classes of published sets are called; the others are digits, or too many."""
_BATCH = 250
_PIXELS = 2**28
"""Numbers in an archive that is looked at, at most."""


class Examples(NamedTuple):
    """The adversarial examples of a row, and what can be known of them here."""

    ids: Tensor
    z: Tensor
    """float32 [M, C, H, W], as the archive has them."""
    x: Tensor | None
    """The same images before; None where the data are not here."""
    before: Tensor | None
    """Softmax over the classes on x, [M, K]; None where the network is not here or answers at random."""
    after: Tensor | None
    """The same on z."""
    net: nn.Module | None
    told: str
    """Why something is missing."""


def class_names(row: Row) -> tuple[str, ...]:
    """What the classes are called, by their numbers; nothing where nobody named them."""
    labels = row.entry.card.data.labels
    if labels and sorted(labels.values()) == list(range(len(labels))):
        return tuple(sorted(labels, key=labels.__getitem__))
    return NAMES.get(row.entry.card.dataset, ())


def examples_of(row: Row, *, ask: bool = True) -> Examples | None:
    """The examples beside a card, where they are its own; ask: load the data and the network too, as far as they are here."""
    card, path = row.entry.card, row.entry.path
    if row.entry.backing == "stated" or not card.archive.rows:
        return None
    try:
        ids, z, _ = read_archive(path.parent / card.archive.file, None, card.n)
    except GauntletError:
        return None
    if z.numel() > _PIXELS:
        return None
    if not ask or not _here(card.dataset):
        return Examples(ids, z, None, None, None, None, "The data are not here, so the images before the attack are not shown.")
    try:
        return _asked(row, path, ids, z)
    except (GauntletError, RuntimeError, MemoryError, OSError) as error:
        reason = f"The network was not asked: {_reason(error, row)}"
        return Examples(ids, z, None, None, None, None, reason)


def _reason(error: BaseException, row: Row) -> str:
    """What went wrong, without where on this machine it did."""
    told = " ".join(str(error).split())
    for folder in (row.entry.path.parent, row.entry.path.parent.resolve()):
        told = told.replace(str(folder).removesuffix(row.where), "")
    return told[:200]


def _here(dataset: str) -> bool:
    """Whether data can be read without a download."""
    root = os.environ.get("GAUNTLET_DATA")
    named = dataset in ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn")
    return not named or bool(root and (Path(root) / dataset / "test.npz").is_file())


@torch.no_grad()
def _asked(row: Row, path: Path, ids: Tensor, z: Tensor) -> Examples:
    card, given = row.entry.card, Given(device="cpu")
    evidence, checks = read_evidence(card, path.parent), []  # type: ignore[var-annotated]
    samples = load_data(card, path, evidence, given, checks)
    if samples is None:
        return Examples(ids, z, None, None, None, None, "The data here are not those of the card.")
    order = samples.ids.argsort()
    at = order[torch.searchsorted(samples.ids[order], ids).clamp_max(len(samples) - 1)]
    x, _ = samples.batch(at)
    if tuple(x.shape) != tuple(z.shape) or not torch.equal(samples.ids[at], ids):
        return Examples(ids, z, None, None, None, None, "The examples are not of the samples of the card.")
    try:
        under = load_model(card, path, samples, given, checks)
    except GauntletError as error:
        return Examples(ids, z, x, None, None, None, f"What they are taken for is not known: {_reason(error, row)}.")
    if under is None or under.noisy:
        why = "its answers are random" if under else "the network here is not that of the card"
        return Examples(ids, z, x, None, None, None, f"What they are taken for is not told: {why}.")
    net = under.model.net
    return Examples(ids, z, x, answers(net, x), answers(net, z), net, "")


@torch.no_grad()
def answers(net: nn.Module, x: Tensor) -> Tensor:
    """Softmax of a network over its classes, [N, K]."""
    return torch.cat([forward(net, part).softmax(1) for part in x.split(_BATCH)]) if len(x) else torch.zeros(0, 1)


def fooled(source: Examples, nets: Sequence[nn.Module], labels: Tensor) -> list[float]:
    """Of the examples of one row, the share that each network gets wrong."""
    wrong = []
    for net in nets:
        wrong.append(float((answers(net, source.z).argmax(1) != labels).double().mean()))
    return wrong
