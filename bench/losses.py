"""What a gradient attack climbs: per-sample losses of the logits, larger meaning closer to a wrong label.

Each takes logits [N, K] and labels [N] and returns [N].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import BadInput

Loss = Callable[[Tensor, Tensor], Tensor]
_SATURATION = 10.0
"""A lead over the runner-up beyond which float32 cross-entropy starts to lose its gradient (it is gone at about 17)."""


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The best wrong logit minus the true one; positive exactly when the sample is misclassified."""
    true = logits.gather(1, y[:, None])
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - true.squeeze(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, with the logits of confident samples scaled down so that float32 cannot hide the gradient.

    Multiplying a model's logits by 100 would otherwise pass for robustness.
    """
    lead = -margin(logits.detach(), y)
    scale = (_SATURATION / lead.clamp_min(_SATURATION)).unsqueeze(1)
    return F.cross_entropy(logits * scale, y, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, section 4): blind to shifts and positive scales; needs 3 classes."""
    if logits.shape[1] < 3:
        raise BadInput(f"the loss dlr needs at least 3 classes, this model has {logits.shape[1]}; use ce or margin")
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2]).clamp_min(1e-12)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The ratio towards one wrong class per sample (Croce & Hein 2020, section 4.2); needs 4 classes."""
    if logits.shape[1] < 4:
        raise BadInput(f"the targeted dlr needs at least 4 classes, this model has {logits.shape[1]}; use ce or margin")
    ordered = logits.sort(dim=1, descending=True).values
    lead = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return lead / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2).clamp_min(1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
