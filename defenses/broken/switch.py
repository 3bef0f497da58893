"""A switch between networks by the image itself (a moving target; Sengupta, Chakraborti, Kambhampati 2019).

Which network answers is decided by a sum of low digits of the pixels, so that every step of an attack meets another one. They
fall to the same examples (Athalye, Carlini, Wagner 2018: expectation over the choice; He et al. 2017, "Ensembles of weak
defenses are not strong"). The networks are in a plain list, where no walk over the modules finds them.
"""

import torch
from torch import Tensor, nn

from bench.defense import Dataset, defense

from .around import TrainedRobustly, another


@defense("broken_switch")
class Switch(TrainedRobustly):
    """PGD training; two undefended networks add their logits to its own for the images that a hash gives them."""

    paper = "Sengupta et al. 2019"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        return Switched([net, *(another(net, train, seed) for seed in (1, 2))])

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


class Switched(nn.Module):
    """Networks, one for each image; the rest have a say."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]: those of the network whose turn it is, and a little of the first one's."""
        turn = (x.detach() * 65536).round().long().flatten(1).sum(1) % len(self.members)
        answers = torch.stack([member(x) for member in self.members], 1)
        chosen: Tensor = answers[torch.arange(len(x), device=x.device), turn]
        return chosen + answers[:, 0]
