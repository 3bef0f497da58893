"""Purification by a score (adaptive denoising; Yoon, Hwang, Lee, ICML 2021): gradient steps towards likelier images.

A small network learns the direction from noisy to clean images; the steps along it are cut off from the graph here, as where
they run without one. Croce et al. 2022 take the steps as the identity in the backward pass, or differentiate them.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Dataset, defense, isolated

from .around import TrainedRobustly, taught


@defense("broken_purification")
class Purification(TrainedRobustly):
    """PGD training; at test time images follow a learned score for some steps, from a sharpened copy of themselves."""

    moves: Annotated[int, Field(ge=1)] = 8
    """Along the score."""
    sigma: Annotated[float, Field(gt=0)] = 0.2
    """Of the noise that the score was learned with, in input units."""

    paper = "Yoon et al. 2021"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        with isolated(0), torch.enable_grad():
            score = Score(train.shape)
            taught(score, lambda x, _: self.matched(score, x), train, 40, 2000)
        return nn.Sequential(Purifier(score, self.moves), net)

    def matched(self, score: nn.Module, x: Tensor) -> Tensor:
        """How far the score is from pointing back to the clean image."""
        noise = self.sigma * torch.randn_like(x)
        distance: Tensor = (score(x + noise) + noise).square().mean()
        return distance

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


class Score(nn.Module):
    """Images to what should be added to them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        pixels = torch.Size(shape).numel()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 192), nn.SiLU(), nn.Linear(192, pixels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W]."""
        move: Tensor = self.body(x)
        return move.view_as(x)


class Purifier(nn.Module):
    """Images to images."""

    def __init__(self, score: nn.Module, moves: int) -> None:
        super().__init__()
        self.score, self.moves = score, moves

    def forward(self, x: Tensor) -> Tensor:
        """Where a number of steps lead; the first one alone is in the graph."""
        z = (x + 0.5 * self.score(x)).clamp(0, 1)
        with torch.no_grad():
            end = z
            for _ in range(self.moves):
                end = (end + 0.5 * self.score(end)).clamp(0, 1)
        purified: Tensor = z + (end - z).detach()
        return purified
