"""Error-correcting output codes (Verma, Swami, NeurIPS 2019): classes are words of bits, and the nearest word is the answer.

Bits are squashed by a steep function and correlations with words clipped at 0, which leaves gradients of little use. Tramer,
Carlini, Brendel, Madry 2020 attack the bits before they are squashed.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Dataset, defense, isolated

from .around import TrainedRobustly, taught


@defense("broken_output_codes")
class OutputCodes(TrainedRobustly):
    """PGD training; linear read-outs of its logits are trained to be bits of the class's word, and decoded at test time."""

    bits: Annotated[int, Field(ge=4)] = 32
    """In a word."""
    steepness: Annotated[float, Field(gt=0)] = 8.0
    """Of the function that squashes a bit."""

    paper = "Verma, Swami 2019"

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        with isolated(0), torch.enable_grad():
            coded = Coded(net, train.classes, self.bits, self.steepness)
            taught(coded.read, lambda x, y: F.mse_loss(coded.read(net(x)).tanh(), coded.words[y]), train, 15, 2000)
        return coded

    def wrap(self, net: nn.Module) -> nn.Module:
        return net


class Coded(nn.Module):
    """A network, what makes bits of its logits, and the words."""

    words: Tensor

    def __init__(self, net: nn.Module, classes: int, bits: int, steepness: float) -> None:
        super().__init__()
        self.net, self.steepness = net, steepness
        self.read = nn.Sequential(nn.Linear(classes, 64), nn.ReLU(), nn.Linear(64, bits))
        self.register_buffer("words", torch.where(torch.rand(classes, bits) < 0.5, -1.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [N, K]: the correlation with each word, not below 0, over the sum."""
        bits = (self.steepness * self.read(self.net(x))).tanh()
        likeness = (bits @ self.words.T).clamp_min(0) + 1e-4
        answer: Tensor = (likeness / likeness.sum(1, keepdim=True)).log()
        return answer
