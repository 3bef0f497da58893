"""Whether the attacks behave as attacks on an honest gradient do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bench.core import Double, ThreatModel
from bench.diagnose.finding import Inapplicable, Measured, check
from bench.diagnose.probe import Probe
from bench.results import ORDER, Verdict
from bench.statistics import clopper_pearson

SOUND = 0.21
"""No sound network of results/ shows a larger share of samples that PGD-20 leaves and the row has broken: fast_at on CIFAR-10
0.03, on MNIST 0.10, 0.12, 0.20 and 0.20, of 128 samples each."""
MISSED = (0.04, 0.15)
"""The shares of what the evaluation left that a search made here may break."""
NOISE = 200
"""Random points that are tried on each sample."""


@check(
    "plain PGD", (SOUND, SOUND),
    fine="plain PGD-20 leaves {plain:.1%} of the right images, everything known {best:.1%}{remark}",
    wrong="plain PGD-20 leaves {plain:.1%} of the right images and everything known {best:.1%}, {missed:.1%} of which the "
    "evaluation had left: the defense hides from gradients, and what was run did not find all that it hides; report no number "
    "of plain PGD, and run --plan standard",
)  # fmt: skip
def overestimate(probe: Probe) -> Measured:
    """How far one PGD-20, which a paper may have reported, lies certainly above everything known.

    The value is the lower end of the exact binomial interval of the share that PGD-20 leaves and something else breaks. Above
    what sound networks show, the defense hides from gradients. That is the number's fault only where the row believed it: a
    verdict needs a sample that the row left and a search made here breaks, a single one, as a masked model has no right to
    the few that chance finds on an honest one. Otherwise the row has found what PGD-20 had not, and a remark says so.
    """
    missed = _share(probe.best & ~probe.broken)
    sure, _ = clopper_pearson(int((probe.best & ~probe.plain).sum()), len(probe.y))
    hides = sure > SOUND
    verdict: Verdict = ORDER[int(missed > 0) + int(missed > MISSED[1])] if hides else "ok"
    remark = ": that alone would have been far off, and the evaluation was not deceived by it" if hides else ""
    plain, best = _standing(probe.plain), _standing(probe.best)
    return Measured(sure, {"plain": plain, "best": best, "missed": missed, "remark": remark}, verdict)


@check(
    "black-box against white-box", (0.05, 0.15),
    fine="{value:.1%} of the right images fall to black-box attacks alone",
    wrong="{value:.1%} of the right images fall to black-box attacks and to no gradient attack: the gradient is masked; run "
    "--plan standard, declare a surrogate in Defense.adaptive, and trust black-box numbers only",
)  # fmt: skip
def blind(probe: Probe) -> float:
    """Whether searches without gradients break what gradient attacks leave."""
    return _share(probe.black & ~probe.white)


@check(
    "single step against many", (0.02, 0.1),
    fine="one step breaks {one:.1%}, many break all of those",
    wrong="{value:.1%} of the right images fall to one step and to no iterative attack: the loss surface is masked; try other "
    "step sizes, more restarts and black-box attacks",
)  # fmt: skip
def single_step(probe: Probe) -> Measured:
    """Whether one step breaks what many do not."""
    one = probe.attack("fgsm") | probe.attack("pgd", steps=1, step=1.0, loss="ce")
    return Measured(_share(one & ~probe.white), {"one": _share(one)})


@check(
    "random noise against gradients", (0.02, 0.1), part=4,
    fine=f"{NOISE} random points break {{value:.1%}} more",
    wrong=f"{{value:.1%}} of the right images fall to one of {NOISE} random points and to no gradient attack: the gradient "
    "leads astray; the attack, or the model's gradient, is at fault",
)  # fmt: skip
def random_search(probe: Probe) -> float:
    """Whether random points of the ball break what gradient attacks do not."""
    found = torch.zeros_like(probe.white)
    for draw in range(NOISE):
        left = (~probe.white & ~found).nonzero().squeeze(1)
        if not len(left):
            break
        z = probe.threat.random_start(probe.x[left], probe.rng[left].at("random", draw), corner=draw % 2 == 1)
        found[left] = probe.judge.verdict(z, probe.x[left], probe.y[left]).fooled
    return _share(found)


@check(
    "more steps and restarts", MISSED,
    fine="further PGD of 100 steps and APGD break {value:.1%} more",
    wrong="further PGD of 100 steps and APGD break {value:.1%} of the right images that the evaluation left: it has not "
    "converged; run a stronger plan (--plan standard)",
)  # fmt: skip
def converged(probe: Probe) -> float:
    """Whether more steps and restarts break what the evaluation left."""
    return _share(probe.white & ~probe.broken)


@check(
    "other attacks than the plan's", MISSED,
    fine="other attacks break {value:.1%} more than the evaluation",
    wrong="{value:.1%} of the right images that the evaluation left fall to PGD of 100 steps, APGD, Square or RayS: the number "
    "is too high by as much; run --plan standard",
)  # fmt: skip
def searched(probe: Probe) -> float:
    """Whether the searches made here, black-box ones among them, break what the evaluation left."""
    return _share((probe.white | probe.black) & ~probe.broken)


@check(
    "accuracy over eps", (0.05, 0.15), part=4,
    fine="accuracy falls as eps grows: {told}",
    wrong="accuracy rises with eps ({told}): a larger ball holds the smaller one, so the attack is not working; the gradient "
    "is masked or the step size wrong",
)  # fmt: skip
def larger_balls(probe: Probe) -> Measured:
    """Whether accuracy falls as eps grows."""
    accuracies = [_standing(probe.fallen(ball)) for ball in _balls(probe.threat, probe.x)]
    rises = max((after - before for before, after in pairwise(accuracies)), default=0.0)
    return Measured(max(rises, 0.0), {"told": ", ".join(f"{accuracy:.0%}" for accuracy in accuracies)})


@check(
    "unbounded attack", (0.05, 0.3), part=4,
    fine="an attack that may do anything leaves {value:.1%}",
    wrong="an attack that may do anything to the image leaves {value:.1%} standing, where nothing can: attacks cannot find "
    "their way on this model; look for a zero gradient, a detector or a wrong step size",
)  # fmt: skip
def unbounded(probe: Probe) -> float:
    """Indicator 6 of Pintor et al. 2022: what stands when an attack may do anything to the image.

    It starts at the image: in so large a ball a random start alone breaks most, with whatever gradient.
    """
    ball = _whole(probe.threat, probe.x)
    left = ~probe.climbed(ball)
    run: dict[str, Any] = {"steps": 100, "step": 0.1, "loss": "ce", "start": "clean", "low_precision": True}
    return _share(left & ~probe.attack("pgd", among=left, threat=ball, stream="unbounded", **run))


@check(
    "cross-entropy against margin", (0.15, 0.4), part=2,
    fine="the one leaves {one:.1%}, the other {other:.1%}",
    wrong="attacks on the cross-entropy leave {one:.1%}, on the margin {other:.1%}: the defense fits one loss; attack both "
    "(fast and standard do) and distrust numbers of one",
)  # fmt: skip
def losses_apart(probe: Probe) -> Measured:
    """How far attacks on the cross-entropy and on the margin lie apart."""
    one, other = (
        _standing(probe.attack("pgd", steps=40, step=1.0, decay="cosine", loss=loss, stream="apart", low_precision=True))
        for loss in ("ce", "margin")
    )
    return Measured(abs(one - other), {"one": one, "other": other})


@check(
    "float64", (0.05, 0.25), repeatable=True, part=4,
    fine="the same attack in float64 breaks as many",
    wrong="the same attack with gradients in float64 differs by {value:.1%}: float32 saturates inside the network; scale its "
    "logits down, or attack it in float64",
)  # fmt: skip
def exact(probe: Probe) -> float:
    """Whether the same attack in float64 breaks more."""
    run: dict[str, Any] = {"steps": 20, "step": 0.25, "loss": "raw-ce", "stream": "float64"}
    single = probe.attack("pgd", **run)
    try:
        double = probe.attack("pgd", net=Double(probe.net), **run)
    except Exception as error:  # whatever the network raises
        raise Inapplicable(f"the network does not run in float64 ({type(error).__name__})") from None
    return abs(_standing(single) - _standing(double))


def _balls(threat: ThreatModel, x: Tensor) -> list[ThreatModel]:
    """The ball, the same with two and four times its radius, and the whole box."""
    whole = _whole(threat, x)
    larger = [threat, *(ThreatModel(threat.norm, min(factor * threat.eps, whole.eps)) for factor in (2, 4)), whole]
    return list(dict.fromkeys(larger))


def _whole(threat: ThreatModel, x: Tensor) -> ThreatModel:
    """A ball that holds the whole box."""
    size = x[0].numel()
    return ThreatModel.parse(threat.norm, {"linf": 1, "l2": int(size**0.5) + 1, "l1": size}[threat.norm])


def _standing(fooled: Tensor) -> float:
    return 1 - _share(fooled)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
