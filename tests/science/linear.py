"""A linear classifier of two classes, of which everything that measures say is known in closed form."""

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel

EPS = 0.05


class Linear(nn.Module):
    """Logits [0, w.x + b] of images [N, 1, 4, 4]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(16, generator=draw, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn((), generator=draw, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1).to(self.w.dtype) @ self.w + self.b
        return torch.stack([torch.zeros_like(lead), lead], 1)


def samples(n: int = 12) -> tuple[Tensor, Tensor, Rng]:
    """Images far enough from the ends of the box, float64."""
    draw = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=draw, dtype=torch.float64)
    return x, torch.arange(n) % 2, Rng(0, torch.arange(n))


def lead(net: Linear, x: Tensor, y: Tensor) -> Tensor:
    """The true logit minus the wrong one."""
    found: Tensor = (2 * y - 1) * (x.flatten(1) @ net.w.detach() + net.b.detach())
    return found


BALL = ThreatModel.parse("linf", str(EPS))
