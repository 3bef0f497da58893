"""On a linear model the strongest perturbation has a closed form; every attack has to find it."""

from typing import NamedTuple

import pytest
import torch
from scipy.stats import beta
from torch import Tensor, nn

from bench.core.losses import margin
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import VIEWS, Meter
from bench.plugins.registry import get_attack

SIDE = 4
EPS = {"linf": "0.02", "l2": "0.05", "l1": "0.1"}
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
SQUARE_QUERIES = 1500
EXACT = [
    ("fgsm", "linf", {}),
    ("fgsm", "l2", {}),
    ("fgsm", "l1", {}),
    *[("pgd", norm, {"loss": loss}) for norm in ("linf", "l2", "l1") for loss in ("ce", "margin", "dlr", "pm")],
    *[("pgd", norm, {"start": start}) for norm in ("linf", "l2", "l1") for start in ("corner", "clean", "known")],
    *[("pgd", norm, {"step": 1.0, "decay": decay}) for norm in ("linf", "l2", "l1") for decay in ("cosine", "halving")],
    *[("pgd", norm, {"momentum": 1.0}) for norm in ("linf", "l2", "l1")],
    ("simba", "linf", {"queries": 2 * SIDE**2 + 1}),
    ("square", "linf", {"queries": SQUARE_QUERIES}),
]


def _linear(classes: int, side: int) -> "Contest":
    generator = torch.Generator().manual_seed(classes)
    pair = torch.randn(2, side**2, generator=generator)
    linear = nn.Linear(side**2, classes)
    x = 0.4 + 0.2 * torch.rand(24, 1, side, side, generator=generator)
    with torch.no_grad():
        linear.weight.copy_(pair.mean(0))
        linear.weight[:2] = pair
        scores = x.flatten(1) @ linear.weight.T
        linear.bias.copy_(-scores.median(0).values)
        linear.bias[2:] -= 5
        y = linear(x.flatten(1)).argmax(1)
    return Contest(nn.Sequential(nn.Flatten(), linear), x, y, pair[0] - pair[1])


class Contest(NamedTuple):
    """A linear model in which two classes compete and the others, midway between them, stay 5 below.

    The gradient of every loss is then parallel to the difference of the two weights.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    difference: Tensor

    def optimum(self, threat: ThreatModel) -> Tensor:
        """The largest margin in the ball, [N]; the box plays no part, for the images stay away from it."""
        with torch.no_grad():
            clean = margin(self.net(self.x), self.y)
        return clean + threat.radius * self.difference.norm(DUAL[threat.norm])

    def attacked(self, name: str, threat: ThreatModel, settings: dict[str, object]) -> Tensor:
        attack = get_attack(name)
        view = VIEWS[attack.access](self.net, Meter(len(self.x), self.x.device))
        z = attack.run(view, self.x, self.y, threat, Rng(0, torch.arange(len(self.x))), **attack.configure(settings))
        assert threat.contains(z, self.x).all()
        with torch.no_grad():
            return margin(self.net(z), self.y)


@pytest.mark.parametrize(("name", "norm", "settings"), EXACT, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_attack_reaches_the_optimum(classes: int, name: str, norm: str, settings: dict[str, object]) -> None:
    if settings.get("loss") == "dlr" and classes == 2:
        pytest.skip("the DLR does not exist for 2 classes")
    contest = _linear(classes, SIDE)
    threat = ThreatModel.parse(norm, EPS[norm])
    best, reached = contest.optimum(threat), contest.attacked(name, threat, settings)
    held, clear = best < 0, best.abs() > 1e-4
    assert 0 < held.sum() < len(held)
    assert torch.equal((reached < 0)[clear], held[clear])
    torch.testing.assert_close(reached[held], best[held], atol=1e-4, rtol=0)


@pytest.mark.parametrize("classes", [2, 10])
def test_square_in_l2_beats_as_many_random_directions(classes: int) -> None:
    """Its l2 windows are never below 3x3, so on weights that are noise it stays short of the optimum.

    What a search by windows owes is more than the best of as many uniformly random directions; half of all such draws
    reach at most the cosine below. (1 + cosine) / 2 of a random direction in d dimensions is Beta((d - 1) / 2, same).
    """
    contest, threat, queries = _linear(classes, 2 * SIDE), ThreatModel.parse("l2", EPS["l2"]), 500
    half = (contest.x[0].numel() - 1) / 2
    cosine = 2 * beta.ppf(0.5 ** (1 / queries), half, half) - 1
    best, reached = contest.optimum(threat), contest.attacked("square", threat, {"queries": queries})
    owed = best - (1 - cosine) * threat.radius * contest.difference.norm()
    held = reached < 0
    assert held[best < 0].all()
    assert (reached[held] <= best[held] + 1e-4).all()
    assert (reached[held] >= owed[held]).all()
    assert not held[owed > 0].any()
