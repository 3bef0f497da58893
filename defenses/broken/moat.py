"""A moat: confidence that falls towards the boundary and rises again before it, so that what climbs a loss stops in between.

Adversarial Attack on Attackers (Chen, Huang, Tao, Huang, NeurIPS 2022) bends the scores like that against search by queries. It
changes no label, so whatever fools the network inside fools the whole: an attack on that network, or on a loss of the inner
lead, is not held up.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense

from .around import Around, TrainedRobustly


@defense("broken_moat")
class Moat(TrainedRobustly):
    """PGD training; the largest logit is raised the more, the closer it is to the runner-up."""

    height: Annotated[float, Field(gt=0)] = 6.0
    """By how much, where the two are equal."""
    width: Annotated[float, Field(gt=0)] = 1.5
    """The lead over the runner-up at which a third of that is left."""

    paper = "Chen et al. 2022"

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, after=self.raised)

    def raised(self, logits: Tensor) -> Tensor:
        """The same labels, with a lead that is least some way before the boundary."""
        first, second = logits.topk(2).values.T
        rise = self.height * torch.exp(-(((first - second) / self.width) ** 2))
        return logits + rise[:, None] * F.one_hot(logits.argmax(1), logits.shape[1])
