"""FGSM-PGI with prior-guided knowledge, FGSM-PGK (Jia, Zhang, Wei, Wu, Ma, Wang, Cao, TPAMI 2024, arXiv 2304.00202).

Whether a step fooled the network, q = right answers after it / right answers before it on the batch, sets how much its gradient
adds to the momentum and how fast the average of the weights follows. The formulas are those of the authors' CIFAR-10 script;
where no answer was right before the step, we divide by 1. Their CIFAR-100 script divides by one more than the right answers and
moves the average only where q is at least the threshold; we do neither. The confidence between two classes is our own.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.defense import Context, defense

from .fgsm_pgi import PriorGuided

_AVERAGE = {"ema": 0.999, "ema_buffers": True}


@defense("fgsm_pgk")
class PriorKnowledge(PriorGuided):
    """FGSM-MEP whose momentum and weight average listen to how well the step worked."""

    prior: Literal["momentum"] = "momentum"
    penalty: Annotated[float, Field(ge=0)] = 5.6
    confidence: Annotated[float, Field(ge=0.5, le=1)] | None = None
    reset: Annotated[int, Field(ge=1)] = 10
    threshold: Annotated[float, Field(gt=0)] = 0.82
    """The q from which on the average (almost) stands still; its decay is that of `ema` below."""

    paper = "Jia et al. 2024"
    presets = {
        # Our own, but for the average.
        "default": _AVERAGE,
        "cifar": {**PriorGuided.presets["cifar"], **_AVERAGE},
        "cifar100": {
            **PriorGuided.presets["cifar"], **_AVERAGE,
            "penalty": 1.0, "decay": 0.1, "confidence": 0.8, "reset": 40, "threshold": 0.9,
        },
    }  # fmt: skip

    def share(self, before: Tensor, after: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """2 - q; also sets the decay of the average."""
        right = (before.argmax(1) == y).sum().clamp_min(1)
        quality = (after.argmax(1) == y).sum() / right
        slow = (0.99999 * quality / self.threshold).clamp_max(1)
        if ctx.ema_decay is not None:
            ctx.ema_decay = torch.where(quality < self.threshold, ctx.ema_decay, slow)
        return 2 - quality
