"""Networks of mixed precision that vote (EMPIR; Sen, Ravindran, Raghunathan, ICLR 2020).

What is rounded inside a network has no gradient, so that an attack sees the full-precision member alone. Tramer, Carlini,
Brendel, Madry 2020 pass the rounding straight through and attack all members at once.
"""

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Dataset, defense, isolated

from .around import TrainedRobustly, another, taught


@defense("broken_mixed_precision")
class MixedPrecision(TrainedRobustly):
    """PGD training; the mean of its probabilities with those of two networks whose activations are rounded."""

    bits: Annotated[int, Field(ge=1, le=8)] = 2
    """Of the activations of the two."""

    paper = "Sen et al. 2020"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        return Vote([net, *(self.coarse(another(net, train, seed), train, seed) for seed in (1, 2))])

    def coarse(self, net: nn.Module, train: Dataset, seed: int) -> nn.Module:
        """The network with its activations rounded, trained on with the rounding passed straight through."""
        for part in relus(net):
            part.register_forward_hook(partial(rounded, levels=2**self.bits - 1))
        with isolated(seed), torch.enable_grad():
            net.train().requires_grad_(True)
            taught(net, lambda x, y: F.cross_entropy(net(x), y), train, 6, 2000)
        return net

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


def relus(net: nn.Module) -> list[nn.Module]:
    """The activations of a network."""
    return [part for part in net.modules() if isinstance(part, nn.ReLU)]


def rounded(part: nn.Module, _: tuple[Tensor, ...], value: Tensor, levels: int) -> Tensor:
    """Activations in so many steps up to 1; only in training does a gradient pass."""
    coarse = torch.round(value.clamp(max=1) * levels) / levels
    return value + (coarse - value).detach() if part.training else coarse


class Vote(nn.Module):
    """The logarithm of the mean of the members' probabilities."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [N, K]."""
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0).clamp_min(1e-9).log()
