"""Whether the network answers an image the same way whenever, in whatever company and by whomever it is asked."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor

from bench.core.expectation import CLOSE, batch_dependence
from bench.core.losses import margin
from bench.core.rng import isolated
from bench.core.views import answer, forward
from bench.diagnose.finding import graded, inapplicable
from bench.diagnose.gradients import gradient
from bench.diagnose.probe import Probe
from bench.errors import AttackWarning
from bench.results.schema import Finding

ROUGHNESS = 0.25
"""Width of the noise that should not matter, as a fraction of eps."""
DIRECTIONS = 20


def stochastic(probe: Probe) -> Finding:
    """Whether the same image gets different answers."""
    name = "same answer twice"
    if not probe.noisy:
        return graded(name, 0.0, (0.0, 1.0), "the same image gets the same answer", "")
    with isolated(probe.rng.seed, "twice"):
        labels = torch.stack([_logits(probe, probe.x).argmax(1) for _ in range(5)])
    changed = float((labels != labels[0]).any(0).double().mean())
    return Finding(
        check=name, value=round(changed, 4), threshold=0.0, verdict="suspicious",
        told=f"the answers are random, the label of {changed:.0%} of the images changes: a number holds only in expectation, "
        "and only for this many draws (--eot); evaluate the model with its randomness fixed as well",
    )  # fmt: skip


def company(probe: Probe) -> Finding:
    """Whether the answer to an image depends on the others in its batch, as with batch statistics or train mode."""
    name = "independent of the batch"
    if probe.noisy:
        return inapplicable(name, "the answers are random")
    value = batch_dependence(probe.net, probe.x, probe.rng.at("company").uniform(probe.x.shape[1:]))
    return probe.graded(
        name, value, (0.01, 0.1), "an image gets the same answer in any batch",
        f"{value:.0%} of the images get another answer in other company: batch statistics or train mode at test time; an "
        "attacker chooses the company, and whoever drops broken samples changes it",
    )  # fmt: skip


def two_faced(probe: Probe) -> Finding:
    """Whether the network answers otherwise while gradients are taken."""
    name = "same answer to an attacker"
    if probe.noisy:
        return inapplicable(name, "the answers are random")
    z = probe.x.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        shown = answer(partial(forward, probe.net), z).detach()
    given = _logits(probe, probe.x)
    change = (shown - given).norm(dim=1) / given.norm(dim=1).clamp_min(1e-12)
    value = float((change > CLOSE).double().mean())
    return probe.graded(
        name, value, (0.0, 0.1), "the answers are the same while gradients are taken",
        f"{value:.0%} of the images get another answer while gradients are taken: attacks look at another model than the one "
        "that is judged; remove the switch",
    )  # fmt: skip


def unstable(probe: Probe) -> Finding:
    """Indicator 2 of Pintor et al. 2022, on the margin instead of the loss, whose relative change means nothing near 0.

    What the gradient foretells does not count: a linear network may be sensitive to noise and is as stable as can be.
    """
    given = margin(_logits(probe, probe.x), probe.y)
    grad = gradient(probe, probe.x, margin).nan_to_num(0.0)
    total = torch.zeros_like(given)
    width = ROUGHNESS * probe.threat.radius
    for direction in range(DIRECTIONS):
        z = probe.threat.scaled(ROUGHNESS).random_start(probe.x, probe.rng.at("unstable", direction))
        with isolated(probe.rng.seed, "unstable", direction):
            change = margin(_logits(probe, z), probe.y) - given
        change -= (grad * (z - probe.x)).flatten(1).sum(1)
        total += (change.abs() / given.abs().clamp_min(1e-12)).clamp_max(1)
    value = float((total / DIRECTIONS).mean())
    return graded(
        "stable under noise", value, (0.25, 0.5), f"noise of radius {width:.3g} changes the margin as its gradient says",
        f"noise of radius {width:.3g} changes the margin by {value:.0%} more or less than its gradient says: the landscape is "
        "rough, gradients point nowhere; average them (--eot for a randomised model) or search without them",
    )  # fmt: skip


@torch.no_grad()
def _logits(probe: Probe, x: Tensor) -> Tensor:
    return forward(probe.net, x)
