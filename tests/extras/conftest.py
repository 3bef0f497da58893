"""What the tests of the libraries of attacks share: a small network, and what each of their attacks owes the harness."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.plugins.registry import get_attack

EPS = {"linf": "0.02", "l2": "0.5", "l1": "4"}
SMALL: dict[str, Any] = {
    "steps": 12, "n_queries": 60, "max_iterations": 12, "num_iter_set": 5, "binary_search_steps": 3, "repeats": 12,
    "directions": 12, "initial_gradient_eval_steps": 10, "max_gradient_eval_steps": 50, "nb_sample": 16,
}  # fmt: skip
"""Budgets for those parameters that an attack has."""


class Trial:
    """An untrained network with five classes, and images that it classifies as it does."""

    def __init__(self) -> None:
        with isolated(0, "trial"):
            body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(512, 5))
            self.x = torch.rand(10, 3, 16, 16)
        self.net = body.eval()
        with torch.no_grad():
            body[-1].bias -= self.net(self.x).mean(0)
            self.y = self.net(self.x).argmax(1)

    def attack(self, name: str, norm: str, seed: int = 0, eps: str = "", **settings: Any) -> tuple[Tensor, Meter]:
        """Candidates of the attack of this name, with what they cost."""
        attack, meter = get_attack(name), Meter(len(self.x), self.x.device)
        rng = Rng(seed, torch.arange(len(self.x)))
        threat = ThreatModel.parse(norm, eps or EPS[norm])
        return attack.run(
            VIEWS[attack.access](self.net, meter), self.x, self.y, threat, rng, **attack.configure(settings)
        ), meter

    def broken(self, z: Tensor) -> int:
        """How many candidates are misclassified."""
        return int((self.net(z).argmax(1) != self.y).sum())


@pytest.fixture
def trial() -> Trial:
    return Trial()


@pytest.fixture
def keeps_the_contract(trial: Trial) -> Callable[[str, str], None]:
    """Legal candidates, the same twice, in two batches, and nothing outside touched."""

    def check(name: str, norm: str) -> None:
        attack = get_attack(name)
        assert attack.name == name
        assert attack.about
        settings = {key: value for key, value in SMALL.items() if key in attack.parameters}
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        runs = [trial.attack(name, norm, batch_size=6, **settings) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert (np.random.get_state()[1] == before[2]).all()
        (z, meter), (again, _) = runs
        assert torch.equal(z, again)
        assert z.dtype == trial.x.dtype
        assert ThreatModel.parse(norm, EPS[norm]).contains(z, trial.x).all()
        assert meter.forwards.min() >= 1
        assert not any(module.training for module in trial.net.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in trial.net.parameters())
        assert torch.equal(trial.attack(name, norm, eps="0", **settings)[0], trial.x)

    return check
