"""Which samples a network is judged on: those that its training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import data
from bench.data import Dataset
from bench.errors import BadInput
from bench.models.subject import trained_on, training_in

DEFAULT_N = 1000
"""Test samples, where the user does not say how many."""


def training_beside(reference: str) -> dict[str, Any]:
    """The record of the training that left a weights file named by itself; empty where none lies beside it."""
    file = Path(reference.removeprefix("ckpt:").partition("?")[0])
    try:
        return training_in(file.parent) if file.is_file() else {}
    except BadInput:  # of something else that is called train.json
        return {}


def require_the_images(trained: dict[str, Any]) -> None:
    """BadInput where a network was trained on a named set that holds other training images here."""
    name = trained["dataset"]
    if name in data.CLASSES and trained_on(name, trained) is False:
        raise BadInput(
            f"{trained['folder']} was trained on other images than {name} has here ({data.load(name, 'train').source}), and "
            "test images may have been among them: give the data as they were, or train again into another results folder"
        )


def samples_of(dataset: str, trained: Sequence[dict[str, Any]], n: int | None) -> Dataset:
    """n samples of the test split that no training saw; of everything, where the data has no split and none was on it.

    trained: the records of the trainings of all models that are judged; empty for one from elsewhere. BadInput where no sample
    is left, or where it cannot be known.
    """
    parts = [_unseen(dataset, record) for record in trained]
    # Fewest first: of the test share alone where one of the networks learnt from the rest.
    samples, *others = sorted(parts, key=len)
    for part in others:
        kept = torch.isin(samples.ids, part.ids)
        if not kept.any():
            raise BadInput(
                f"no image of {dataset} is left that none of the models was trained on; give images that are new to all"
            )
        samples = replace(
            samples if kept.all() else samples.select(kept.nonzero().squeeze(1)), taken=samples.taken or part.taken
        )
    return samples.take(n if n is not None else min(DEFAULT_N, len(samples)))


def _unseen(dataset: str, trained: dict[str, Any]) -> Dataset:
    """All samples of a data set that may stand for what a network has not seen."""
    own = data.has_own_split(dataset)
    whole = data.load(dataset, "test" if own else "all")
    if not trained:
        return whole
    require_the_images(trained)
    if dataset in data.CLASSES and trained["dataset"] in data.CLASSES:
        return whole
    if dataset not in data.CLASSES and trained_on(dataset, trained):
        return _with_doubles_told(data.load(dataset, "test"), data.remembered(trained["folder"]))
    folder, seen = trained["folder"], _seen(trained)
    if seen is None and own:
        return whole
    if seen is None:
        raise BadInput(
            f"{folder} does not say which images it was trained on, and {trained['dataset']} is not what it was then, so that "
            f"{dataset} may hold them: give the data as it was, or data with a test split of its own, or train again"
        )
    known = data.among(whole, seen)
    if not own and not known.any() and _same_path(dataset, trained["dataset"]):
        raise BadInput(
            f"{dataset} holds none of the images that {folder} was trained on, though that was on this path: altered or "
            "exchanged, nobody can tell; give the data as it was, or the new one under a name of its own"
        )
    fifth = whole if own or not known.any() or data.holds_all(whole, seen) else data.load(dataset, "test")
    if len(fifth) + len(seen) == len(whole):
        # As many as there were: whatever was done to some of them, the training images lie where they lay.
        whole, known = fifth, known[fifth.ids]
    if known.all():
        raise BadInput(
            f"every image of {dataset} that could be judged on is one that {folder} was trained on, or nearly: accuracy there "
            "is memory; give images that the network never saw"
        )
    if not known.any():
        return whole
    left = whole.select((~known).nonzero().squeeze(1))
    return replace(
        left, taken=f"{len(left)} of {len(whole)}: without those that the network was trained on, or nearly the same"
    )


def _with_doubles_told(test: Dataset, seen: Tensor | None) -> Dataset:
    """A test split as it is, which says how much of it was trained on all the same."""
    count = 0 if seen is None else data.doubles(test, seen)
    told = (
        f"{count} of {len(test)} test images of {test.source} are among the training images too: the network has seen them, "
        "and accuracy there is memory; take them out of one of the two and train again"
    )
    return replace(test, notes=(*test.notes, told)) if count else test


def _same_path(one: str, other: str) -> bool:
    try:
        return Path(one).resolve() == Path(other).resolve()
    except (OSError, ValueError):  # no path at all
        return False


def _seen(trained: dict[str, Any]) -> Tensor | None:
    """Sketches of what a network was trained on, [M, 64]; None where that is not known any more."""
    dataset = trained["dataset"]
    if dataset in data.CLASSES:
        return data.sketch(data.load(dataset, "train"))
    if (found := data.remembered(trained["folder"])) is not None:
        return found
    # Left by an earlier release: they are those of its data set for as long as that stays the same.
    return data.sketch(data.load(dataset, "train")) if trained_on(dataset, trained) else None
