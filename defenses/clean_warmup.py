"""Clean warm-up, then adversarial training (after arXiv 2312.02236, case study 2; when to switch is our reading)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Rng, TrainedNet, defense
from bench.science import ntk

from .pgd_at import PGDTraining

_SEEN, _BEFORE, _SWITCH = "warmup/seen", "warmup/kernel", "warmup/switch"


@defense("clean_warmup")
class CleanWarmup(PGDTraining):
    """Clean images for the first part of the training, PGD training for the rest; the optimiser never notices.

    The source chose the epoch of the switch by hand, for as long as the kernels that clean and adversarial training learn
    are close. With mode "kernel" the training finds it on its way, from two distances that are taken at the first batch of
    every clean epoch on a few training images, the probe: of their neural tangent kernel to that of an epoch ago (the
    velocity), and to the kernel of the same images under the training's own attack. The rule is our own.
    """

    mode: Literal["fixed", "kernel"] = "fixed"
    """When to switch: after a share of the training, or when the kernel says so."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the training that is clean with mode "fixed"; keep it before the first learning-rate drop."""
    cap: Annotated[float, Field(ge=0, le=1)] = 0.3
    """That share at most with mode "kernel", which otherwise switches once the kernel has moved by less than `tau` for two
    epochs on end, or where its distance from the attacked one, having fallen, no longer falls. (Before the first update that
    distance is next to nothing, so that a plain "does not fall" would always end the warm-up after its first epoch.)"""
    tau: Annotated[float, Field(ge=0)] = 0.05
    """A kernel that moved by less has come to rest; a distance of kernels, 1 - their cosine."""
    probe: Annotated[int, Field(ge=10)] = 250
    """Images in the probe at most. It has one for every 128 training images, the classes in turn, and at least ten: with
    attacks of several steps that keeps it below 2 % of the training's time, from about 1280 training images on."""

    paper = "arXiv 2312.02236"
    passes = "1 + (1 - warmup) * steps"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        clean = ctx.progress < self.warmup if self.mode == "fixed" else self._waits(cast(TrainedNet, net), ctx)
        return ctx.cross_entropy(net(x), y) if clean else super().loss(net, x, y, ctx)

    def report(self, memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """The first epoch with adversarial images, why it is that one, and the distances; epochs count from 1."""
        if self.mode == "fixed":
            return {}
        seen = memory.get(_SEEN, torch.zeros(0, 2))
        velocities, distances = ([None if math.isnan(v) else v for v in column] for column in seen.T.tolist())
        return {
            "switch_epoch": int(memory[_SWITCH]) + 1 if _SWITCH in memory else None,
            "switched_by": (self._reason(seen) or "cap") if _SWITCH in memory else None,
            "kernel_velocities": velocities,
            "kernel_distances": distances,
        }

    def _waits(self, net: TrainedNet, ctx: Context) -> bool:
        """Whether this batch is still clean. Which keys there are and how long they are is known without asking a GPU."""
        if _SWITCH in ctx.memory:
            return False
        if ctx.progress < self.cap:
            measured = len(ctx.memory.get(_SEEN, ())) > ctx.epoch
            if measured or self._reason(ctx.once(_SEEN, lambda: self._measure(net, ctx))) is None:
                return True
        ctx.remember(_SWITCH, torch.tensor(ctx.epoch))
        return False

    def _reason(self, seen: Tensor) -> str | None:
        """What ends the warm-up after these velocities and distances, float64 [epochs, 2], if anything does."""
        velocities, distances = seen.unbind(1)
        if len(seen) > 1 and bool((velocities[-2:] < self.tau).all()):
            return "velocity"
        return "distance" if len(seen) > 2 and bool(distances[-3] > distances[-2] <= distances[-1]) else None

    def _measure(self, net: TrainedNet, ctx: Context) -> Tensor:
        """All velocities and distances so far, with those of this epoch; NaN where there is none."""
        index = _in_turn(ctx.labels, max(10, min(self.probe, len(ctx.labels) // 128)))
        x, y = ctx.images[index], ctx.labels[index]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        rng = Rng(ctx.rng.seed, index).at("probe")
        z = self.perturb(x, y, replace(ctx, threat=ctx.target, gradient=net.gradient("eval"), rng=rng))
        clean, attacked = ntk.kernel(net.net, torch.stack([x, z]))
        passes = ntk.passes(net.net, 2 * len(x))
        net.forwards += passes
        net.backwards += passes
        velocity = ntk.distance(clean, ctx.memory.get(_BEFORE, torch.full_like(clean, math.nan)))
        row = torch.stack([velocity, ntk.distance(clean, attacked)]).cpu()
        seen = ctx.memory.get(_SEEN, row.new_zeros(0, 2)).cpu()
        # Epochs that another option trained have no row.
        seen = torch.cat([F.pad(seen, (0, 0, 0, ctx.epoch - len(seen)), value=math.nan), row.unsqueeze(0)])
        ctx.remember(_BEFORE, clean.clone())
        ctx.remember(_SEEN, seen)
        return seen


def _in_turn(labels: Tensor, n: int) -> Tensor:
    """The positions of n labels, one of every class in turn, the first of a class first."""
    order, counts = labels.argsort(stable=True), labels.bincount()
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[place.argsort(stable=True)[:n]]
