"""Whether attacks that have nothing in common agree on what falls, and how much none of them has found."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bench.diagnose.finding import Inapplicable, Measured, check
from bench.diagnose.probe import Probe
from bench.diagnose.readings import opened
from bench.diagnose.searches import MISSED
from bench.diagnose.substitute import copied
from bench.statistics import clopper_pearson

AGAIN = 24
"""Samples that fell to gradients on which an unrelated attack shows how often it finds what there is."""


def _queried(probe: Probe, among: Tensor | None = None) -> Tensor:
    return probe.black if among is None else probe.queried(among)


UNRELATED: dict[str, Callable[..., Tensor]] = {
    "searches without a gradient": _queried, "a substitute": copied, "attacks on what is inside": opened
}  # fmt: skip
"""What has nothing in common with a gradient of the answers; given a probe, and samples to be tried on."""


@check(
    "agreement of unrelated attacks", MISSED,
    fine="{told}",
    wrong="{told}: about {value:.1%} of the right images still stand and would fall to an attack that nobody has run; trust "
    "no number of this model before one made for it has been tried (Defense.adaptive)",
)  # fmt: skip
def hidden(probe: Probe) -> Measured:
    """How much stands that would fall, told by capture and recapture with attacks that need no gradient of the answers.

    It breaks a share r of a few samples that fell anyway, and u of those that stood everything else: where hidden samples are
    no easier for it, u / r were hidden, and u / r - u still are. r enters by the upper end of its exact interval, so that the
    estimate is on the low side; one sample alone proves nothing.
    """
    known = probe.broken | probe.white
    again = known & (known.cumsum(0) <= AGAIN)
    best = Measured(0.0, {"told": "nothing falls that gradient attacks and the evaluation left, but for a sample at most"})
    for name, attack in UNRELATED.items():
        try:
            alone = int((attack(probe) & ~known).sum())
        except Inapplicable:
            continue
        if alone < 2 or not bool(again.any()):
            continue
        tried, hit = int(again.sum()), int((attack(probe, again) & again).sum())
        most = clopper_pearson(hit, tried)[1]
        value = alone * (1 / most - 1) / len(known)
        if value >= best.value:
            told = f"{name} break {alone} images that nothing else does, and only {hit} of {tried} that fell anyway"
            best = Measured(value, {"told": told})
    return best
