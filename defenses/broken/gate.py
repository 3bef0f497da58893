"""A gate: where a second network disagrees, the image counts as adversarial, and the answer has no gradient.

Disagreement of two networks as a detector is of Monteiro, Albuquerque, Akhtar, Falk 2019 ("bi-model decision mismatch"). As
with the ten detectors of Carlini, Wagner 2017, an attack that knows of both loses nothing: the label is the robust
network's, so that is the one to attack.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.defense import Dataset, defense

from .around import TrainedRobustly, another


@defense("broken_gate")
class Gate(TrainedRobustly):
    """PGD training; where an undefended network says something else, the label stands without a degree of confidence."""

    paper = "Monteiro et al. 2019"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        return Gated(net, another(net, train, seed=0))

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


class Gated(nn.Module):
    """A network that answers in degrees only while another one agrees."""

    def __init__(self, net: nn.Module, witness: nn.Module) -> None:
        super().__init__()
        self.net, self.witness = net, witness

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        logits: Tensor = self.net(x)
        label = logits.argmax(1)
        agreed = label == self.witness(x).argmax(1)
        return torch.where(agreed[:, None], logits, 10.0 * F.one_hot(label, logits.shape[1]).to(logits.dtype))
