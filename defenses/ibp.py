"""Interval bound propagation (Gowal, Dvijotham, Stanforth et al. 2018): training for bounds, and verification by them.

The schedule is that of the authors' code. Bounds are those of the network in eval mode: what a batch norm does in them, which
the source's networks do not have, is our reading, and the networks are ours.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, Rng, ThreatModel, defense
from bench.proofs.bounds import bounds, verified_radii


@defense("ibp")
class IBP(Defense):
    """Trains on the worst logits that intervals allow in a box around each image; the box and its weight grow."""

    warmup: Annotated[float, Field(ge=0, le=1)] = 1 / 30
    """Share of the training that is clean."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 1 / 6
    """Share of the training, after that, in which the box grows from nothing and the clean loss loses weight."""
    kappa: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Weight of the clean loss in the end; the rest is the bounds'."""
    stretch: Annotated[float, Field(gt=0)] = 1.1
    """The full box as a multiple of eps."""

    paper = "Gowal et al. 2018"
    passes = "1, then 3 (bounds take two)"
    # The last epoch: while the box grows, attacks are survived by networks that nothing can be proved about.
    selects = "epoch"
    presets = {
        # Our own.
        "digits": {
            "epochs": 60, "batch_size": 64, "optimizer": "adam", "lr": 5e-3, "weight_decay": 0.0, "schedule": "cosine",
            "ramp": 0.5,
        },
        # 60001 steps of 200 images, eps 0.33 for 0.3.
        "mnist": {
            "epochs": 200, "batch_size": 200, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0,
            "schedule": "piecewise:0.25,0.4167",
        },
        # In outline the 160 epochs of Shi et al. 2021, without their initialisation and batch norms: so the network is shallow.
        "cifar": {
            "model": "digits_cnn?width=64", "epochs": 160, "batch_size": 128, "optimizer": "adam", "lr": 5e-4,
            "weight_decay": 0.0, "schedule": "piecewise:0.75,0.875", "warmup": 1 / 160, "ramp": 0.5,
            "stretch": 1.0,
        },
    }  # fmt: skip

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        clean = ctx.cross_entropy(net(x), y)
        share = (1 - self.kappa) * self._grown(ctx.progress)
        if not share:
            return clean
        reach, training = self.stretch * ctx.threat.radius, net.training
        net.eval()
        margins = bounds(net, (x - reach).clamp_min(0), (x + reach).clamp_max(1)).margins(y)
        net.train(training)
        return (1 - share) * clean + share * F.cross_entropy(margins, y)

    def budget(self, threat: ThreatModel, progress: float) -> ThreatModel:
        """eps at this progress, before it is stretched."""
        return threat.scaled(self._grown(progress))

    def certify(self, net: nn.Module, x: Tensor, threat: ThreatModel, rng: Rng) -> tuple[Tensor, Tensor] | None:
        """The network's labels, and the radii of boxes that bounds verify: at least eps where they do at eps, 0 where nowhere.

        None outside linf; BadInput for a network that has no bounds, such as where something was added to it at test time.
        """
        del rng
        if threat.norm != "linf":
            return None
        with torch.no_grad():
            labels = net(x).argmax(1)
        return labels, verified_radii(net, x, labels, threat.radius)

    def skip(self, dataset: str, threat: ThreatModel) -> str | None:
        """A box is a ball of linf."""
        del dataset
        return None if threat.norm == "linf" else f"ibp is defined for linf, not {threat.norm}"

    def _grown(self, progress: float) -> float:
        """How much of the ramp is done, in [0, 1]."""
        done = progress - self.warmup
        return min(max(done / self.ramp, 0.0), 1.0) if self.ramp else float(done >= 0)
