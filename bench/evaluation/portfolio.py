"""A portfolio of attacks on one model: a pilot finds out which of them hurt it, and effort goes to the samples that are
closest to falling.

Samples are ranked by the highest margin that any candidate has reached on them. Every round says how deep in that ranking
it still broke samples, and the next rounds reach twice as deep and no deeper (after the statistics-based discarding of Liu
et al. 2022): on a smooth model that is a few per cent of the survivors, where margins mean nothing it is all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.core import shuffled
from bench.evaluation.arms import FRONTIER, OUTDONE, Trial, ahead, blind, by_worth, outdone, overlooked, reading
from bench.evaluation.engine import Evaluation
from bench.evaluation.look import look
from bench.evaluation.restarts import totals
from bench.evaluation.sanity import constant
from bench.evaluation.target import Run
from bench.evaluation.units import Unit
from bench.plans import Arm, Portfolio
from bench.plugins import get_attack
from bench.results import AttackResult, Round
from bench.statistics import wilson

POOL = 512
"""The fixed samples, drawn with the seed, that the pilot is taken from."""
FEWEST, SHARE = 32, 16
"""A round takes on at least so many samples, and one in so many of the opening's survivors."""
CHARGED = 256
"""The budget is that of so many samples at least: where few are left, each is worth more."""
ESCALATION = 4
"""Times the targets, queries or steps when the arms have run dry."""
EXHAUSTIVE = 16
"""Times the queries of black-box searches where the gradient is masked: about AutoAttack's."""
FINALISTS = 4
"""Arms that are still worth running then, or after a pilot in which none got anywhere."""
IDLE = 0.5
"""Progress in the pilot below which an arm got nowhere."""
NEAREST = 16
"""Survivors that the closing attacks take on."""
LIKELY = 7
"""What all of it costs in terms of the opening, on the models of results/: an estimate of what is left is made from it."""
MASKED = 10
"""Times the budget where the gradient is masked."""


def run_portfolio(evaluation: Evaluation, number: int, spec: Portfolio) -> AttackResult:
    """Carry out one portfolio of a plan."""
    first, size = len(evaluation.units), len(evaluation.data)
    attempted = int((~evaluation.broken).sum())
    evaluation.report.say(f"{spec.label}: {attempted} of {size} samples to attack")
    search = _Search(evaluation, number, spec)
    search.open()
    search.ranked = search.pilot()
    search.sweep(search.ranked)
    if search.masked:
        search.escalate()
    if search.unseen:
        search.exhaust()
    # Worth more effort only as far as the sweeps still got somewhere, and none that is outdone by more than the effort.
    fell = sum(round.broken for round in search.rounds if round.stage == "sweep")
    best = search.finalists()[:fell]
    search.effort = ESCALATION
    search.sweep([arm for arm in best if ESCALATION * search.worth(arm) >= search.worth(best[0])])
    if search.low_precision and (search.masked or not spec.closing):
        search.low_precision, search.effort = False, 1
        search.left = spec.budget * len(search.closest()) // 4
        search.sweep(search.finalists())
    if not search.masked:
        search.close()
    evaluation.report.advance(1.0 - search.done, f"{spec.label}: {search.standing():.1%} stand")
    left = size - int(evaluation.broken.sum())
    return AttackResult(
        name=spec.label, attack=spec.attack, parameters={}, on="survivors", n=size, attempted=attempted,
        broken=attempted - left, robust_accuracy=left / size, interval=wilson(left, size), grid=None, restarts=(),
        rounds=tuple(search.rounds), masked=search.masked, **totals(evaluation.units[first:], attempted),
    )  # fmt: skip


@dataclass
class _Search:
    evaluation: Evaluation
    number: int
    spec: Portfolio
    rounds: list[Round] = field(default_factory=list)
    masked: str = ""
    """Why the gradient is believed to be masked; empty where it is not."""
    flat: bool = False
    """Whether there is none."""
    unseen: bool = False
    """Whether searches that see no gradient are ahead of it."""

    def __post_init__(self) -> None:
        self.low_precision = self.spec.rough and self.evaluation.low_precision is not None
        self.ranking = False
        """Whether arms are only compared so far."""
        self.reach = len(self.evaluation.data)
        """How many of the closest survivors a round takes on."""
        self.fewest = FEWEST
        self.left = 0
        """Forward-equivalents that may still be spent."""
        self.effort = 1
        self.ranked: list[Arm] = []
        """The arms worth running, in the pilot's order."""
        self.achieved: dict[str, tuple[float, int]] = {}
        """Each arm's progress in the sweeps, and what it cost."""
        self.spent, self.expected, self.done = 0, 0, 0.0
        """Forward-equivalents so far, those that all of it may take, and the part of the work that this makes."""

    def standing(self) -> float:
        return 1 - float(self.evaluation.broken.double().mean())

    def closest(self, among: Tensor | None = None) -> Tensor:
        """The survivors, or some of them, those with the highest margin first."""
        index = (~self.evaluation.broken).nonzero().squeeze(1) if among is None else among[~self.evaluation.broken[among]]
        return index[self.evaluation.margin[index].argsort(descending=True, stable=True)]

    def open(self) -> None:
        """The cheap attacks, on everything."""
        for arm in self.spec.opening:
            self.round(arm, "opening", self.closest())
        self.expected = LIKELY * self.spent
        self.fewest = max(FEWEST, len(self.closest()) // SHARE)
        self.left = self.spec.budget * max(len(self.closest()), CHARGED)

    def pilot(self) -> list[Arm]:
        """Every arm on the same few survivors; the arms in the order in which they are worth running."""
        pool = shuffled(len(self.evaluation.data), self.evaluation.seed, "pilot", self.number)[:POOL]
        ranked = self.closest(pool)
        size = min(self.spec.pilot, max(len(ranked) // 6, FEWEST // 2))
        near = ranked[: size - size // 4]
        others = pool[~torch.isin(pool, near) & ~self.evaluation.broken[pool]][: size // 4]
        samples = torch.cat([near, others])
        self.ranking = True
        plain = self.together(self.spec.arms, samples)
        self.ranking = False
        self.suspect(plain, samples, len(near))
        adaptive = self.together(self.applicable(), samples)
        self.compare(plain, adaptive, len(near))
        for stage, trials in (("pilot", plain), ("adaptive", adaptive)):
            for trial in trials:
                self.absorb(trial, stage, samples)
        others = pool[~torch.isin(pool, samples)]
        hidden = self.inside(others, len(samples)) if adaptive and not self.masked else []
        trials = [*plain, *adaptive]
        if not self.masked and not any(bool(trial.fooled.any()) for trial in [*trials, *hidden]):
            self.reach = self.beyond(others[~self.evaluation.broken[others]][: self.fewest])
        arms = by_worth(trials)
        idle = {trial.arm.label for trial in trials if float(trial.progress.sum()) < IDLE}
        idle -= {trial.arm.label for trial in hidden if trial.fooled.any()}
        return [*arms[:FINALISTS], *(arm for arm in arms[FINALISTS:] if self.masked or arm.label not in idle)]

    def compare(self, plain: Sequence[Trial], adaptive: Sequence[Trial], near: int) -> None:
        """What it means where attacks on readings of the network break samples that no attack on itself does."""
        of = len(plain[0].progress)
        if self.hides(ahead(adaptive, plain), of, f"{of} pilot"):
            # What breaks so many, and all that blind search does, has found a gradient after all.
            self.unseen = self.unseen and bool(outdone([*plain, *adaptive], near))

    def hides(self, alone: int, size: int, of: str) -> bool:
        """Whether so many samples that fell to attacks on readings alone say that the network hides its gradient."""
        if alone:
            # Its margins do not say then what falls next.
            self.reach = len(self.evaluation.data)
        hidden = alone > OUTDONE * size
        if hidden:
            told = f"attacks on a reading of the network broke {alone} of {of} samples that no other broke"
            self.doubt(self.masked or told)
        return hidden

    def inside(self, others: Tensor, size: int) -> list[Trial]:
        """One attack on each reading where margins of the whole call nothing close, as they need not say what falls there.

        What falls is tried by the attacks on the network itself: so many samples of it. What did the attacks on readings.
        """
        samples = self.closest(others)
        first = {reading(arm): arm for arm in reversed(self.applicable())}
        adaptive = self.together([*first.values()], samples)
        found = samples[torch.stack([trial.fooled for trial in adaptive]).any(0)][:size]
        plain = self.together(self.spec.arms, found) if len(found) else []
        alone = int((~torch.stack([trial.fooled for trial in plain]).any(0)).sum()) if plain else 0
        for trials, on in ((adaptive, samples), (plain, found)):
            for trial in trials:
                self.absorb(trial, "inside", on)
        self.hides(alone, size, f"{len(samples)}")
        return adaptive

    def applicable(self) -> list[Arm]:
        """The attacks on readings that this network has; around the image only where its gradient is in doubt."""
        there = self.evaluation.readings() if self.spec.adaptive else {}
        return [arm for arm in self.spec.adaptive if reading(arm) in there and (reading(arm) != "noise" or self.masked)]

    def beyond(self, samples: Tensor) -> int:
        """How far rounds reach after a pilot in which nothing fell, among the closest samples least of all.

        That is a frontier where the same holds of samples at random and of losses of another kind; else margins do not say
        what falls, and nothing is left out.
        """
        trials = self.together(self.spec.frontier, samples) if len(samples) else []
        for trial in trials:
            self.absorb(trial, "frontier", samples)
        fell = int(torch.stack([trial.fooled for trial in trials]).any(0).sum()) if trials else 0
        return len(self.evaluation.data) if fell else self.fewest

    def escalate(self) -> None:
        """What the reference AutoAttack has and the arms have not, on everything that stands; where there is no gradient,
        nothing that asks for one, and no search that goes on for longer anyway. The last of the gradient's, which is the
        dearest and the least fruitful, follows only where those before it broke something.
        """
        fell = 0
        seeing = [arm for arm in self.spec.escalation if not blind(arm)]
        for arm in self.spec.escalation:
            left_out = self.unseen if blind(arm) else self.flat or (arm is seeing[-1] and len(seeing) > 1 and not fell)
            if len(self.closest()) and not left_out:
                fell += int(self.round(arm, "escalation", self.closest()).fooled.sum())

    def sweep(self, arms: Sequence[Arm]) -> None:
        """Round after round over the arms; those that get nowhere any more are dropped."""
        while arms and len(self.closest()):
            going: list[tuple[float, Arm]] = []
            for arm in arms:
                if self.left <= 0 or not len(self.closest()):
                    return
                trial = self.round(arm, "sweep", self.closest()[: self.reach])
                progress, cost = self.achieved.get(arm.label, (0.0, 0))
                self.achieved[arm.label] = (progress + float(trial.progress.sum()), cost + trial.cost)
                if float(trial.progress.sum()) >= 1:
                    going.append((float(trial.progress.sum()) / max(trial.cost, 1), arm))
            arms = [arm for _, arm in sorted(going, key=lambda pair: -pair[0])]

    def close(self) -> None:
        """On the very closest, attacks of a kind that the pilot may have ranked last; exact ones, as what is left to find lies
        below what the faster precision tells apart."""
        self.low_precision, self.effort = False, 1
        for arm in self.spec.closing:
            if len(self.closest()):
                self.round(arm, "closing", self.closest()[:NEAREST])

    def exhaust(self) -> None:
        """Long black-box searches on everything that stands; margins say little where the gradient is masked."""
        self.reach, self.effort = len(self.evaluation.data), EXHAUSTIVE
        self.sweep([arm for arm in (*self.spec.arms, *self.spec.blind) if blind(arm)])

    def finalists(self) -> list[Arm]:
        """The arms that achieved most for their cost."""
        return sorted(self.ranked, key=lambda arm: -self.worth(arm))[:FINALISTS]

    def worth(self, arm: Arm) -> float:
        """What an arm achieved in the sweeps for each forward."""
        progress, cost = self.achieved.get(arm.label, (0.0, 0))
        return progress / max(cost, 1)

    def round(self, arm: Arm, stage: str, samples: Tensor) -> Trial:
        """One arm on these samples, closest first; how deep it still broke some decides how deep the next round reaches."""
        (trial,) = self.together([arm], samples)
        depths = trial.fooled.nonzero().squeeze(1).double()
        deep = 2 * int(depths.quantile(0.95) + 1) if len(depths) else len(samples) // 2
        self.reach = max(deep, self.fewest)
        self.absorb(trial, stage, samples)
        return trial

    def together(self, arms: Sequence[Arm], samples: Tensor) -> list[Trial]:
        """These arms on the same samples, all from what is known now."""
        runs = [self.run(arm, self.evaluation.launched + place) for place, arm in enumerate(arms)]
        before = self.evaluation.margin[samples].clamp_max(-1e-9)
        units = self.evaluation.together(runs, samples)
        return [self.trial(arm, found, before) for arm, found in zip(arms, units, strict=True)]

    def run(self, arm: Arm, place: int) -> Run:
        """A run of an arm; its place among all runs names its noise."""
        parameters, stream = arm.stronger(self.effort, self.evaluation.answers[1]), ("round", place)
        name = f"round {place}: {arm.label}"
        return Run(self.number, self.spec.label, arm.attack, parameters, name, stream, self.rough(arm), keep=True)

    def rough(self, arm: Arm) -> bool:
        """Whether it sees the faster precision: scores only while arms are compared, as small steps need exact ones."""
        return self.low_precision and (self.ranking or get_attack(arm.attack).access == "gradient")

    def trial(self, arm: Arm, units: list[Unit], before: Tensor) -> Trial:
        """What an arm did; before: the margins from which it started."""
        if not units:
            return Trial(arm, [], torch.zeros(0), self.rough(arm))
        fooled, margin = (torch.cat([getattr(unit, key) for unit in units]) for key in ("fooled", "margin"))
        way = (1 - margin.clamp_max(0) / before).nan_to_num(0.0).clamp(0, 1) / 2
        trial = Trial(arm, units, torch.where(fooled, 1.0, way), self.rough(arm))
        self.left -= trial.cost
        self.spent += trial.cost
        # Never done before it is over: what is left is at least a tenth of what there was.
        done = self.spent / max(self.expected, 1.1 * self.spent, 1) if self.expected else 0.0
        self.evaluation.report.advance(max(done - self.done, 0.0))
        self.done = max(done, self.done)
        return trial

    def absorb(self, trial: Trial, stage: str, samples: Tensor) -> None:
        self.evaluation.absorb(trial.units)
        self.rounds.append(
            Round(
                stage=stage,
                arm=trial.arm.label,
                effort=self.effort,
                rough=trial.rough,
                samples=len(samples),
                broken=int(trial.fooled.sum()),
                progress=round(float(trial.progress.sum()), 3),
                cost=round(trial.cost / max(len(samples), 1), 1),
                reach=self.reach,
            )
        )
        told = f"{self.spec.label}: {stage} {trial.arm.label}: {int(trial.fooled.sum())} of {len(samples)} fell"
        self.evaluation.report.advance(0.0, f"{told}, {self.standing():.1%} stand")

    def suspect(self, trials: Sequence[Trial], samples: Tensor, near: int) -> None:
        """Compare searches that see no gradient, and start from no gradient's candidate, with everything that does.

        Where labels alone are shown, random starts may break as much as they do; then there is no gradient to be seen. Nor is
        there in a network of one answer, which hides nothing: more effort would find as little.
        """
        if constant(self.evaluation):
            return
        told = outdone(trials, near)
        flat = 0 if told or not len(samples) else int(self.evaluation.flat(samples).sum())
        self.flat = flat > len(samples) // 2
        if self.flat:
            told = f"{flat} of {len(samples)} pilot samples have no gradient"
        self.unseen = bool(told)
        if not told:
            found = next((finding for finding in look(self.evaluation) if finding.verdict != "ok"), None)
            told = found.told if found else ""
        if told:
            self.doubt(told)
        elif overlooked(trials) > FRONTIER:
            # Masked in part: what falls next lies anywhere, and the sweeps begin with everything that stands.
            self.reach = len(self.evaluation.data)

    def doubt(self, told: str) -> None:
        """Go on as where the gradient is masked: margins say little, and more is spent."""
        if not self.masked:
            self.left += (MASKED - 1) * self.spec.budget * len(self.closest())
        self.masked, self.reach = told, len(self.evaluation.data)
