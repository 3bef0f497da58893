"""Whether what a card says of its attacks is what its plan asks for, run by run; needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.plans import AttackSpec, Portfolio
from bench.results import STAGES, AttackResult, Card, Flags, suffix


def problems(card: Card, rows: pd.DataFrame, ids: NDArray[Any], clean: Flags) -> Iterator[str]:
    """What the plan asks for and the card or its records have not; clean: which samples are right, bool [n]."""
    plan, n = card.plan.attacks, len(ids)
    names = [attack.name for attack in card.attacks]
    if names != [spec.label + suffix(card, ball) for ball in range(max(len(card.curve), 1)) for spec in plan]:
        yield "the card has other attacks than its plan"
        return
    place = pd.Series(range(n), index=ids).reindex(rows["id"]).fillna(-1).to_numpy(dtype=np.int64)
    known = (rows["run"] != "").to_numpy() & (place >= 0)
    attacks, fooled = rows["attack"].astype("category").cat, rows["broken"].to_numpy(dtype=bool)
    codes, run = attacks.codes.to_numpy(), rows["run"].astype("category").cat
    broken, settled = ~clean, np.zeros(n, dtype=bool)
    for number, result in enumerate(card.attacks):
        spec = plan[number % len(plan)]
        if number and number % len(plan) == 0:
            settled = broken & clean
        # Where two attacks share a name, nobody can tell their rows apart.
        own = names.count(result.name) == 1 and result.name in attacks.categories
        mine = (
            np.flatnonzero(known & (codes == attacks.categories.get_loc(result.name))) if own else np.zeros(0, dtype=np.int64)
        )
        runs = _Runs(run.categories.tolist(), run.codes.to_numpy()[mine], fooled[mine], place[mine], n)
        start = ~clean | settled if result.on == "all" else broken
        for problem in _one(spec, result, runs, ~start):
            yield f"{result.name}: {problem}"
        broken = broken | runs.fell()
    yield from _proof(card, ~broken)


class _Runs:
    """The runs of one attack in the records: who took part, and who fell."""

    def __init__(self, names: Sequence[str], codes: NDArray[Any], fooled: Flags, place: NDArray[Any], n: int) -> None:
        self.n, self.fooled, self.place = n, fooled, place
        order = np.argsort(codes, kind="stable")
        found, starts = np.unique(codes[order], return_index=True)
        self.where = {names[code]: at for code, at in zip(found, np.split(order, starts[1:]), strict=False)}

    def __bool__(self) -> bool:
        return bool(self.where)

    def of(self, name: str) -> tuple[Flags, Flags]:
        """Who took part in a run, and who fell in it, bool [n] each."""
        part, fell = np.zeros((2, self.n), dtype=bool)
        at = self.where.get(name, np.zeros(0, dtype=np.int64))
        part[self.place[at]] = True
        fell[self.place[at][self.fooled[at]]] = True
        return part, fell

    def fell(self) -> Flags:
        """Who fell in any of them, bool [n]."""
        found = np.zeros(self.n, dtype=bool)
        found[self.place[self.fooled]] = True
        return found


def _one(spec: AttackSpec | Portfolio, result: AttackResult, runs: _Runs, targets: Flags) -> Iterator[str]:
    refused = any(note.startswith("left out") for note in result.notes)
    if spec.label != spec.attack and spec.label in _attacks():
        yield f"its column is called as another attack, and it is {spec.attack}"
    for key, value in (("attack", spec.attack), ("on", getattr(spec, "on", "survivors"))):
        if (said := getattr(result, key)) != value:
            yield f"{key} is {said!r}, and its plan has {value!r}"
    if refused:
        if not getattr(spec, "optional", False):
            yield "it was left out, which its plan does not allow"
        return
    if isinstance(spec, Portfolio):
        yield from _rounds(spec, result, runs, targets)
        return
    chosen = result.grid.best if result.grid else {}
    planned = {**spec.parameters, **(chosen or next(spec.combinations()))}
    for key in sorted({*planned, *result.parameters}):
        if (ran := result.parameters.get(key)) != (wanted := planned.get(key)):
            yield f"it ran with {key[:40]} = {str(ran)[:40]}, and its plan has {str(wanted)[:40]}"
    yield from _grid(spec, result, runs)
    yield from _restarts(spec, result, runs, targets & (np.arange(len(targets)) < result.n))


@cache
def _attacks() -> frozenset[str]:
    """The names of our attacks, none of which is loaded for that."""
    found = find_spec("bench.attacks")
    return frozenset(module.name for module in iter_modules(found.submodule_search_locations if found else None))


def _grid(spec: AttackSpec, result: AttackResult, runs: _Runs) -> Iterator[str]:
    """The whole grid has to be there, and its winner to be one."""
    points = list(spec.combinations())
    if len(points) == 1:
        return
    if result.grid is None or [point.parameters for point in result.grid.points] != points:
        yield f"its grid is not the one of its plan, of {len(points)} points"
        return
    if result.grid.best not in points:
        yield f"its grid chose {_short(result.grid.best)}, which is none of its points"
        return
    hits = {}
    for name in runs.where:
        number = name.partition(":")[0].removeprefix("grid ")
        if name.startswith("grid ") and number.isdecimal() and int(number) < len(points):
            hits[int(number)] = int(runs.of(name)[1].sum())
    if runs and sorted(hits) != list(range(len(points))):
        yield f"the records hold {len(hits)} of the {len(points)} points of its grid"
    elif hits and (fewer := hits[points.index(result.grid.best)]) < max(hits.values()):
        yield f"its grid chose a point that broke {fewer}, and another broke {max(hits.values())}"


def _restarts(spec: AttackSpec, result: AttackResult, runs: _Runs, targets: Flags) -> Iterator[str]:
    """Every restart has to be run on everything that stood until then."""
    made = result.restarts[-1].restarts if result.restarts else 0
    if made != spec.restarts:
        yield f"it ends after {made} restarts, and its plan has {spec.restarts}"
        return
    if not runs:
        return
    # Whether restarts begin before the grid or after it has changed with the releases; these have stood either way.
    standing = targets.copy()
    for name in runs.where:
        standing &= ~(runs.of(name)[1] & name.startswith("grid "))
    for restart in range(spec.restarts):
        part, fell = runs.of(f"restart {restart}")
        if missed := int((standing & ~part).sum()):
            yield f"restart {restart} was not run on {missed} of the {int(standing.sum())} samples that stood"
            return
        standing &= ~fell


def _rounds(spec: Portfolio, result: AttackResult, runs: _Runs, targets: Flags) -> Iterator[str]:
    """Opening and pilot have to be those of the plan, and the rounds of the card those of the records."""
    said = [(round.arm, round.samples, round.broken) for round in result.rounds if round.samples]
    held = []
    for name in sorted(runs.where, key=_number):
        part, fell = runs.of(name)
        held.append((name.partition(": ")[2], int(part.sum()), int(fell.sum())))
    if runs and held != said:
        yield f"its {len(said)} rounds on the card are not the {len(held)} of the records"
    begun = [(stage, arm.label) for stage, arms in (("opening", spec.opening), ("pilot", spec.arms)) for arm in arms]
    made = [(round.stage, round.arm) for round in result.rounds]
    if made[: len(begun)] != begun or {stage for stage, _ in made[len(begun) :]} - {*STAGES[2:]}:
        yield f"it does not begin with the opening and the pilot of its plan, {len(begun)} rounds"
        return
    standing = targets.copy()
    opening = sorted(runs.where, key=_number)[: len(spec.opening)]
    for round, name in zip(result.rounds, opening, strict=False):
        part, fell = runs.of(name)
        if round.samples and (standing & ~part).any():
            yield f"{round.arm} was not run on {int((standing & ~part).sum())} samples that stood in the opening"
            return
        standing &= ~fell
    if unknown := {round.arm for round in result.rounds} - {arm.label for arm in spec.every}:
        yield f"{min(unknown)[:80]!r} is no arm of its plan"


def _number(name: str) -> int:
    number = name.partition(":")[0].removeprefix("round ")
    return int(number) if number.isdecimal() and len(number) < 10 else -1


def _proof(card: Card, standing: Flags) -> Iterator[str]:
    """What is proved and not contradicted stands."""
    proof = card.certified
    if proof is None:
        return
    certain = round(proof.accuracy * proof.n) - proof.contradicted
    left = int(standing[: proof.n].sum())
    if proof.n > len(standing) or certain > left:
        yield f"certified accuracy: {certain} of {proof.n} samples are said to be certain, and {left} of them stand"


def _short(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in parameters.items())[:120] or "none"
