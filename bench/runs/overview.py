"""How far a board is and what is left of it, for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from bench.escape import lines as plain
from bench.evaluation import EvaluationRequest
from bench.runs.cost import SOURCES, Cost
from bench.runs.standing import DONE, STATED, Standing, State
from bench.wording import count_of, duration

_ORDER: tuple[State, ...] = ("done", "running", "partly", "stated", "failed", "missing", "skipped")

_STATED = "stated: the card is here and not all that proves it: it stands on the page until it is made again"


def overview(title: str, standings: Sequence[Standing], costs: Mapping[str, Sequence[Cost]] | None, workers: int = 1) -> str:
    """A row for each row of the board, with what is there of its trainings and evaluations; costs: of what is left, by line."""
    plans = list(dict.fromkeys(plan_words(found.asked.request) for one in standings for found in one.evaluations))
    rows: dict[tuple[str, str], list[Standing]] = {}
    for one in standings:
        rows.setdefault((one.line.kind, one.line.row), []).append(one)
    table = [
        {
            "row": row if kind == "rows" else f"{row} ({kind})",
            "trained": _counted([one.training for one in group if one.training]),
            **{
                plan: _counted([f.state for one in group for f in one.evaluations if plan_words(f.asked.request) == plan])
                for plan in plans
            },
            **({} if costs is None else _cost([cost for one in group for cost in costs[one.line.label]])),
        }
        for (kind, row), group in rows.items()
    ]
    parts = [title, str(tabulate(table, headers="keys", tablefmt="simple", disable_numparse=True)), ""]
    used = {cost.source for own in (costs or {}).values() for cost in own}
    parts += [f"{source}: {told}" for source, told in SOURCES.items() if source in used]
    if any(found.state == STATED for one in standings for found in one.evaluations):
        parts.append(_STATED)
    return plain("\n".join([*parts, *_reasons(standings), _summary(standings, costs, workers)]))


def plan_words(request: EvaluationRequest) -> str:
    """An evaluation as a board names it."""
    return f"{request.plan.name}, n {request.n}" if request.n else request.plan.name


def _counted(states: Sequence[State]) -> str:
    """How many are done, and in which states the rest are: 3 of 5, 1 failed."""
    if not states:
        return ""
    count = Counter(states)
    rest = [f"{count[state]} {state}" for state in _ORDER if state not in (DONE, "missing") and count[state]]
    return ", ".join([f"{count[DONE]} of {len(states)}", *rest])


def _cost(costs: Sequence[Cost]) -> dict[str, str]:
    known = [cost for cost in costs if cost.source != "unknown"]
    time = duration(sum(cost.seconds for cost in known)) if known else ""
    return {"time left": time, "told from": " + ".join(dict.fromkeys(cost.source for cost in costs))}


def _reasons(standings: Sequence[Standing]) -> Iterable[str]:
    """Why rows failed or were left out, each once."""
    why = {(one.line.row if one.training == "skipped" else one.line.label): one for one in standings if one.reason}
    for label, one in why.items():
        yield f"{label}: {'skipped' if one.training == 'skipped' else 'failed'}: {one.reason}"


def _summary(standings: Sequence[Standing], costs: Mapping[str, Sequence[Cost]] | None, workers: int) -> str:
    trainings = sum(one.training not in (None, DONE, "skipped") for one in standings)
    evaluations = sum(found.state not in (DONE, "skipped") for one in standings for found in one.evaluations)
    if not trainings + evaluations:
        return f"nothing is left to do: {count_of(len(standings), 'network')}"
    told = f"left to do: {count_of(trainings, 'training')} and {count_of(evaluations, 'evaluation')}"
    if costs is None:
        return told
    every = [cost for own in costs.values() for cost in own]
    seconds = sum(cost.seconds for cost in every) / workers
    return told + f", about {duration(seconds)}" + (f" with {workers} workers" if workers > 1 else "")
