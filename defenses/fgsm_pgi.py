"""FGSM with a prior-guided start, FGSM-PGI (Jia, Zhang, Wei, Wu, Ma, Wang, Cao, ECCV 2022, arXiv 2207.08859).

As in the source, a perturbation is remembered in the coordinates of the augmented image, whatever crop it meets next, and the
first of the two images may leave the box. The gradient is that of the pass that the loss uses, so `craft` and `craft_updates`
have no say in it. That BP is never reset, and that a sample without a past starts anew, is our reading: only MEP was published
as code.
"""

from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import BadInput, Context, Defense, defense, projected_step

_CIFAR = {
    "model": "resnet18",
    "epochs": 110,
    "lr": 0.1,
    "schedule": f"piecewise:{100 / 110},{105 / 110}",
}


@defense("fgsm_pgi")
class PriorGuided(Defense):
    """One step from a remembered perturbation, with the answers before and after the step held together."""

    prior: Literal["batch", "epoch", "momentum"] = "momentum"
    """Start from the example of the previous batch (BP), from the sample's own of the epoch before (EP), or from its last start
    after a step along the momentum of its gradients (MEP)."""
    step: Annotated[float, Field(gt=0)] = 1.0
    """Step size as a fraction of eps."""
    penalty: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the mean squared difference between the logits before and after the step."""
    decay: Annotated[float, Field(ge=0)] = 0.3
    """Of the momentum, from epoch to epoch."""
    confidence: Annotated[float, Field(ge=0.5, le=1)] | None = 0.6
    """Probability of the true class in the targets, of crafting and of training; the others share the rest. None for 0.5, and
    between two classes, of which half is no preference, for 0.75."""
    reset: Annotated[int, Field(ge=1)] = 40
    """Epochs after which samples forget and start anew from random signs; BP never does."""

    paper = "Jia et al. 2022"
    passes = "2 (+ 1 backward)"
    presets = {"cifar": _CIFAR, "cifar100": {**_CIFAR, "reset": 10}}

    def for_classes(self, classes: int) -> Self:
        """With the confidence among so many classes."""
        return self if self.confidence is not None else replace(self, confidence=0.5 if classes > 2 else 0.75)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        start = self.start(x, ctx).requires_grad_()
        before = net(start)
        grad = ctx.once("gradient", lambda: torch.autograd.grad(self.smoothed(before, y), start, retain_graph=True)[0])
        z = projected_step(start, x, grad, self.step, ctx.threat)
        after = net(z)
        ctx.once("memory", lambda: self.remember(x, start, z, self.share(before, after, y, ctx) * _unit(grad), ctx))
        return self.smoothed(after, y) + self.penalty * F.mse_loss(after, before)

    def start(self, x: Tensor, ctx: Context) -> Tensor:
        """Where the step begins, [N, C, H, W]: at a corner of the ball for a sample without a past."""
        fresh = ctx.threat.random_start(x, ctx.rng.at("start"), corner=True, box=False)
        if self.prior == "batch":
            last = ctx.memory.get("perturbation", x[:0])[: len(x)]
            return torch.cat([x[: len(last)] + last, fresh[len(last) :]])
        kept = ctx.rows("perturbation", x.shape[1:], torch.nan)
        return fresh if self._forgets(ctx) else torch.where(kept.isnan(), fresh, x + kept)

    def remember(self, x: Tensor, start: Tensor, z: Tensor, grad: Tensor, ctx: Context) -> None:
        """Keep what the next start is made of."""
        if self.prior == "batch":
            # A last batch that is shorter leaves the rest of the one before it.
            ctx.remember("perturbation", torch.cat([z - x, ctx.memory.get("perturbation", x[:0])[len(x) :]]))
            return
        if self.prior == "momentum":
            past = ctx.rows("momentum", x.shape[1:])
            grad = grad if self._forgets(ctx) else grad + self.decay * past
            ctx.remember_rows("momentum", grad)
            z = projected_step(start, x, grad, self.step, ctx.threat)
        ctx.remember_rows("perturbation", z - x)

    def share(self, before: Tensor, after: Tensor, y: Tensor, ctx: Context) -> Tensor | float:
        """How much of the new gradient enters the momentum."""
        del before, after, y, ctx
        return 1.0

    def smoothed(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy with targets of this confidence."""
        classes = logits.shape[1]
        confidence = self.for_classes(classes).confidence
        assert confidence is not None
        if confidence * classes <= 1:
            raise BadInput(f"confidence = {confidence:g} in one of {classes} classes is no preference for it; give more")
        return F.cross_entropy(logits, y, label_smoothing=(1 - confidence) * classes / (classes - 1))

    def _forgets(self, ctx: Context) -> bool:
        return ctx.epoch % self.reset == 0


def _unit(grad: Tensor) -> Tensor:
    """Scaled to an L1 norm of 1 over the whole batch, as the source has it."""
    return grad / grad.abs().sum().clamp_min(1e-20)
