"""Sound networks of many kinds, adversarially trained on digits in seconds: no diagnosis may wrong one of them.

    gauntlet diagnose py:tests/sound.py:vit --dataset digits

Seeds are fixed. Weights are kept in the folder GAUNTLET_SOUND, one of the system's temporary files unless given.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import ThreatModel
from bench.core.rng import isolated
from bench.data import load

KEPT = Path(os.environ.get("GAUNTLET_SOUND", Path(tempfile.gettempdir()) / "gauntlet-sound"))
THREAT = ThreatModel.parse("linf", "0.2")
Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
"""Of a network, images, labels and the radius, which grows over the first half of a training."""


def reference(name: str) -> str:
    """As evaluate takes it."""
    return f"py:{Path(__file__).resolve()}:{name}"


def adversarial(net: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int = 4) -> Tensor:
    """Cross-entropy on the end of a short PGD run."""
    low, high = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    z = low + (high - low) * torch.rand_like(x)
    net.eval()
    for _ in range(steps):
        z.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
        z = torch.minimum(torch.maximum(z.detach() + 0.4 * radius * grad.sign(), low), high)
    return F.cross_entropy(net.train()(z), y)


def trained(
    build: Callable[[], nn.Module],
    loss: Loss = adversarial,
    *,
    epochs: int = 12,
    lr: float = 4e-3,
    seed: int = 0,
    dataset: str = "digits",
) -> nn.Module:
    """A network that was trained once; after that its weights are read."""
    code = Path(__file__).read_text() + build.__qualname__ + f"{epochs} {lr} {seed}"
    file = KEPT / f"{build.__name__.strip('<>')}-{hashlib.sha256(code.encode()).hexdigest()[:16]}.pt"
    with isolated(seed), torch.enable_grad():
        net = build()
        if file.is_file():
            net.load_state_dict(torch.load(file, weights_only=True))
            return net.eval()
        train = load(dataset, "train")
        x, y = train.batch(torch.arange(len(train)))
        optimizer = torch.optim.AdamW(net.parameters(), lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * math.ceil(len(x) / 64))
        for epoch in range(epochs):
            radius = THREAT.radius * min(1.0, 2 * (epoch + 1) / epochs)
            for rows in torch.randperm(len(x)).split(64):
                value = loss(net, x[rows], y[rows], radius)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), file)
    return net.eval()


class ViT(nn.Module):
    """Sixteen patches of 2x2 pixels, two layers of attention."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        answer: Tensor = self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))
        return answer


class Maxout(nn.Module):
    """The largest of each four outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, 4 C, ...] to [N, C, ...]."""
        return x.unflatten(1, (-1, 4)).amax(2)


class Mean(nn.Module):
    """The logarithm of the mean probability of its members."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [N, 10]."""
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0).log()


class Shifts(nn.Module):
    """The mean of the logits on the image and its four neighbours."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        wide = F.pad(x, (1, 1, 1, 1))
        views = [wide[..., row : row + 8, column : column + 8] for row, column in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
        return torch.stack([self.net(view) for view in views]).mean(0)


class Blur(nn.Module):
    """A fixed smoothing kernel, which takes noise away and hides nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W]."""
        line = torch.tensor([0.15, 0.7, 0.15], device=x.device, dtype=x.dtype)
        return F.conv2d(x, (line[:, None] * line).expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


class Slopes(nn.Module):
    """A network that is also shown how an energy changes with the image: gradients inside forward, smooth and passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 10))

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        x = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        answer: Tensor = self.head(torch.cat([x, 4 * slope], 1))
        return answer


def interval_loss(net: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Cross-entropy of the worst logits that interval arithmetic allows at half of the radius, and of the image's own."""
    low, high = (x - radius / 2).clamp(0, 1), (x + radius / 2).clamp(0, 1)
    for layer in net:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Linear):
            middle, reach = layer((low + high) / 2), F.linear((high - low) / 2, layer.weight.abs())
            low, high = middle - reach, middle + reach
        else:
            low, high = layer(low), layer(high)
    own = F.one_hot(y, 10).bool()
    return 0.5 * F.cross_entropy(net(x), y) + 0.5 * F.cross_entropy(torch.where(own, low, high), y)


def gently(net: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Clean images and half the radius, for what learns nothing from the whole of it alone."""
    return 0.5 * F.cross_entropy(net.train()(x), y) + 0.5 * adversarial(net, x, y, radius / 2, steps=2)


def plain(net: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Natural training."""
    del radius
    return F.cross_entropy(net.train()(x), y)


def dense() -> nn.Module:
    """Three linear layers with ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def smooth_dense() -> nn.Module:
    """Three linear layers with layer norms and GELU."""
    middle = [part for inputs in (64, 128) for part in (nn.Linear(inputs, 128), nn.LayerNorm(128), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *middle, nn.Linear(128, 10))


def convolutions() -> nn.Module:
    """SiLU convolutions with group norms, and dropout that is off at test time."""
    first = (nn.Conv2d(1, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU())
    second = (nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.GroupNorm(4, 48), nn.SiLU(), nn.Flatten())
    return nn.Sequential(*first, *second, nn.Dropout(0.2), nn.Linear(768, 10))


def relu_convolutions() -> nn.Module:
    """The smallest convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 10),
    )  # fmt: skip


def largest() -> nn.Module:
    """A convolution, a linear layer and maxout."""
    body = (nn.Conv2d(1, 64, 3, stride=2, padding=1), Maxout(), nn.Flatten(), nn.Linear(256, 256), Maxout())
    return nn.Sequential(*body, nn.Linear(64, 10))


def affine() -> nn.Module:
    """Softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def blurred() -> nn.Module:
    """Smoothing in front, log-probabilities as the answer."""
    return nn.Sequential(Blur(), relu_convolutions(), nn.LogSoftmax(1))


def shifted() -> nn.Module:
    """One network on five views."""
    return Shifts(relu_convolutions())


def mlp() -> nn.Module:
    """Smooth, normalised, dense."""
    return trained(smooth_dense)


def vit() -> nn.Module:
    """Attention."""
    return trained(ViT, gently, epochs=12, lr=2e-3)


def maxout() -> nn.Module:
    """No activation but the maximum."""
    return trained(largest)


def silu() -> nn.Module:
    """Smooth convolutions with norms and dropout."""
    return trained(convolutions)


def ensemble() -> nn.Module:
    """Three networks of their own, the mean of their probabilities."""
    return Mean(*(trained(relu_convolutions, epochs=8, seed=seed) for seed in range(3)))


def interval() -> nn.Module:
    """Trained on interval bounds, dead units and flat regions included."""
    return trained(dense, interval_loss, epochs=40)


def linear() -> nn.Module:
    """Convex."""
    return trained(affine, epochs=20, lr=2e-2)


def shifts() -> nn.Module:
    """The mean over shifted views, in training and at test time."""
    return trained(shifted, epochs=8)


def blur() -> nn.Module:
    """A harmless filter in front and log-probabilities behind."""
    return trained(blurred)


def slopes() -> nn.Module:
    """Takes a gradient inside forward, and lets gradients of it pass."""
    return trained(Slopes)


def undefended() -> nn.Module:
    """Smooth, dense and not robust at all."""
    return trained(smooth_dense, plain, epochs=10)


def odd_or_even() -> str:
    """Digits with two classes, as a file."""
    file = KEPT / "odd_or_even.npz"
    if not file.is_file():
        parts = {split: load("digits", split) for split in ("train", "test")}
        x = {f"x_{split}": part.x.permute(0, 2, 3, 1).numpy() for split, part in parts.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **x, **{f"y_{split}": part.y.numpy() % 2 for split, part in parts.items()})
    return str(file)


def pair_of_classes() -> nn.Module:
    """Two layers with ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2))


def two_classes() -> nn.Module:
    """Two answers, of which one is the other's opposite."""
    return trained(pair_of_classes, gently, epochs=20, dataset=odd_or_even())


NETWORKS: dict[str, Callable[[], str]] = {
    name.__name__: lambda: "digits"
    for name in (mlp, vit, maxout, silu, ensemble, interval, linear, shifts, blur, slopes, undefended)
} | {two_classes.__name__: odd_or_even}
"""Factories, and the data they are for."""
