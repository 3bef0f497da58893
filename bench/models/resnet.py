"""ResNet-18 for small images, with activations after (He et al. 2016a) or before (He et al. 2016b) the convolutions.

The attribute names are those most public CIFAR checkpoints use, so that their state dicts load. Weights start from torch's
default, as in the scripts of the fast adversarial-training papers: from He's, narrow networks begin to mask their gradients
within the first epoch of single-step training.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.layers import conv3x3

STRIDES = (1, 2, 2, 2)


class PreactBlock(nn.Module):
    """BN, ReLU, convolution, twice; where the shape changes, the shortcut starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """The next map, [N, outputs, H / stride, W / stride]."""
        active = F.relu(self.bn1(x))
        skip: Tensor = x if self.shortcut is None else self.shortcut(active)
        hidden = self.dropout(F.relu(self.bn2(self.conv1(active))))
        residual: Tensor = self.conv2(hidden)
        return skip + residual


class PostactBlock(nn.Module):
    """Convolution, BN, ReLU, convolution, BN; ReLU after the shortcut is added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The next map, [N, outputs, H / stride, W / stride]."""
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(hidden + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem without max-pooling, four stages of two blocks, global average pooling, a linear layer."""

    def __init__(
        self, block: type[PreactBlock] | type[PostactBlock], shape: tuple[int, int, int], classes: int, width: int
    ) -> None:
        super().__init__()
        preact = block is PreactBlock
        widths = [width * 2**stage for stage in range(4)]
        stages = [
            nn.Sequential(block(inputs, outputs, stride), block(outputs, outputs, 1))
            for inputs, outputs, stride in zip([width, *widths], widths, STRIDES, strict=False)
        ]
        self.conv1 = conv3x3(shape[0], width)
        self.bn1 = nn.Identity() if preact else nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn = nn.BatchNorm2d(widths[-1]) if preact else nn.Identity()
        self.linear = nn.Linear(widths[-1], classes)
        self.preact = preact

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        hidden = self.conv1(x)
        hidden = hidden if self.preact else F.relu(self.bn1(hidden))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        hidden = F.relu(self.bn(hidden)) if self.preact else hidden
        return self.linear(F.adaptive_avg_pool2d(hidden, 1).flatten(1))  # type: ignore[no-any-return]


def preact_resnet18(shape: tuple[int, int, int], classes: int, *, width: int = 64) -> nn.Module:
    """Pre-activation ResNet-18 for small images, the field's usual CIFAR-10 network (He et al. 2016)."""
    return ResNet(PreactBlock, shape, classes, width)


def resnet18(shape: tuple[int, int, int], classes: int, *, width: int = 64) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pooling, for small images (He et al. 2016)."""
    return ResNet(PostactBlock, shape, classes, width)
