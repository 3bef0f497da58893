"""Randomised smoothing (Cohen, Rosenfeld, Kolter 2019): a network that votes on noisy copies, and what votes prove in l2."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.special import ndtri
from scipy.stats import beta, binomtest
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.core import Rng

ROWS = 4096
"""Noisy copies that pass the network at once."""
BLOCK = 128
"""Noisy copies of one image that are drawn together; another number is other noise."""


class Smoothed(nn.Module):
    """The mean softmax of a network over copies of the images with Gaussian noise; its logarithm [N, K] serves as logits.

    The noise is fixed, the same for every image: the answer is a function of the image, and an attack sees its whole gradient.
    """

    def __init__(self, net: nn.Module, sigma: float, draws: int, seed: int = 0) -> None:
        """sigma: the noise's standard deviation, in input units."""
        super().__init__()
        self.net, self.sigma, self.draws, self.seed = net, sigma, draws, seed

    def forward(self, x: Tensor) -> Tensor:
        """The log of the mean softmax, [N, K]."""
        rng = Rng(self.seed, torch.arange(self.draws, device=x.device)).at("smoothing")
        parts = (self.sigma * rng.normal(x.shape[1:])).to(x.dtype).split(max(ROWS // max(len(x), 1), 1))
        if len(parts) == 1:
            answers = [self._answers(x, parts[0])]
        else:  # the copies of a whole batch do not fit into memory with all that their gradient takes
            answers = [checkpoint(self._answers, x, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(answers).logsumexp(0) - math.log(self.draws)

    def _answers(self, x: Tensor, noise: Tensor) -> Tensor:
        """Log-probabilities [draws, N, K]."""
        logits: Tensor = self.net((x + noise[:, None]).flatten(0, 1))
        return logits.log_softmax(1).view(len(noise), len(x), -1)

    @torch.no_grad()
    def votes(self, x: Tensor, n: int, rng: Rng) -> Tensor:
        """How many of n noisy copies of each image the network puts into each class, int64 [N, K]."""
        return torch.cat([self._votes(x[index], n, rng[index]) for index in torch.arange(len(x)).split(max(ROWS // BLOCK, 1))])

    def _votes(self, x: Tensor, n: int, rng: Rng) -> Tensor:
        counts = torch.zeros((), dtype=torch.int64, device=x.device)
        for start in range(0, n, BLOCK):
            noise = self.sigma * rng.at("block", start).normal((min(BLOCK, n - start), *x.shape[1:]))
            logits = self.net((x[:, None] + noise).flatten(0, 1))
            chosen = F.one_hot(logits.argmax(1), logits.shape[1])
            counts = counts + chosen.view(len(x), noise.shape[1], -1).sum(1)
        return counts

    def certify(self, x: Tensor, rng: Rng, *, selection: int, n: int, alpha: float) -> tuple[Tensor, Tensor]:
        """Cohen's CERTIFY: labels [N] and, float64, the l2 radii in which the vote is certain, -1 where it abstains.

        Of ideal Gaussian noise, each is true with probability 1 - alpha. selection: copies that choose the label; n: others
        that bound its probability.
        """
        labels = self.votes(x, selection, rng.at("selection")).argmax(1)
        held = self.votes(x, n, rng.at("estimation")).gather(1, labels[:, None])[:, 0]
        return labels, proved_radii(held, n, self.sigma, alpha).to(x.device)

    def predict(self, x: Tensor, rng: Rng, *, n: int, alpha: float) -> Tensor:
        """Cohen's PREDICT: the labels [N] that win the vote, wrong with probability alpha; -1 where it is too close."""
        top, labels = self.votes(x, n, rng.at("prediction")).topk(2)
        sure = [binomtest(first, first + second).pvalue <= alpha for first, second in top.tolist()]
        return torch.where(torch.tensor(sure, device=x.device), labels[:, 0], -1)


def proved_radii(held: Tensor, n: int, sigma: float, alpha: float) -> Tensor:
    """The l2 radii that votes prove, float64 on the CPU, of which `held` [N] of n were for the label; -1 where none."""
    lowest = lower_bound(held, n, alpha)
    return torch.where(lowest > 0.5, sigma * torch.from_numpy(ndtri(lowest.numpy())), -1.0)


def lower_bound(successes: Tensor, n: int, alpha: float) -> Tensor:
    """What a probability is at least, with confidence 1 - alpha (Clopper & Pearson, one-sided); float64 [N] on the CPU."""
    held = successes.cpu().double()
    bound = torch.from_numpy(beta.ppf(alpha, held.clamp_min(1).numpy(), (n - held + 1).numpy()))
    return torch.where(held > 0, bound, 0.0)
