"""All that a defense imports: `from bench.defense import Defense, adversarial_step, defense`.

A defense is a subclass of `Defense` whose fields are hyper-parameters; `loss` is its only required method.
`gauntlet new defense NAME` writes one to start from, `gauntlet doctor NAME` checks it.
"""

from bench.core.losses import cross_entropy, margin, margin_targeted
from bench.core.rng import Rng, isolated
from bench.core.threat import Norm, ThreatModel
from bench.data.datasets import Dataset
from bench.errors import BadInput
from bench.plugins.contract import Context, Defense, InputGradient, TrainedNet, adversarial_step, projected_step
from bench.plugins.named_files import DataFile, WeightsFile
from bench.plugins.registry import defense
from bench.plugins.schedules import rising_budget

__all__ = [
    "BadInput", "Context", "DataFile", "Dataset", "Defense", "InputGradient", "Norm", "Rng", "ThreatModel", "TrainedNet",
    "WeightsFile", "adversarial_step", "cross_entropy", "defense", "isolated", "margin", "margin_targeted", "projected_step",
    "rising_budget",
]  # fmt: skip
