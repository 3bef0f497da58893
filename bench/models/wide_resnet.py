"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from torch import nn

from bench.errors import BadInput
from bench.models.layers import conv3x3, he_normal
from bench.models.resnet import PreactBlock


def wide_resnet(
    shape: tuple[int, int, int], classes: int, *, depth: int = 28, width: int = 10, dropout: float = 0.0
) -> nn.Module:
    """Wide ResNet of depth 6n + 4, for small images (Zagoruyko and Komodakis 2016)."""
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        near = 6 * max(1, round((depth - 4) / 6)) + 4
        raise BadInput(f"wide_resnet: depth {depth} is not 6n + 4; did you mean {near}?")
    if not 0 <= dropout < 1:
        raise BadInput(f"wide_resnet: dropout {dropout:g} is outside [0, 1)")
    layers: list[nn.Module] = [conv3x3(shape[0], 16)]
    inputs = 16
    for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        layers.append(PreactBlock(inputs, outputs, stride, dropout))
        layers += [PreactBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)]
        inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return he_normal(nn.Sequential(*layers))
