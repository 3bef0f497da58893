"""What a gradient attack climbs: per-sample losses of the logits, larger meaning closer to a wrong label.

Each takes logits [N, K] and labels [N] and returns [N].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import BadInput

Loss = Callable[[Tensor, Tensor], Tensor]
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits [N, K], labels [N] and the wrong classes [N] to end at."""
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
    return F.cross_entropy(_desaturated(logits, y), y, reduction="none")


def raw_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy as it stands, whose gradient float32 loses on confident samples; for telling whom that deceives."""
    return F.cross_entropy(logits, y, reduction="none")


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The best wrong probability minus the true one (Xie et al. 2025), with confident logits scaled as for cross-entropy."""
    return margin(_desaturated(logits, y).softmax(1), y)


def _desaturated(logits: Tensor, y: Tensor) -> Tensor:
    lead = -margin(logits.detach(), y)
    return logits * (_SATURATION / lead.clamp_min(_SATURATION)).unsqueeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, section 4): blind to shifts and positive scales; needs 3 classes."""
    if logits.shape[1] < 3:
        raise BadInput(f"the loss dlr needs at least 3 classes, this model has {logits.shape[1]}; use ce or margin")
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2]).clamp_min(1e-12)


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of one wrong class per sample minus the true one (Gowal et al. 2019)."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def cross_entropy_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
    """The log-probability of one wrong class per sample. Its gradient vanishes only once that class has won."""
    return -F.cross_entropy(logits, target, reduction="none")


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The ratio towards one wrong class per sample (Croce & Hein 2020, section 4.2); needs 4 classes."""
    if logits.shape[1] < 4:
        raise BadInput(f"the targeted dlr needs at least 4 classes, this model has {logits.shape[1]}; use ce or margin")
    ordered = logits.sort(dim=1, descending=True).values
    return margin_targeted(logits, y, target) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2).clamp_min(1e-12)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy, "raw-ce": raw_cross_entropy, "margin": margin, "dlr": dlr, "pm": probability_margin,
}  # fmt: skip
TARGETED: dict[str, TargetedLoss] = {"ce": cross_entropy_targeted, "margin": margin_targeted, "dlr": dlr_targeted}
