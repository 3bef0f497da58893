"""Another network for whoever asks for a gradient."""

import torch
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard


@defense("broken_two_faced")
class TwoFaced(Standard):
    """Natural training; where a gradient is being taken, the image is read upside down."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Watching(net)


class Watching(nn.Module):
    """A network that tells whether it is being differentiated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        logits: Tensor = self.net(x.flip(2) if torch.is_grad_enabled() and x.requires_grad else x)
        return logits
