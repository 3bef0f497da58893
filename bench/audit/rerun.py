"""Some samples of a row put through everything that its records say was done to them.

An attempt on a sample is a function of model, plan, seed, sample and what earlier attempts found on it: noise is keyed by the
sample's id, and starts come from the sample's own history. So a handful of samples goes the whole way by itself, at the share
of the cost that it is of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from bench.audit.row import Row
from bench.data import Dataset
from bench.evaluation import Evaluation, Run, Unit, to_low_precision
from bench.plans import AttackSpec, Portfolio
from bench.plugins import get_attack
from bench.results import TOGETHER, AttackResult, suffix


class Step(NamedTuple):
    """One run of an attack as the records have it."""

    run: Run
    together: bool
    """Whether it belongs to a pilot, whose arms all begin where the opening ended."""


class Attempts(NamedTuple):
    """What came of every attempt that was made again, beside what the records say of it."""

    rows: pd.DataFrame
    """id, attack, run; broken, margin, forwards and backwards as they are here, and with said_ before them as recorded."""
    stated: tuple[str, ...]
    """Attacks that were not run again, and why."""


def rerun(row: Row, chosen: Dataset) -> Attempts:
    """Every attempt on these of the row's samples again."""
    card, records, under = row.card, row.records, row.under
    mine = records[records["id"].isin(chosen.ids.tolist())]
    search = to_low_precision(under.model.net, *(part.to(chosen.x.device) for part in under.first))[0]
    balls, each = row.balls(), len(card.plan.attacks)
    found: list[pd.DataFrame] = []
    stated: list[str] = []
    with TemporaryDirectory() as home:
        evaluation = Evaluation(
            net=under.model.net.to(chosen.x.device), data=chosen, threat=balls[0], plan=card.plan, seed=card.seed,
            batch_size=row.batch_size, folder=Path(home), report=row.report, low_precision=search, eot=card.eot,
            first=under.first,
        )  # fmt: skip
        for place, result in enumerate(card.attacks):
            ball, number = divmod(place, each)
            if len(balls) > 1 and number == 0:
                evaluation.widen(balls[ball], Path(home) / str(ball), suffix(card, ball))
            spec = card.plan.attacks[number]
            if why := _not_again(spec):
                stated.append(f"{result.name} {why} and was not run again: stated")
                continue
            steps = _of_plan(number, spec, result, records[records["attack"] == result.name], chosen.classes)
            found += _again(evaluation, mine[mine["attack"] == result.name], steps)
            row.report.advance(1 / len(card.attacks), f"{result.name} again on {len(chosen)} samples")
    columns = ["id", "attack", "run", *(f"{who}{key}" for who in ("said_", "") for key in _COMPARED)]
    return Attempts(pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns), tuple(stated))


def _not_again(spec: AttackSpec | Portfolio) -> str:
    """Why an attack of somebody's plan cannot be run on a few samples here; empty where it can."""
    if isinstance(spec, Portfolio):
        return ""
    if get_attack(spec.attack).whole:
        return "takes all samples at once"
    # An audit opens and downloads nothing that only a card names.
    return "takes examples or models that its plan names elsewhere" if spec.parameters.get("sources") else ""


_COMPARED = ("broken", "margin", "forwards", "backwards")


def _of_plan(
    number: int, spec: AttackSpec | Portfolio, result: AttackResult, rows: pd.DataFrame, classes: int
) -> Iterator[Step]:
    """The runs of one attack, in order."""
    if isinstance(spec, Portfolio):
        yield from _rounds(number, spec, result, rows, classes)
        return
    points = list(spec.combinations())
    for place, point in enumerate(points if len(points) > 1 else []):
        told = f"grid {place}: " + ", ".join(f"{key}={value}" for key, value in point.items())
        yield Step(Run(number, spec.label, spec.attack, {**spec.parameters, **point}, told, ("grid",)), False)
    for restart in range(spec.restarts):
        stream = ("restart", str(restart))
        yield Step(Run(number, spec.label, spec.attack, result.parameters, f"restart {restart}", stream), False)


def _rounds(number: int, spec: Portfolio, result: AttackResult, rows: pd.DataFrame, classes: int) -> Iterator[Step]:
    """Rounds in order; a round's place among all runs of its evaluation, which its noise is named by, is in the records."""
    arms = {arm.label: arm for arm in spec.every}
    places = [int(name.split(":")[0].split()[1]) for name in rows["run"].unique()]
    held = [place for place, round in enumerate(result.rounds) if round.samples]
    first = min(places) - held[0] if places else 0
    for place, round in enumerate(result.rounds, first):
        arm = arms[round.arm]
        parameters, name = arm.stronger(round.effort, classes), f"round {place}: {arm.label}"
        run = Run(number, spec.label, arm.attack, parameters, name, ("round", place), round.rough, keep=True)
        yield Step(run, round.stage in TOGETHER)


def _again(evaluation: Evaluation, rows: pd.DataFrame, steps: Iterator[Step]) -> Iterator[pd.DataFrame]:
    """Every run on those of the samples that the records have in it."""
    where, waiting = dict(tuple(rows.groupby("run", sort=False))), list[Unit]()
    for step in steps:
        if not step.together:
            evaluation.absorb(waiting)
            waiting = []
        said = where.get(step.run.name)
        if said is None:
            continue
        said = said.set_index("id")
        index = torch.isin(evaluation.data.ids.cpu(), torch.tensor(said.index.to_numpy())).nonzero().squeeze(1)
        units = evaluation.launch(step.run, index, absorb=not step.together)
        waiting += units if step.together else []
        yield _beside(said, evaluation.data.ids.cpu()[index], units, step.run)
    evaluation.absorb(waiting)


def _beside(said: pd.DataFrame, ids: Tensor, units: list[Unit], run: Run) -> pd.DataFrame:
    here = {
        "broken": torch.cat([unit.fooled for unit in units]),
        **{key: torch.cat([getattr(unit, key) for unit in units]) for key in _COMPARED[1:]},
    }
    claimed = said.loc[ids.tolist()]
    return pd.DataFrame(
        {"id": ids, "attack": claimed["attack"].to_numpy(), "run": run.name}
        | {f"said_{key}": claimed[key].to_numpy() for key in _COMPARED}
        | {key: value.numpy() for key, value in here.items()}
    )
