"""Randomised smoothing (Cohen, Rosenfeld, Kolter 2019): Gaussian noise in training, a vote over noisy copies afterwards.

The preset for CIFAR is that of the source's experiments but for the network: theirs is a ResNet-110, ours the family's.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import BadInput, Context, Defense, Rng, ThreatModel, defense
from bench.proofs.smoothed import Smoothed, proved_radii


@defense("smoothing")
class Smoothing(Defense):
    """Trains on noisy images; answers with the mean probability over noisy copies, and certifies their vote in l2."""

    sigma: Annotated[float, Field(gt=0)] = 0.25
    """Standard deviation of the noise, in input units; noisy images are not clamped."""
    draws: Annotated[int, Field(ge=1)] = 100
    """Noisy copies that an answer, and so an attack's gradient, is the mean over. A certificate draws its own and is about the
    vote of infinitely many, which an attack on few may contradict."""
    selection: Annotated[int, Field(ge=1)] = 100
    """Noisy copies that choose the label of a certificate."""
    estimation: Annotated[int, Field(ge=1)] = 100_000
    """Further ones that bound its probability."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    """Probability that a certificate is wrong."""

    paper = "Cohen et al. 2019"
    passes = "1"
    # The last: accuracy without noise says nothing of the vote, and the source selects none.
    selects = "epoch"
    # As many as the source certifies.
    certifies = 500
    presets = {
        # Our own: a tenth of the time.
        "digits": {"estimation": 10_000},
        "cifar": {
            "epochs": 90, "batch_size": 400, "lr": 0.1, "schedule": "piecewise:0.3334,0.6667", "weight_decay": 1e-4,
        },
    }  # fmt: skip

    @classmethod
    def can_collapse(cls) -> bool:
        """It trains on noise alone."""
        return False

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(x + self.sigma * ctx.rng.at("noise").normal(x.shape[1:])), y)

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network's mean probability under noise."""
        return Smoothed(net, self.sigma, self.draws)

    def certify(self, net: nn.Module, x: Tensor, threat: ThreatModel, rng: Rng) -> tuple[Tensor, Tensor] | None:
        """The labels that win the vote, and the l2 radii in which they do; None in other norms, BadInput without a vote."""
        if threat.norm != "l2":
            return None
        if not isinstance(net, Smoothed):
            raise BadInput("its votes prove nothing of a network with something around them")
        return net.certify(x, rng, selection=self.selection, n=self.estimation, alpha=self.alpha)

    def certifies_up_to(self, threat: ThreatModel) -> float:
        """What all copies in agreement prove."""
        if threat.norm != "l2":
            return math.inf
        return float(proved_radii(torch.tensor([self.estimation]), self.estimation, self.sigma, self.alpha))
