"""Catastrophic overfitting: single-step accuracy stays high while multi-step accuracy falls from one epoch to the next."""

from collections.abc import Mapping, Sequence

from bench.statistics import clopper_pearson

GAP = 0.25
"""FGSM accuracy minus PGD accuracy beyond which single steps are being fooled, not withstood."""
FALL = 0.2
"""How far PGD accuracy has to fall from the best before, where that is not less than half of it."""
SURE = 0.998
"""The confidence of a bound on an accuracy: one in a thousand on either side, as every epoch is a look at it."""


def guessed(share: float, images: int, classes: int = 10) -> bool:
    """Whether an accuracy on so many validation images is not surely above that of guessing one of the classes."""
    return _least(share, images) <= 1 / classes


def fooled(now: Mapping[str, float], images: int, classes: int = 10) -> bool:
    """Whether single steps miss what several steps find: of the images that FGSM leaves PGD leaves less than half, or GAP less.

    now: accuracies "fgsm" and "pgd" at the target budget, of so many validation images. Both have to be beyond chance: that
    share surely below a half, and what FGSM leaves surely above what guessing one of the classes withstands.
    """
    share = _most(now["pgd"] / max(now["fgsm"], now["pgd"], 1 / images), round(now["fgsm"] * images))
    return (now["fgsm"] - now["pgd"] > GAP or share < 1 / 2) and not guessed(now["fgsm"], images, classes)


def collapsed(history: Sequence[Mapping[str, float]], images: int, classes: int = 10) -> int | None:
    """The first epoch that single steps fool after they told the truth, and whose PGD accuracy fell by FALL, or by half.

    history: the accuracies of one epoch after the other, as `fooled` has them. The fall is counted from the best epoch before
    in which PGD left at least half of what FGSM did, so that a collapse over several epochs does not pass (Wong et al. 2020
    compare neighbours only); where accuracies are less than GAP apart, from one of the last three: over more, it would be
    robust overfitting. The intervals of both accuracies have to be separate, so that what few images show by chance is no fall.
    """
    for epoch, now in enumerate(history):
        wide = now["fgsm"] - now["pgd"] > GAP
        before = history[0 if wide else max(epoch - 3, 0) : epoch]
        if fooled(now, images, classes) and _fell(before, now["pgd"], images):
            return epoch
    return None


def _fell(before: Sequence[Mapping[str, float]], now: float, images: int) -> bool:
    best = max((past["pgd"] for past in before if past["pgd"] >= past["fgsm"] / 2), default=0.0)
    return best - now > min(FALL, best / 2) and _least(best, images) > _most(now, images)


def _least(share: float, n: int) -> float:
    return clopper_pearson(round(share * n), n, SURE)[0]


def _most(share: float, n: int) -> float:
    return clopper_pearson(round(share * n), n, SURE)[1] if n else 1.0
