"""The samples that a diagnosis works on, and what attacks do to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.core import (
    DRAWS,
    VIEWS,
    Expectation,
    Gradient,
    Judge,
    Meter,
    Rng,
    Score,
    ThreatModel,
    adaptations,
    forward,
    isolated,
    shuffled,
)
from bench.data import Dataset
from bench.diagnose.watch import Watch, Watched
from bench.errors import AttackWarning
from bench.plans import Plan
from bench.plugins import get_attack
from bench.results import AttackResult

Kept = TypeVar("Kept")

SIZE, NOISY = 128, 48
"""Correctly classified samples that every check is made on, at most; fewer of a randomised network, each of whose answers is
the mean over many."""
READ = 64
"""Samples that the network is read on."""
BLIND: Mapping[str, tuple[tuple[str, int], ...]] = {
    "linf": (("square", 600), ("rays", 300)),
    "l2": (("square", 600), ("hop_skip_jump", 400)),
    "l1": (),
}
"""Searches that see no gradient, and their queries; none of ours works in l1."""
PLAIN: Mapping[str, Any] = {"steps": 20, "step": 2.5 / 20, "loss": "raw-ce"}
"""PGD-20 as a script has it and a paper reports it: bare cross-entropy, one random start, steps of 2.5 eps / 20."""
FEWEST = 24
"""Samples that every check is made on at least, where there are so many, and that the dearest searches begin with."""


@dataclass
class Probe:
    """Correctly classified samples x [M, C, H, W], y [M] of an evaluation, and the network that is diagnosed."""

    judge: Judge
    """Of the evaluation: its network, its ball, and how often a randomised network is asked."""
    x: Tensor
    y: Tensor
    broken: Tensor
    """Which of them the evaluation has broken, bool [M]."""
    rng: Rng
    batch_size: int = 256
    pool: Dataset | None = None
    """Images that a substitute may learn from."""
    low_precision: nn.Module | None = None
    """The network in a faster precision, for searches."""
    own: Sequence[AttackResult] = ()
    """What the evaluation ran; its own gradient attacks are watched, and are given planted examples to find."""
    plan: Plan | None = None
    """That of the evaluation, which has what the arms of a portfolio are."""
    given: Tensor | None = None
    """The classes that images of the evaluation are answered with, whether right or not, [K]."""
    labels: Tensor | None = None
    """Their labels, [K]."""
    whole: Probe | None = None
    """The probe that this one is a part of, whose attacks need not run again."""
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, compute: Callable[[], Kept]) -> Kept:
        """What `compute` gave when this was first asked for."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]  # type: ignore[no-any-return]

    @property
    def net(self) -> nn.Module:
        """The network that is diagnosed."""
        return self.judge.net

    @property
    def noisy(self) -> bool:
        """Whether the network answers the same images differently."""
        return self.judge.draws > 1

    @property
    def threat(self) -> ThreatModel:
        """Of the evaluation."""
        return self.judge.threat

    @property
    def rows(self) -> int:
        """Samples that go through the network at once."""
        return max(self.batch_size, 16)

    @cached_property
    def seen(self) -> nn.Module:
        """What a fair attacker looks at: of a randomised network, the mean over its answers."""
        return Expectation(self.net, DRAWS) if self.noisy else self.net

    def readings(self) -> dict[str, nn.Module]:
        """What an adaptive attacker would attack in the network's place, by name."""

        def read() -> dict[str, nn.Module]:
            draws = DRAWS if self.noisy else 1
            return adaptations(self.net, self.x[:READ], self.y[:READ], self.threat, self.rng.seed, draws)

        return self.whole.readings() if self.whole else self.once("readings", read)

    def part(self, of: int) -> Probe:
        """One in so many of the samples, the first: enough for a check that is far off its limit on sound networks."""
        if of == 1:
            return self

        def taken() -> Probe:
            rows = slice(0, max(len(self.y) // of, FEWEST))
            rng = self.rng[torch.arange(len(self.y), device=self.y.device)[rows]]
            return replace(self, x=self.x[rows], y=self.y[rows], broken=self.broken[rows], rng=rng, whole=self, _kept={})

        return self.once(f"part {of}", taken)

    def attack(
        self, name: str, *, among: Tensor | None = None, net: nn.Module | None = None, threat: ThreatModel | None = None,
        watch: Watch | None = None, low_precision: bool = False, stream: str = "", **parameters: Any,
    ) -> Tensor:  # fmt: skip
        """Which samples fall to an attack, bool [M]; it is run on all or on some of them, and the network itself judges.

        low_precision: gradients and scores may come from the faster precision, where there is one.
        """
        attack, threat = get_attack(name), threat or self.threat
        chosen = attack.configure(parameters)
        judge = replace(self.judge, threat=threat)
        fooled = torch.zeros_like(self.y, dtype=torch.bool)
        rows = torch.arange(len(self.y), device=self.y.device) if among is None else among.nonzero().squeeze(1)
        for index in rows.split(self.rows) if len(rows) else ():
            x, y, rng = self.x[index], self.y[index], self.rng[index].at(name, stream or "first")
            shown, meter = net or self.seen, Meter(len(index), x.device)
            view = Watched(shown, meter, watch, index) if watch else VIEWS[attack.access](shown, meter)
            if isinstance(view, Score):
                view.use_low_precision(self.low_precision if low_precision else None, y)
            if isinstance(view, Gradient):
                view.readings = self.readings
            with warnings.catch_warnings(), isolated(self.rng.seed, name, stream, int(index[0])):
                warnings.simplefilter("ignore", AttackWarning)
                found = attack.run(view, x, y, threat, rng, **chosen).detach().float()
            fooled[index] = judge.verdict(found, x, y).fooled
        return fooled

    @cached_property
    def plain(self) -> Tensor:
        """What falls to PGD as a script without care has it, on one answer."""
        if self.whole:
            return self.whole.plain[: len(self.y)]
        return self.attack("pgd", net=self.net, **PLAIN)

    @cached_property
    def white(self) -> Tensor:
        """What falls to strong gradient attacks, from fresh starts.

        After the first, the few that it and the evaluation left are attacked in all ways, and the others only where one of
        these few fell: on sound networks hardly any does.
        """
        if self.whole:
            return self.whole.white[: len(self.y)]
        fooled = self.plain | self._climb(~self.plain, "margin", 1.0, 50)
        left, broken = ((~fooled & among).nonzero().squeeze(1) for among in (~self.broken, self.broken))
        return fooled | self._staged(torch.cat([left, broken]), self._strongly)

    def _strongly(self, among: Tensor) -> Tensor:
        """Which of some samples fall to one of several strong gradient attacks, bool [M]."""
        fooled = torch.zeros_like(among)
        for loss, step, steps in (("margin", 1.5, 100), ("ce", 2.0, 100), ("margin", 0.1, 50)):
            fooled |= self._climb(among & ~fooled, loss, step, steps)
        return fooled | self.attack("apgd", among=among & ~fooled, steps=50, low_precision=True)

    def _climb(self, among: Tensor, loss: str, step: float, steps: int) -> Tensor:
        decay = "cosine" if step >= 1 else "none"
        run: dict[str, Any] = {"steps": steps, "step": step, "loss": loss, "decay": decay, "low_precision": True}
        return self.attack("pgd", among=among, stream=f"white {step}", **run)

    def _staged(self, rows: Tensor, search: Callable[[Tensor], Tensor]) -> Tensor:
        """What a search breaks among the first few rows [R], and among the others where one of these fell, bool [M]."""
        fooled = torch.zeros_like(self.broken)
        for some in (rows[:FEWEST], rows[FEWEST:]):
            fooled |= search(torch.zeros_like(fooled).index_fill(0, some, True))
            if not bool(fooled.any()):
                break
        return fooled

    @cached_property
    def black(self) -> Tensor:
        """Which of those that gradient attacks leave fall to searches that see no gradient.

        The others are searched only where one of the first few fell: on sound networks none does.
        """
        return self._staged((~self.white).nonzero().squeeze(1), self.queried)

    def queried(self, among: Tensor) -> Tensor:
        """Which of some samples fall to searches that see no gradient, bool [M]; they may ask the faster precision."""
        fooled, asked = torch.zeros_like(among), None if self.noisy else self.low_precision
        for name, queries in BLIND[self.threat.norm]:
            fewer = queries // 4 if self.noisy else queries
            fooled |= self.attack(name, among=among & ~fooled, net=asked, queries=fewer)
        return fooled

    def climbed(self, ball: ThreatModel) -> Tensor:
        """What falls to a way up the margin from the clean image, in a ball of another radius."""
        run: dict[str, Any] = {"steps": 40, "step": 0.5, "decay": "cosine", "loss": "margin", "start": "clean"}
        return self.once(f"climbed {ball}", lambda: self.attack("pgd", threat=ball, low_precision=True, **run))

    def fallen(self, ball: ThreatModel) -> Tensor:
        """What falls to gradient attacks in a ball of another radius."""
        run: dict[str, Any] = {"steps": 40, "step": 1.0, "decay": "cosine", "loss": "ce", "threat": ball, "low_precision": True}
        climbed = self.climbed(ball)
        return self.once(f"fallen {ball}", lambda: climbed | self.attack("pgd", among=~climbed, **run))

    @property
    def best(self) -> Tensor:
        """What falls to anything that was tried."""
        return self.broken | self.white | self.black


def choose(data: Dataset, judge: Judge, broken: Tensor, **rest: Any) -> Probe:
    """A probe of an evaluation's samples; broken: which of them an attack has broken, bool [n]; rest: as Probe has it."""
    order, size = shuffled(len(data), judge.seed, "diagnose"), SIZE if judge.draws == 1 else NOISY
    rows: list[Tensor] = []
    for index in order.split(size):
        if sum(map(len, rows)) < size:
            correct, _ = judge.correct(*data.batch(index))
            rows.append(index[correct.cpu()])
    chosen, some = torch.cat(rows)[:size] if rows else order[:0], order[: 4 * SIZE]
    x, y = data.batch(chosen)
    rng = Rng(judge.seed, data.ids[chosen.to(data.ids.device)]).at("diagnose")
    given, labels = _answers(data, judge, some)
    return Probe(judge, x, y, broken[chosen].to(y.device), rng, given=given, labels=labels, **rest)


def _answers(data: Dataset, judge: Judge, some: Tensor) -> tuple[Tensor, Tensor]:
    """What these images are answered with, and their labels."""
    given, labels = [], []
    for index in some.split(SIZE):
        x, y = data.batch(index)
        with torch.no_grad(), isolated(judge.seed, "answers", int(index[0])):
            given.append(forward(judge.net, x).argmax(1))
        labels.append(y)
    return torch.cat(given), torch.cat(labels)
