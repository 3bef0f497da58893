"""A network with a memory (after Chen, Carlini, Wagner 2020): who asks about nearly the same image again is an attacker."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

PIXELS = 128
"""About so many of an image are compared."""


@defense("broken_stateful")
class Stateful(Standard):
    """Natural training; an image close to one that was seen before gets the answer which that one got."""

    radius: Annotated[float, Field(gt=0)] = 0.45
    """How far from a seen image, in the largest difference of a pixel, a new one must lie."""
    capacity: Annotated[int, Field(ge=1)] = 2000
    """Images that it remembers; later ones are answered and forgotten."""

    paper = "Chen et al. 2020"

    def wrap(self, net: nn.Module) -> nn.Module:
        return Remembering(net, self.radius, self.capacity)


class Remembering(nn.Module):
    """A network, the images it was asked about and its answers."""

    def __init__(self, net: nn.Module, radius: float, capacity: int) -> None:
        super().__init__()
        self.net, self.radius, self.capacity = net, radius, capacity
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]: remembered where something close was seen, else fresh."""
        pixels, logits = x.detach().flatten(1)[:, :: max(x.shape[1:].numel() // PIXELS, 1)], self.net(x)
        images, answers = self.seen or (pixels[:1], logits.detach()[:1])
        images, answers = images.to(pixels), answers.to(logits)
        distance, nearest = torch.cdist(pixels, images, p=torch.inf).min(1)
        new = distance > self.radius
        free = self.capacity - len(images)
        self.seen = torch.cat([images, pixels[new][:free]]), torch.cat([answers, logits.detach()[new][:free]])
        return torch.where(new[:, None], logits, answers[nearest])
