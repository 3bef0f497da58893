"""Small convolutional networks for digits and MNIST."""

from __future__ import annotations

from torch import nn

from bench.errors import BadInput


def mnist_fast(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two strided convolutions and two linear layers, for MNIST (Wong et al. 2020)."""
    channels, height, width = shape
    if min(height, width) < 4:
        raise BadInput(f"images of {height}x{width} are too small for mnist_fast; they need at least 4x4 pixels")
    # A plain Sequential: the keys are those of the published checkpoints.
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def lenet(shape: tuple[int, int, int], classes: int, *, width: int = 16) -> nn.Module:
    """A wide LeNet for MNIST: two 5x5 convolutions with max-pooling, two linear layers (Liu et al. 2020)."""
    channels, rows, columns = shape
    return nn.Sequential(
        nn.Conv2d(channels, 2 * width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(2 * width, 4 * width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(4 * width * -(-rows // 4) * -(-columns // 4), 64 * width),
        nn.ReLU(),
        nn.Linear(64 * width, classes),
    )


def digits_cnn(shape: tuple[int, int, int], classes: int, *, width: int = 32) -> nn.Module:
    """Two 3x3 convolutions and two linear layers, for 8x8 digits."""
    return nn.Sequential(*_digits(shape, classes, width, norms=False))


def digits_bn(shape: tuple[int, int, int], classes: int, *, width: int = 32) -> nn.Module:
    """The digits_cnn with a batch norm after each convolution, for what norms do."""
    return nn.Sequential(*_digits(shape, classes, width, norms=True))


def _digits(shape: tuple[int, int, int], classes: int, width: int, *, norms: bool) -> list[nn.Module]:
    channels, rows, columns = shape
    return [
        nn.Conv2d(channels, width, 3, padding=1),
        *([nn.BatchNorm2d(width)] if norms else []),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        *([nn.BatchNorm2d(2 * width)] if norms else []),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * -(-rows // 2) * -(-columns // 2), 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, classes),
    ]
