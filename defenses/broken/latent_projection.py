"""Projection onto what a decoder can draw (Defense-GAN; Samangouei, Kabkab, Chellappa, ICLR 2018).

The code begins where an encoder puts it (as in Bao, Liang, Wang 2018) and is improved by gradient steps, which no gradient of
the whole passes. Athalye, Carlini, Wagner 2018 attack Defense-GAN through the decoder and with the projection as the identity
in the backward pass.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Dataset, defense, isolated

from .around import TrainedRobustly, taught

HIDDEN = 128


@defense("broken_latent_projection")
class LatentProjection(TrainedRobustly):
    """PGD training; at test time the network is shown the nearest image that a small decoder finds."""

    size: Annotated[int, Field(ge=1)] = 24
    """Numbers in a code."""
    moves: Annotated[int, Field(ge=0)] = 20
    """Gradient steps on the code inside a forward pass."""
    rate: Annotated[float, Field(gt=0)] = 2.0
    """Of these steps, on the squared distance of the mean pixel."""

    paper = "Samangouei et al. 2018"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        with isolated(0), torch.enable_grad():
            drawn = Projection(train.shape, self.size, self.moves, self.rate)
            taught(drawn, lambda x, _: F.mse_loss(drawn.draw(drawn.encoder(x + 0.1 * torch.randn_like(x))), x), train, 60, 2000)
        return nn.Sequential(drawn, net)

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


class Projection(nn.Module):
    """Images [N, C, H, W] to the nearest ones that the decoder draws."""

    def __init__(self, shape: tuple[int, ...], size: int, moves: int, rate: float) -> None:
        super().__init__()
        self.shape, self.moves, self.rate = shape, moves, rate
        pixels = torch.Size(shape).numel()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size))
        self.decoder = nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, pixels), nn.Sigmoid())

    def draw(self, code: Tensor) -> Tensor:
        """The image of a code."""
        image: Tensor = self.decoder(code)
        return image.view(-1, *self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """What is drawn once the code has been improved; as in the source, no gradient passes the search for it."""
        return self.draw(self.improved(self.encoder(x), x.detach()))

    @torch.enable_grad()
    def improved(self, code: Tensor, x: Tensor) -> Tensor:
        """The code after its gradient steps, a constant."""
        for _ in range(self.moves):
            code = code.detach().requires_grad_()
            away = (self.draw(code) - x).square().flatten(1).mean(1).sum()
            code = code - self.rate * torch.autograd.grad(away, code)[0]
        return code.detach()
