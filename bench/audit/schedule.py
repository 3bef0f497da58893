"""Whether a portfolio went on as long as it had to: its own search, led by what the records say came of every round.

Which samples a round takes on, with what and how often, follows from the outcomes of the rounds before. So the search is made
once more with the records in place of the attacks, and has to ask for just the rounds that they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.audit.row import Row
from bench.data import Dataset
from bench.errors import GauntletError
from bench.evaluation import Evaluation, Run, Unit, run_portfolio
from bench.plans import Portfolio
from bench.results import AttackResult, suffix

TIE = 1e-3
"""Of the spread of margins: how near to the last one taken on a sample may lie that another processor takes in its place."""


class Otherwise(GauntletError):
    """The search would have gone on otherwise than the records say."""


def schedule_problems(row: Row) -> list[str]:
    """Where the rounds of a card's portfolios are not those that its records lead to."""
    card, samples, plan, balls = row.card, row.samples, row.card.plan.attacks, row.balls()
    if not any(isinstance(spec, Portfolio) for spec in plan):
        return []
    net = row.under.model.net.to(samples.x.device)
    evaluation = _Recorded(
        net=net, data=samples, threat=balls[0], plan=card.plan, seed=card.seed, batch_size=row.batch_size, folder=Path(),
        report=row.report, low_precision=net if card.search == "bfloat16" else None, eot=card.eot,
        first=row.under.first, held=_held(row.records, samples),
    )  # fmt: skip
    for number, result in enumerate(card.attacks):
        ball, place = divmod(number, len(plan))
        if len(balls) > 1 and place == 0:
            evaluation.widen(balls[ball], Path(), suffix(card, ball))
        spec = plan[place]
        if not isinstance(spec, Portfolio):
            evaluation.take(result.name)
            continue
        try:
            again = run_portfolio(evaluation, place, spec)
            evaluation.finish(result.name)
        except Otherwise as error:
            return [f"{result.name}: {error}"]
        if told := _differs(again, result):
            return [f"{result.name}: {told}"]
    return []


def _differs(again: AttackResult, said: AttackResult) -> str:
    keys = ("stage", "arm", "effort", "rough", "samples", "broken")
    for number, (mine, theirs) in enumerate(zip(again.rounds, said.rounds, strict=False), 1):
        for key in keys:
            if (found := getattr(mine, key)) != (told := getattr(theirs, key)):
                return f"round {number}, {theirs.arm[:80]}: {key} is {told!r} on the card, and its records lead to {found!r}"
    if bool(again.masked) != bool(said.masked):
        return f"the gradient is {'' if said.masked else 'not '}called masked on the card, and its records lead to the contrary"
    if len(again.rounds) != len(said.rounds):
        return f"it has {len(said.rounds)} rounds on the card, and its records lead to {len(again.rounds)}"
    return ""


def _held(rows: pd.DataFrame, samples: Dataset) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of every run of every attack, by the place of their samples."""
    places = pd.Series(np.arange(len(samples)), index=samples.ids.tolist())
    tried = rows[rows["run"] != ""]
    tried = tried.assign(place=places.reindex(tried["id"]).to_numpy())
    return {(str(attack), str(run)): part for (attack, run), part in tried.groupby(["attack", "run"], sort=False)}


@dataclass
class _Recorded(Evaluation):
    """An evaluation whose attacks found what the records say."""

    held: Mapping[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)
    """Runs that were asked for."""

    def together(self, runs: Sequence[Run], targets: Tensor) -> list[list[Unit]]:
        self.launched += len(runs)
        return [self._said(run, targets) if len(targets) else [] for run in runs]

    def _said(self, run: Run, targets: Tensor) -> list[Unit]:
        """What the records say of a run."""
        key = (run.label + self.suffix, run.name)
        part = self.held.get(key)
        if part is None:
            raise Otherwise(f"its records end before {run.name}, on {len(targets)} samples that still stand")
        self.asked.add(key)
        return [self._of(part, self._taken(run, part, targets), keep=run.keep)]

    def take(self, name: str) -> None:
        """What an attack found that is no portfolio."""
        for (attack, _), part in self.held.items():
            if attack == name:
                self.launched += 1
                self.absorb([self._of(part, torch.tensor(part["place"].to_numpy(dtype=np.int64)), keep=False)])

    def finish(self, name: str) -> None:
        """Otherwise, where the records hold rounds that the search did not ask for."""
        if extra := [run for attack, run in self.held if attack == name and (attack, run) not in self.asked]:
            raise Otherwise(f"{len(extra)} rounds in its records are none that the search asks for, such as {extra[0][:80]}")

    def _taken(self, run: Run, part: pd.DataFrame, targets: Tensor) -> Tensor:
        """The samples of a round, closest first; others only where margins are so near that rounding may have chosen."""
        theirs = torch.tensor(part["place"].to_numpy(dtype=np.int64))
        if len(theirs) != len(targets):
            raise Otherwise(f"{run.name} was run on {len(theirs)} samples, and the search takes on {len(targets)}")
        strange = torch.cat([theirs[~torch.isin(theirs, targets)], targets[~torch.isin(targets, theirs)]])
        if not len(strange):
            return targets
        spread = float(self.margin[self.margin.isfinite()].std())
        near = (self.margin[strange].amax() - self.margin[strange].amin()) <= TIE * spread
        if bool(self.broken[theirs].any()) or not bool(near):
            raise Otherwise(
                f"{run.name} was run on other samples than the search takes on, {len(strange) // 2} of {len(theirs)}"
            )
        return theirs[self.margin[theirs].argsort(descending=True, stable=True)]

    def _of(self, part: pd.DataFrame, index: Tensor, *, keep: bool) -> Unit:
        rows = part.set_index("place").loc[index.tolist()]
        fooled, margin = (torch.tensor(rows[key].to_numpy()) for key in ("broken", "margin"))
        margin = margin.float()
        # What is misclassified and did not count lay outside of the ball.
        kept = fooled | (keep & (margin <= 0) & (margin > self.margin[index]))
        forwards, backwards = (torch.tensor(rows[key].to_numpy(dtype=np.int64)) for key in ("forwards", "backwards"))
        distance = torch.tensor(rows["distance"].to_numpy()).float()
        z = torch.zeros(1, *self.data.shape).expand(int(kept.sum()), *self.data.shape)
        label, name = str(rows["attack"].iloc[0]), str(rows["run"].iloc[0])
        return Unit(0, label, name, index, fooled, margin, distance, forwards, backwards, kept, z)
