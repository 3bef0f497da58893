"""Whether a plan leaves samples that two short attacks break: the plan is what is weak then, and the network no stronger."""

from __future__ import annotations

from collections.abc import Iterator

from bench.core import shuffled
from bench.evaluation.engine import Evaluation
from bench.evaluation.look import probe_at
from bench.plans import Portfolio
from bench.statistics import surely

LOOKED, NOISY = 128, 32
"""Samples that are looked at; fewer of a randomised network, each of whose answers is the mean over many."""
MISSED = 0.04
"""The share of all samples that these attacks may break of what a plan leaves: that of the diagnosis."""


def weak_plan(run: Evaluation) -> Iterator[str]:
    """That 20 steps on the margin or on the cross-entropy break what the plan left.

    The cross-entropy follows the mean of all classes where logits are small, and a step too short does not cross the ball; of
    neither does the number say anything. Portfolios make such attacks themselves, and the reference AutoAttack stronger ones.
    """
    if any(isinstance(spec, Portfolio) or (spec.attack == "autoattack" and not spec.samples) for spec in run.plan.attacks):
        return
    left = shuffled(len(run.data), run.seed, "weak")
    left = left[~run.broken[left]]
    some = left[: NOISY if run.randomised else LOOKED]
    if not len(some):
        return
    probe = probe_at(run, some, "weak")
    fell = probe.attack("pgd", steps=20, step=1.0, decay="cosine", loss="margin")
    fell |= probe.attack("pgd", among=~fell, stream="second", steps=20, step=2.0, decay="cosine", loss="ce")
    count, share = int(fell.sum()), len(left) / len(run.data)
    if surely(count, len(some)) * share > MISSED:
        points = 100 * count / len(some) * share
        yield (
            f"{count} of {len(some)} samples that the plan {run.plan.name} left fall to 20 steps of PGD on the margin or on "
            f"the cross-entropy: robust accuracy is too high by about {points:.0f} points or more; evaluate it with --plan fast"
        )
