"""All that an attack imports: `from bench.attack import Gradient, Live, Rng, ThreatModel, attack`.

An attack is a function `(view, x, y, threat, rng, *, parameters) -> z`: x [N, C, H, W] in [0, 1], y [N], z the candidates.
`gauntlet new attack NAME` writes one to start from, `gauntlet doctor NAME` checks it.
"""

from bench.core.hyperplane import smallest_move
from bench.core.iterates import Closest, Live
from bench.core.losses import (
    LOSSES,
    TARGETED,
    Loss,
    cross_entropy,
    cross_entropy_targeted,
    dlr,
    dlr_targeted,
    margin,
    margin_targeted,
    probability_margin,
    raw_cross_entropy,
)
from bench.core.rng import Rng, isolated
from bench.core.surrogate import TRANSFER_PGD, Surrogate
from bench.core.targets import Order, wrong_classes
from bench.core.threat import Norm, ThreatModel, unit
from bench.core.views import Ascent, Decision, Gradient, Meter, Module, Score
from bench.errors import AttackWarning, BadInput
from bench.plugins.registry import attack

__all__ = [
    "LOSSES", "TARGETED", "TRANSFER_PGD", "Ascent", "AttackWarning", "BadInput", "Closest", "Decision", "Gradient", "Live",
    "Loss", "Meter", "Module", "Norm", "Order", "Rng", "Score", "Surrogate", "ThreatModel", "attack", "cross_entropy",
    "cross_entropy_targeted", "dlr", "dlr_targeted", "isolated", "margin", "margin_targeted", "probability_margin",
    "raw_cross_entropy", "smallest_move", "unit", "wrong_classes",
]  # fmt: skip
