"""Nearest neighbours in the features' place (deep k-nearest neighbours; Papernot, McDaniel 2018), one opaque call.

Labels are votes of the training images whose answers are most alike, as smooth as a sharp softmax over distances is. Sitawarin,
Wagner 2019 ("On the robustness of deep k-nearest neighbors") climb a soft vote instead. The network and the images it
remembers live in a closure, where no walk over the modules finds them.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Dataset, defense

from .around import TrainedRobustly


@defense("broken_neighbours")
class Neighbours(TrainedRobustly):
    """PGD training; at test time the k training images with the closest log-probabilities vote, and votes are sharpened."""

    k: Annotated[int, Field(ge=1)] = 15
    """Neighbours that vote."""
    sharpness: Annotated[float, Field(gt=0)] = 20.0
    """Of their weights, per unit of distance."""

    paper = "Papernot, McDaniel 2018"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        x, y = train.batch(torch.arange(min(len(train), 2000)))
        with torch.no_grad():
            known = F.normalize(torch.cat([net(part) for part in x.split(256)]), dim=1)
        votes = F.one_hot(y, train.classes).float()

        def answer(z: Tensor) -> Tensor:
            here, votes_, known_ = F.normalize(net(z), dim=1), votes.to(z), known.to(z)
            distance, nearest = torch.cdist(here, known_).topk(min(self.k, len(known)), largest=False)
            weight = (-self.sharpness * distance).softmax(1)
            return ((weight[..., None] * votes_[nearest]).sum(1) + 1e-3).log()

        return Opaque(answer)

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


class Opaque(nn.Module):
    """A function of images, and nothing to see inside."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [N, K]."""
        return self.answer(x)
