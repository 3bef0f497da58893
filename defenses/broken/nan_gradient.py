"""A root at 0 behind a `where`: the answer is right, and its gradient is infinity times 0."""

import torch
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard


@defense("broken_nan_gradient")
class NaNGradient(Standard):
    """Natural training; logits shrink with the image's distance from [0, 1], whose gradient inside is NaN."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Shrinking(net)


class Shrinking(nn.Module):
    """Logits over 1 + the distance to the box."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        beyond = (x - x.clamp(0, 1)).square().flatten(1).sum(1, keepdim=True)
        logits: Tensor = self.net(x) / (1 + torch.where(beyond > 0, beyond.sqrt(), 0.0))
        return logits
