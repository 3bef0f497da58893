"""Quick accuracies on held-out training images: what selects an epoch, and what shows a collapse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.core import VIEWS, Judge, Meter, Rng, ThreatModel
from bench.data import Dataset
from bench.plugins import get_attack

_RUNS: dict[str, tuple[str, dict[str, Any]]] = {"fgsm": ("fgsm", {}), "pgd": ("pgd", {"steps": 10})}


def validate(net: nn.Module, samples: Dataset, threat: ThreatModel) -> dict[str, float]:
    """Accuracy clean, under FGSM and under PGD-10 at the target budget, whatever budget the schedule is at.

    The noise is the same in every epoch and for every training seed, so epochs differ by their weights alone.
    """
    judge = Judge(net, threat)
    correct: dict[str, list[Tensor]] = {name: [] for name in ("clean", *_RUNS)}
    for index in torch.arange(len(samples)).split(250):
        x, y = samples.batch(index)
        clean = judge.correct(x, y)[0]
        correct["clean"].append(clean)
        for name, (attack_name, parameters) in _RUNS.items():
            attack = get_attack(attack_name)
            view = VIEWS[attack.access](net, Meter(len(index), x.device))
            rng = Rng(0, samples.ids[index.to(x.device)]).at("validation", name)
            z = attack.run(view, x, y, threat, rng, **attack.configure(parameters))
            correct[name].append(judge.correct(z, y)[0] & clean)
    return {name: float(torch.cat(flags).float().mean()) for name, flags in correct.items()}
