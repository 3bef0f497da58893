"""Whether the network has gradients, and whether they are those of what it answers."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from bench.core import Loss, dead, forward, isolated, margin, margin_targeted, raw_cross_entropy, slopes
from bench.diagnose.finding import Inapplicable, check
from bench.diagnose.probe import Probe

REACH = 0.02
"""Half the distance of finite differences, as a fraction of eps."""
DIRECTIONS, ASTRAY = 6, 1.0
"""Random directions, and how far the gradient may lie from that of the answers, in units of its own length."""


@check(
    "gradients", (0.05, 0.5),
    fine="the gradient of the margin is finite and not zero",
    wrong="for {value:.0%} of the images the gradient of the margin is zero or not finite, so that gradient attacks see "
    "nothing and the number may be far too high: take no_grad, detach, rounding and integer arithmetic out of the forward "
    "pass, or attack a differentiable approximation (BPDA), declared in Defense.adaptive, and trust only black-box results "
    "until then",
)  # fmt: skip
def unavailable(probe: Probe) -> float:
    """Indicator 1 of Pintor et al. 2022: gradients of the margin that are exactly 0 or not finite."""
    return _dead(probe, margin)


@check(
    "logit scale", (0.1, 0.5),
    fine="the cross-entropy has a gradient at the scale of these logits",
    wrong="for {value:.0%} of the images the cross-entropy has no gradient in float32: divide the logits, or attack the "
    "margin; any published result of a cross-entropy attack on this model is void",
)  # fmt: skip
def saturated(probe: Probe) -> float:
    """Whether float32 loses the gradient of the cross-entropy, as it does once logits are scaled up."""
    return _dead(probe, raw_cross_entropy)


@check(
    "finite differences", (0.25, 0.6), repeatable=True,
    fine="the margin changes along the gradient as the gradient says",
    wrong="for {value:.0%} of the images the margin does not change along the gradient as the gradient says: the gradient "
    "is not that of the answers, and the number may be far too high; use gradients of a smooth twin, or searches that need "
    "none",
)  # fmt: skip
def faithful(probe: Probe) -> float:
    """Whether small steps change the margin as the gradient says, along it and elsewhere.

    Along the gradient by a factor of 3. A gradient that is finite, and that of something else, may pass there: over random
    directions the error, as the root of its mean square and in units of what the gradient itself says there, estimates how far
    it lies from that of the answers in units of its own length; one that has nothing to do with them lies at 1 or beyond.
    """
    if not probe.threat.radius:
        raise Inapplicable("the ball is a single point")
    x = probe.threat.random_start(probe.x, probe.rng.at("differences"))
    logits = _logits(probe, x)
    rival = logits.scatter(1, probe.y[:, None], -torch.inf).argmax(1)
    grad = gradient(probe, x, margin).nan_to_num(0.0)

    def changes(direction: Tensor) -> tuple[Tensor, Tensor]:
        """How far the margin with the rival changes from behind to ahead, [M], as foretold and as it is."""
        along = probe.threat.steepest(direction) * REACH * probe.threat.radius
        # A network may refuse what is no image, or make something else of it.
        ends = [z.clamp(0, 1) for z in (x + along, x - along)]
        ahead, behind = (margin_targeted(_logits(probe, z), probe.y, rival).double() for z in ends)
        return (grad.double() * (ends[0].double() - ends[1].double())).flatten(1).sum(1), ahead - behind

    predicted, actual = changes(grad)
    ratio = actual / predicted.where(predicted != 0, torch.nan)
    faithless = ~((ratio > 1 / 3) & (ratio < 3))
    noise = (probe.rng.at("directions", draw).normal(x.shape[1:]) for draw in range(DIRECTIONS))
    foretold, seen = map(torch.stack, zip(*map(changes, noise), strict=True))
    error = (seen - foretold).square().mean(0) / foretold.square().mean(0)
    return float((faithless | ~(error < ASTRAY**2)).double().mean())


@torch.no_grad()
def _logits(probe: Probe, x: Tensor) -> Tensor:
    return torch.cat([forward(probe.net, part) for part in x.split(probe.rows)])


def _dead(probe: Probe, loss: Loss) -> float:
    """The share of images whose gradient is zero or not finite, at the image and elsewhere in its ball."""
    found = []
    for x in (probe.x, probe.threat.random_start(probe.x, probe.rng.at("gradients"))):
        found.append(dead(gradient(probe, x, loss)))
    return float(torch.cat(found).double().mean())


def gradient(probe: Probe, x: Tensor, loss: Loss) -> Tensor:
    """Gradients as they come, [M, C, H, W]."""
    every = torch.arange(len(x), device=x.device).split(probe.rows)
    with isolated(probe.rng.seed, "gradient") if probe.noisy else nullcontext():
        return torch.cat([slopes(probe.seen, x[rows], probe.y[rows], loss) for rows in every])
