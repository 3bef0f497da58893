"""What most of them are: a network, with something before it or after it, and what they have in common."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.defense import Context, Dataset, isolated
from bench.defenses.pgd_at import PGDTraining
from bench.defenses.standard import Standard

Step = Callable[[Tensor], Tensor]
_SHORT = {"steps": 5, "step": 0.4, "epochs": 12}


def unchanged(x: Tensor) -> Tensor:
    """X itself."""
    return x


class Around(nn.Module):
    """A network on what `before` makes of the images, [N, C, H, W]; `after` makes the answer of its logits, [N, K]."""

    def __init__(self, net: nn.Module, before: Step = unchanged, after: Step = unchanged) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self.after(self.net(self.before(x)))


class TrainedAround(Standard):
    """Natural training on what `before` makes of the images, which stands before the network at test time too."""

    def before(self, x: Tensor) -> Tensor:
        """What the network is shown, [N, C, H, W]."""
        raise NotImplementedError

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(self.before(x)), y)

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=self.before)


class TrainedRobustly(PGDTraining):
    """A short PGD training: what is masked then has a robust accuracy of its own, and a wrong number looks plausible."""

    # At MNIST's 0.3 the whole budget leaves it at one answer, as with mart.
    presets = {"default": _SHORT, "mnist": _SHORT | {"eps_schedule": "linear:0,2"}}

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network with what masks it."""
        raise NotImplementedError


def another(net: nn.Module, train: Dataset, seed: int, *, epochs: int = 8, images: int = 2000) -> nn.Module:
    """A network of the same architecture from another start, trained naturally for a short while."""
    fresh = copy.deepcopy(net).train().requires_grad_(True)
    with isolated(seed), torch.enable_grad():
        for part in fresh.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        taught(fresh, lambda x, y: F.cross_entropy(fresh(x), y), train, epochs, images)
    return fresh


def taught(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], train: Dataset, epochs: int, images: int) -> None:
    """Minimise a loss of images and labels by Adam, on the first so many training images."""
    x, y = train.batch(torch.arange(min(len(train), images)))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss(x[rows], y[rows]).backward()
            optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)
