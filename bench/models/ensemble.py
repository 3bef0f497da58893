"""Snapshots of one training that answer together (Liu et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.errors import BadInput


class SnapshotEnsemble(nn.Module):
    """Networks that answer together: log-probabilities [N, K] of the mean of their softmax, which serve as logits."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not self.members:
            raise BadInput("an ensemble without members; give at least one network")

    def forward(self, x: Tensor) -> Tensor:
        """The log of the mean softmax, [N, K]."""
        log_probabilities = torch.stack([member(x).log_softmax(1) for member in self.members])
        return log_probabilities.logsumexp(0) - math.log(len(self.members))
