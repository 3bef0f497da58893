"""The binarization test (Zimmermann et al. 2022): an adversarial example is planted, and the attack has to find one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import Gradient, Meter, Rng, ThreatModel, ask, forward
from bench.diagnose.finding import Inapplicable, Measured, check
from bench.diagnose.probe import Probe
from bench.plugins import get_attack
from bench.statistics import clopper_pearson

ACTIVE = "binarization test"
"""The check's name."""
SAMPLES, INTERIOR, INSIDE = 64, 1000, 0.95
"""Binary problems; points of one class in each, and the share of eps around the image that they fill."""
RANDOM = 100
"""Random points that show whether a problem needs an attack at all."""
RIDGE = 1e-6


class Problem(NamedTuple):
    """A linear read-out of the network's features per sample that tells the planted point from those around the image."""

    weight: Tensor
    """[M, D]."""
    offset: Tensor
    """[M]; beyond it lies the planted point's side."""
    separates: Tensor
    """Whether the read-out exists, bool [M]."""


class Features(nn.Module):
    """What the last linear layer of a network is given, [N, D]; its answers where they are not that layer's."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net = net
        self._kept: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._layer: nn.Module | None = None
        self._hooks = [layer.register_forward_hook(self._keep) for layer in net.modules() if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            logits = ask(net, x)
        if self._kept and torch.equal(self._kept[-1][2].float(), logits):
            self._layer = self._kept[-1][0]

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, D]."""
        self._kept.clear()
        logits = ask(self.net, x)
        given = next((given for layer, given, _ in reversed(self._kept) if layer is self._layer), logits)
        return given.flatten(1)

    def release(self) -> None:
        """Leave the network as it was found."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self._kept.append((layer, given[0], made))


class Heads(Gradient):
    """A gradient view of the features through each sample's own read-out, as two logits."""

    def __init__(self, features: nn.Module, meter: Meter, problem: Problem) -> None:
        super().__init__(features, meter)
        self._problem = problem

    def _read(self, answers: Tensor) -> Tensor:
        score = (answers * self._problem.weight[self._index]).sum(1) - self._problem.offset[self._index]
        return torch.stack([-score, score], 1)


@check(
    ACTIVE, (0.05, 0.3), repeatable=True, share=False,
    fine="the attacks solve {solved} of {posed} planted problems",
    wrong="the attacks miss {missed} of {posed} planted adversarial examples: they are too weak for this network; attack "
    "something smoother, or give them more steps",
)  # fmt: skip
def binarization(probe: Probe) -> Measured:
    """The share of planted problems that the gradient attacks miss, as far as it is certain."""
    x, rng = probe.x[:SAMPLES], probe.rng[torch.arange(min(SAMPLES, len(probe.y)), device=probe.y.device)]
    features = Features(probe.net, x)
    planted = probe.threat.random_start(x, rng.at("planted"), corner=True)
    problem = _fit(features, x, planted, probe)
    side = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    solved, lucky = (torch.zeros_like(side, dtype=torch.bool) for _ in range(2))
    for step, loss in ((1.0, "margin"), (0.1, "margin"), (2.0, "ce")):
        pgd, view = get_attack("pgd"), Heads(features, Meter(len(x), x.device), problem)
        chosen = pgd.configure({"steps": 100, "step": step, "loss": loss, "decay": "cosine"})
        z = pgd.run(view, x, side, probe.threat, rng.at("solve", loss, str(step)), **chosen)
        solved |= (view.logits(z).argmax(1) == 1) & probe.threat.contains(z, x)
    for draw in range(RANDOM):
        view = Heads(features, Meter(len(x), x.device), problem)
        lucky |= view.logits(probe.threat.random_start(x, rng.at("luck", draw))).argmax(1) == 1
    features.release()
    posed = problem.separates & ~lucky
    missed, count = int((posed & ~solved).sum()), int(posed.sum())
    if count < 10:
        raise Inapplicable(f"only {count} of {len(x)} problems can be posed and are not solved by chance")
    # Of few problems a few may be missed by chance: what counts is the share that is certain.
    sure, _ = clopper_pearson(missed, count)
    return Measured(sure, {"solved": count - missed, "missed": missed, "posed": count})


@torch.no_grad()
def _fit(features: nn.Module, x: Tensor, planted: Tensor, probe: Probe) -> Problem:
    """Fisher's discriminant of the planted point against points around the image, the threshold half-way between."""
    threat = ThreatModel(probe.threat.norm, probe.threat.eps * 95 / 100)
    weights, offsets, separates = [], [], []
    rng = probe.rng
    for row in range(len(x)):
        points = x[row : row + 1].expand(INTERIOR - 1, *x.shape[1:])
        noise = rng[torch.full((INTERIOR - 1,), row, device=x.device)]
        draws = Rng(noise.seed, noise.ids * INTERIOR + torch.arange(INTERIOR - 1, device=x.device), noise.stream)
        cloud = torch.cat([x[row : row + 1], threat.random_start(points, draws.at("interior")), planted[row : row + 1]])
        found = torch.cat([forward(features, part) for part in cloud.split(probe.batch_size)]).double()
        inner, outer = found[:-1], found[-1]
        middle = inner.mean(0)
        spread = (inner - middle).T @ (inner - middle) / len(inner)
        ridge = RIDGE * spread.diagonal().mean().clamp_min(1e-30) * torch.eye(len(middle), dtype=spread.dtype, device=x.device)
        weight = torch.linalg.solve(spread + ridge, outer - middle)
        scores = inner @ weight
        reach, far = scores.max(), outer @ weight
        scale = (far - scores.mean()).abs().clamp_min(1e-30)
        weights.append(weight / scale)
        offsets.append((reach + far) / 2 / scale)
        separates.append(far > reach)
    return Problem(torch.stack(weights).float(), torch.stack(offsets).float(), torch.stack(separates))
