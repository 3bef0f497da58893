"""VGG for small images (Simonyan and Zisserman 2015), with batch norm and a single linear layer."""

from __future__ import annotations

from torch import nn

from bench.models.layers import conv3x3

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Of each stage: its width as a multiple of the first, and how many convolutions it has."""


def vgg16(shape: tuple[int, int, int], classes: int, *, width: int = 64) -> nn.Module:
    """VGG-16 with batch norm and one linear layer, for small images (Simonyan and Zisserman 2015)."""
    layers: list[nn.Module] = []
    inputs = shape[0]
    for multiple, convolutions in STAGES:
        for _ in range(convolutions):
            outputs = multiple * width
            layers += [conv3x3(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        # In ceil mode pooling a 1x1 map leaves it as it is, so images below 32x32 pass too.
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
