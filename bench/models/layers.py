"""What the architectures share: normalisation inside the model, initialisation, convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.errors import BadInput


class Normalize(nn.Module):
    """(x - mean) / std per channel, for x [N, C, H, W] in [0, 1]; the statistics are buffers [C, 1, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise BadInput(f"mean has {len(mean)} values and std {len(std)}; give one of each per channel")
        if not all(value > 0 for value in std):
            raise BadInput(f"std {', '.join(map(str, std))} must be positive in every channel")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images, [N, C, H, W]."""
        return (x - self.mean) / self.std


class Normalized(nn.Module):
    """A network on normalised images."""

    def __init__(self, normalize: Normalize, body: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of images in [0, 1]."""
        return self.body(self.normalize(x))  # type: ignore[no-any-return]


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias, for use beside a batch norm; the map shrinks by the stride only."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def he_normal(net: nn.Module) -> nn.Module:
    """Draw every convolution anew from N(0, 2 / fan-out) (He et al. 2015)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
