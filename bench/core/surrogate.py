"""A network that is attacked in another's place: its examples are tried on networks that it has never seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.core.losses import Loss
from bench.core.views import Ascent, Gradient

TRANSFER_PGD: Mapping[str, Any] = {"steps": 40, "step": 1.0, "decay": "cosine", "loss": "margin"}
"""Parameters of the PGD that makes the examples."""


class Surrogate(Gradient):
    """A view that never lets on that a sample has fallen, so that an attack climbs to its last step and keeps its best.

    Attacks stop at the first success, and what has only just crossed the boundary of one network seldom crosses another's.
    """

    def grad(self, z: Tensor, loss: Loss, y: Tensor) -> Ascent:
        """Loss and gradient as they are; among the logits the true class always leads."""
        ascent = super().grad(z, loss, y)
        return ascent._replace(logits=ascent.logits.scatter(1, y[:, None], torch.inf))
