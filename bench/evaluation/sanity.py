"""Whether samples, labels and answers make a number mean what it seems to: accuracies per class, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.data import Dataset
from bench.escape import line
from bench.evaluation.engine import Evaluation
from bench.results import CLASSES, CONSTANT, Answers, ClassResult, DataInfo
from bench.statistics import surely

DIM = 0.25
"""Images none of whose pixels is brighter are said to be scaled wrongly: 6 bits in 8 reach 0.247."""


def data_info(samples: Dataset) -> DataInfo:
    """What a card says of its samples."""
    labels = dict(samples.labels) if len(samples.labels) <= CLASSES else {}
    return DataInfo(
        split=samples.split,
        digest=samples.digest,
        source=samples.source,
        whole=samples.whole,
        taken=samples.taken,
        labels=labels,
    )


def by_class(run: Evaluation) -> dict[str, Any]:
    """Accuracies of every class and their means, as a card has them."""
    y, stands = run.data.y.cpu(), ~run.broken
    labels, counts = y.unique(return_counts=True)
    place = torch.searchsorted(labels, y)
    clean, robust = (torch.bincount(place, part.double(), len(labels)).div(counts) for part in (run.clean, stands))
    rows = zip(labels.tolist(), counts.tolist(), clean.tolist(), robust.tolist(), strict=True)
    classes = [ClassResult(label=label, n=n, clean_accuracy=right, robust_accuracy=left) for label, n, right, left in rows]
    return {
        "balanced_accuracy": float(clean.mean()),
        "balanced_robust_accuracy": float(robust.mean()),
        "classes": tuple(classes) if len(classes) <= CLASSES else (),
    }


def of_answers(run: Evaluation, further: Sequence[str] = ()) -> dict[str, Any]:
    """The commonest answer, and what was noticed, with further warnings, as a card has them."""
    answers, (_, outputs) = commonest(run), run.answers
    told = [shorten(warning) for warning in (*_warnings(run, answers, outputs), *further)]
    return {"answers": answers, "warnings": tuple(told)}


def commonest(run: Evaluation) -> Answers:
    """The commonest answer to the clean images."""
    given, _ = run.answers
    label = int(given.bincount().argmax())
    said, others = given == label, run.data.y.cpu() != label
    elsewhere = surely(int((said & others).sum()), int(others.sum()))
    return Answers(label=label, share=float(said.double().mean()), elsewhere=elsewhere)


def constant(run: Evaluation) -> bool:
    """Whether the network gives one answer whatever an image shows, so that there is nothing to attack."""
    return commonest(run).elsewhere >= CONSTANT


def shorten(text: str) -> str:
    """A sentence as a card can hold it, whatever the names of files in it."""
    return line(text)[:1000]


def _warnings(run: Evaluation, answers: Answers, outputs: int) -> Iterator[str]:
    """What may make the numbers mean something else: the thing, what it means, and what to do."""
    samples, y = run.data, run.data.y.cpu()
    names = {label: f"{label} ({name})" for name, label in samples.labels.items()}
    yield from samples.notes
    yield from _pixels(samples.x)
    most, share = int(y.bincount().argmax()), float(y.bincount().max()) / len(y)
    common, usual = names.get(most, str(most)), names.get(answers.label, str(answers.label))
    clean = float(run.clean.double().mean())
    if share == 1:
        yield f"all {len(y)} samples have the label {common}: the numbers say nothing of other classes; take samples of several"
    elif answers.elsewhere >= CONSTANT:
        yield (
            f"the network answers class {usual} to {answers.share:.0%} of the images, whatever they show: what no attack "
            "breaks is the share of that class and no robustness; train it again, or check how it expects its images scaled"
        )
    elif clean <= share:
        yield (
            f"clean accuracy {clean:.1%} is not above that of always answering label {common} ({share:.1%}, the commonest): "
            "the network does not know these images, and robust accuracy says nothing; check that the labels are numbered as "
            "in its training, and the images scaled and cut as there"
        )
    if outputs > samples.classes:
        known = "classes" if samples.labels else "as far as its labels tell"
        yield (
            f"the network has {outputs} outputs and the data {samples.classes} {known}: labels 0 to {samples.classes - 1} are "
            "taken for its first outputs, and if they mean others, every accuracy is wrong; number them as in its training, in "
            "a folder of images by a classes.txt that names all its classes, a line each"
        )


def _pixels(x: Tensor) -> Iterator[str]:
    low, high = (float(value) / (255 if x.dtype == torch.uint8 else 1) for value in (x.min(), x.max()))
    if low == high:
        yield f"every pixel of every image is {low:.3g}: there is nothing to classify; check how the file was made"
    elif high <= DIM:
        yield (
            f"no pixel is brighter than {high:.3g} on a scale from 0 to 1: values of another range (0 to 1, or 0 to 16) were "
            "stored as whole numbers, or divided by 255 twice, and eps is far larger against them than it seems; store "
            "uint8 from 0 to 255, or floats in [0, 1]"
        )
