"""The binarization test (Zimmermann et al. 2022): an example is planted, and the evaluation's own attack has to find one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import Gradient, Meter, Rng, ThreatModel, ask, forward, isolated
from bench.diagnose.finding import Inapplicable, Measured, check
from bench.diagnose.planned import Planned, gradient_attacks
from bench.diagnose.probe import Probe
from bench.errors import AttackWarning, BadInput
from bench.plugins import get_attack
from bench.statistics import clopper_pearson

ACTIVE = "binarization test"
"""The check's name."""
SAMPLES, INTERIOR, INSIDE = 64, 1000, 0.95
"""Binary problems; points of one class in each, and the share of eps around the image that they fill."""
RANDOM = 100
"""Random points that show whether a problem needs an attack at all."""
RIDGE = 1e-6
OURS = tuple(
    Planned(f"{loss} {step}", "pgd", {"steps": 100, "step": step, "loss": loss, "decay": "cosine"})
    for step, loss in ((1.0, "margin"), (0.1, "margin"), (2.0, "ce"))
)
"""What is tested where there is no evaluation."""


class Problem(NamedTuple):
    """A linear read-out of the network's features per sample that tells the planted point from those around the image."""

    weight: Tensor
    """[M, D]."""
    offset: Tensor
    """[M]; beyond it lies the planted point's side."""
    separates: Tensor
    """Whether the read-out exists, bool [M]."""

    def of(self, rows: Tensor) -> Problem:
        """Those of some of the samples."""
        return Problem(*(part[rows] for part in self))


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

    def __init__(self, features: nn.Module, meter: Meter, problem: Problem, known: Tensor | None = None) -> None:
        super().__init__(features, meter, known)
        self._problem = problem

    def _read(self, answers: Tensor) -> Tensor:
        score = (answers * self._problem.weight[self._index]).sum(1) - self._problem.offset[self._index]
        return torch.stack([-score, score], 1)


@check(
    ACTIVE, (0.05, 0.3), repeatable=True, share=False,
    fine="{whose} gradient attacks solve {solved} of {posed} planted problems",
    wrong="{whose} gradient attacks miss {missed} of {posed} planted adversarial examples: they are too weak for this network, "
    "which is less robust than they say; give them more or larger steps, or attack something smoother",
)  # fmt: skip
def binarization(probe: Probe) -> Measured:
    """The share of planted problems that the evaluation's gradient attacks miss, as far as it is certain."""
    attacks = gradient_attacks(probe) if probe.own else OURS
    if not attacks:
        raise Inapplicable("the plan has no gradient attack to plant an example for; add one, such as pgd")
    x, rng = probe.x[:SAMPLES], probe.rng[torch.arange(min(SAMPLES, len(probe.y)), device=probe.y.device)]
    features = Features(probe.net, x)
    planted = probe.threat.random_start(x, rng.at("planted"), corner=True)
    problem = _fit(features, x, planted, probe)
    lucky = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    solved = _solve(Search(probe.threat, x, rng, features, problem), attacks)
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
    whose = "the evaluation's own" if probe.own else "our"
    return Measured(sure, {"solved": count - missed, "missed": missed, "posed": count, "whose": whose})


class Search(NamedTuple):
    """What is attacked: images, and a problem for each."""

    threat: ThreatModel
    x: Tensor
    rng: Rng
    features: nn.Module
    problem: Problem


def _solve(search: Search, attacks: Sequence[Planned]) -> Tensor:
    """Which problems fall to these attacks, one after the other on what is left, bool [M]."""
    threat, x, rng, features, problem = search
    solved, known, ran = torch.zeros_like(problem.separates), x.clone(), False
    reached = torch.full_like(problem.offset, -torch.inf)
    for planned in attacks:
        attack = get_attack(planned.attack)
        for restart in range(planned.restarts):
            rows = (problem.separates & ~solved).nonzero().squeeze(1)
            if not len(rows):
                return solved
            view = Heads(features, Meter(len(rows), x.device), problem.of(rows), known[rows])
            noise, side = rng[rows].at("solve", planned.name, restart), torch.zeros_like(rows)
            try:
                with warnings.catch_warnings(), isolated(rng.seed, planned.name, restart):
                    warnings.simplefilter("ignore", AttackWarning)
                    z = attack.run(view, x[rows], side, threat, noise, **attack.configure(planned.parameters)).detach().float()
            except BadInput:
                # A loss or targets that two classes do not have.
                break
            score, legal = view.logits(z)[:, 1], threat.contains(z, x[rows])
            solved[rows], ran = legal & (score > 0), True
            closer = rows[legal & (score > reached[rows])]
            known[closer], reached[closer] = z[torch.isin(rows, closer)], score[torch.isin(rows, closer)]
    if not ran:
        raise Inapplicable(f"{', '.join(planned.name for planned in attacks)} cannot be shown a problem of two classes")
    return solved


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
