"""The label alone: an answer without degrees has no gradient."""

import torch.nn.functional as F
from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_hard_label")
class HardLabel(Standard):
    """Natural training; the answer is one constant for the chosen class and 0 for the others."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, after=chosen)


def chosen(logits: Tensor) -> Tensor:
    """10 for the largest, 0 for the rest."""
    return 10.0 * F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
