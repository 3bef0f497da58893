"""Catastrophic overfitting: single-step accuracy stays high while multi-step accuracy falls from one epoch to the next."""

from collections.abc import Mapping, Sequence

GAP = 0.25
"""FGSM accuracy minus PGD accuracy beyond which single steps are being fooled, not withstood."""
LEAST = 0.1
"""The least gap among low accuracies: below it FGSM is withstood no better than guessing would."""
NOISE = 0.05
"""What validation sets of some hundred images show by chance as an accuracy that there is to fall from."""


def collapsed(history: Sequence[Mapping[str, float]], gap: float = GAP, fall: float = 0.2) -> int | None:
    """The first epoch whose FGSM accuracy exceeds its PGD accuracy by `gap` and whose PGD accuracy fell by `fall`, or by half.

    history: one mapping per epoch with the validation accuracies "fgsm" and "pgd" at the target budget. The fall is counted
    from the best epoch before, so that a collapse over several epochs does not pass (Wong et al. 2020 compare neighbours
    only). Among low accuracies a gap of half of what FGSM leaves, and of ten points at least, is enough, where the fall is one
    of three epochs: over more, it would be robust overfitting.
    """
    for epoch, now in enumerate(history):
        left = [past["pgd"] for past in history[:epoch]]
        apart = now["fgsm"] - now["pgd"]
        wide = apart > gap and _fell(left, now["pgd"], fall)
        if wide or (apart > max(now["fgsm"] / 2, LEAST) and _fell(left[-3:], now["pgd"], fall)):
            return epoch
    return None


def _fell(before: Sequence[float], now: float, fall: float) -> bool:
    best = max(before, default=0.0)
    return best > NOISE and best - now > min(fall, best / 2)
