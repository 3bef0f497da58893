"""Whether what a card says of single classes follows from its records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.results import Card, Flags


def told(card: Card) -> bool:
    """Whether a card says anything of single classes; earlier ones do not."""
    return bool(card.classes or card.answers) or card.balanced_accuracy is not None


def problems(card: Card, labels: NDArray[Any], clean: Flags, robust: Flags) -> list[str]:
    """What does not follow; clean and robust: which samples are right and which stay so, additions included, bool [n]."""
    classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    found = {key: np.bincount(place, flags, len(classes)) for key, flags in (("clean", clean), ("robust", robust))}
    said = {"clean": card.balanced_accuracy, "robust": card.balanced_robust_accuracy}
    means = {key: float((found[key] / counts).mean()) for key in found}
    wrong = [
        f"balanced {key} accuracy: the card says {value:.2%}, the records {means[key]:.2%}"
        for key, value in said.items()
        if value is not None and abs(value - means[key]) > 1e-6
    ]
    if card.classes and [(row.label, row.n) for row in card.classes] != list(zip(classes, counts, strict=True)):
        return [*wrong, "classes: the records hold other labels, or other numbers of them"]
    for number, row in enumerate(card.classes):
        for key, share in (("clean", row.clean_accuracy), ("robust", row.robust_accuracy)):
            if abs(share * row.n - found[key][number]) > 1e-3:
                count = int(found[key][number])
                wrong.append(f"class {row.label}: the card says {share:.2%} {key}, the records {count} of {row.n}")
    return [*wrong, *_answers(card, labels, clean)]


def _answers(card: Card, labels: NDArray[Any], clean: Flags) -> Iterator[str]:
    """Where the records leave no room for the answers that a card says; one of several that chance gave leaves more."""
    if card.answers is None or card.eot > 1 or card.batch_dependent:
        return
    others = labels != card.answers.label
    if card.answers.elsewhere * others.sum() > (others & ~clean).sum() + 0.5:
        yield f"answers: class {card.answers.label} is not answered to so many images of other classes, which are right"
