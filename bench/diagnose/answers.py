"""Whether the network answers an image the same way whenever, in whatever company and by whomever it is asked."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor

from bench.core import CLOSE, answer, batch_dependence, forward, isolated, margin
from bench.diagnose.finding import Inapplicable, Measured, check
from bench.diagnose.gradients import gradient
from bench.diagnose.probe import Probe
from bench.errors import AttackWarning
from bench.results import CONSTANT
from bench.statistics import surely

ROUGHNESS = 0.25
"""Width of the noise that should not matter, as a fraction of eps."""
DIRECTIONS = 20


@check(
    "more than one answer", (CONSTANT, CONSTANT), any=True,
    fine="answers follow the images: at most {value:.0%} of the images of other classes are answered with one class",
    wrong="{told}",
)  # fmt: skip
def constant(probe: Probe) -> Measured:
    """Whether the network answers one class whatever it is shown, or knows the labels no better than who does."""
    if probe.given is None or probe.labels is None:
        raise Inapplicable("what the network answers is not known")
    given, labels = probe.given, probe.labels
    label, right = int(given.bincount().argmax()), float((given == labels).double().mean())
    others, often = labels != label, float(labels.bincount().max()) / len(labels)
    if often == 1:
        raise Inapplicable("all images have one label")
    elsewhere = surely(int((given[others] == label).sum()), int(others.sum()))
    if elsewhere >= CONSTANT:
        told = (
            f"it answers class {label} to {float((given == label).double().mean()):.0%} of all images: what no attack breaks "
            "is the share of that class and no robustness; train it again, or check how it expects its images"
        )
        return Measured(elsewhere, {"told": told}, "broken")
    told = (
        f"{right:.0%} of all images are right, no more than the commonest label gives ({often:.0%}): there is nothing that "
        "could be robust; check that labels are numbered as in its training, and images scaled as there"
    )
    return Measured(elsewhere, {"told": told}, "suspicious" if right <= often else "ok")


@check(
    "same answer twice", (0.0, 1.0), share=False,
    fine="the same image gets the same answer",
    wrong="the answers are random, the label of {value:.0%} of the images changes: a number holds only in expectation, "
    "and only for this many draws (--eot); evaluate the model with its randomness fixed as well",
)  # fmt: skip
def stochastic(probe: Probe) -> float | Measured:
    """Whether the same image gets different answers."""
    if not probe.noisy:
        return 0.0
    with isolated(probe.rng.seed, "twice"):
        labels = torch.stack([_logits(probe, probe.x).argmax(1) for _ in range(5)])
    return Measured(float((labels != labels[0]).any(0).double().mean()), verdict="suspicious")


@check(
    "independent of the batch", (0.01, 0.1), repeatable=True,
    fine="an image gets the same answer in any batch",
    wrong="{value:.0%} of the images get another answer in other company: batch statistics or train mode at test time; an "
    "attacker chooses the company, and whoever drops broken samples changes it",
)  # fmt: skip
def company(probe: Probe) -> float:
    """Whether the answer to an image depends on the others in its batch, as with batch statistics or train mode."""
    return batch_dependence(probe.net, probe.x, probe.rng.at("company").uniform(probe.x.shape[1:]))


@check(
    "same answer to an attacker", (0.0, 0.1), repeatable=True,
    fine="the answers are the same while gradients are taken",
    wrong="{value:.0%} of the images get another answer while gradients are taken: attacks look at another model than the one "
    "that is judged; remove the switch",
)  # fmt: skip
def two_faced(probe: Probe) -> float:
    """Whether the network answers otherwise while gradients are taken."""
    z = probe.x.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        shown = answer(partial(forward, probe.net), z).detach()
    given = _logits(probe, probe.x)
    change = (shown - given).norm(dim=1) / given.norm(dim=1).clamp_min(1e-12)
    return float((change > CLOSE).double().mean())


@check(
    "stable under noise", (0.25, 0.5), share=False, part=2,
    fine="noise of radius {width:.3g} changes the margin as its gradient says",
    wrong="noise of radius {width:.3g} changes the margin by {value:.0%} more or less than its gradient says: the landscape is "
    "rough, gradients point nowhere; average them (--eot for a randomised model) or search without them",
)  # fmt: skip
def unstable(probe: Probe) -> Measured:
    """Indicator 2 of Pintor et al. 2022, on the margin instead of the loss, whose relative change means nothing near 0.

    What the gradient foretells does not count: a linear network may be sensitive to noise and is as stable as can be.
    """
    given = margin(_logits(probe, probe.x), probe.y)
    grad = gradient(probe, probe.x, margin).nan_to_num(0.0)
    total = torch.zeros_like(given)
    for direction in range(DIRECTIONS):
        z = probe.threat.scaled(ROUGHNESS).random_start(probe.x, probe.rng.at("unstable", direction))
        with isolated(probe.rng.seed, "unstable", direction):
            change = margin(_logits(probe, z), probe.y) - given
        change -= (grad * (z - probe.x)).flatten(1).sum(1)
        total += (change.abs() / given.abs().clamp_min(1e-12)).clamp_max(1)
    return Measured(float((total / DIRECTIONS).mean()), {"width": ROUGHNESS * probe.threat.radius})


@torch.no_grad()
def _logits(probe: Probe, x: Tensor) -> Tensor:
    return forward(probe.net, x)
