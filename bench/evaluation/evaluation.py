"""One evaluation from a question about a model to its card, records and archive."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import VOTES, Judge, ThreatModel, device
from bench.data import Dataset, has_own_split, load
from bench.diagnose import ACTIVE, CHECKS, Probe, choose, diagnose
from bench.evaluation.certificates import prove
from bench.evaluation.engine import Evaluation
from bench.evaluation.left import begin_anew, finished, read, reused
from bench.evaluation.look import look, unsteady
from bench.evaluation.low_precision import to_low_precision
from bench.evaluation.portfolio import run_portfolio
from bench.evaluation.record import About, broken_ids, make_card
from bench.evaluation.request import EvaluationRequest, Execution, radii, refuse_unknown
from bench.evaluation.restarts import run_attack
from bench.evaluation.target import Aim
from bench.evaluation.task import Task, resolve
from bench.evaluation.weak import weak_plan
from bench.evaluation.workers import carrying
from bench.executors import Executor, executor_of
from bench.files import Reporter, alone
from bench.models import Subject
from bench.plans import Plan, Portfolio
from bench.plugins import out_of_reach
from bench.results import AttackResult, Card, CurvePoint, folder_name, read_card
from bench.statistics import wilson


def evaluate(  # noqa: PLR0913
    reference: str | Path | nn.Module,
    *,
    dataset: object = None,
    norm: str | None = None,
    eps: str | float | None = None,
    eps_sweep: Sequence[str | float] = (),
    plan_name: str | Path | Plan = "fast",
    n: int | None = None,
    seed: int = 0,
    eot: int | None = None,
    test_time: str = "",
    diagnosed: bool = False,
    active: bool = False,
    results: str | Path = "results",
    name: str | None = None,
    device_name: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    on: str | None = None,
    **unknown: object,
) -> tuple[Card, Path]:
    """Attack a model with a plan and write its card; a card that is already there is read instead.

    reference: a run folder, `run:`, `ckpt:`, `py:` or `robustbench:`, or a live nn.Module. dataset: a name, a file, a folder,
    or (x, y), a Dataset or a DataLoader of torch. dataset, norm and eps default to those the model was trained with. eps_sweep:
    radii to attack one after the other, each going on from what the smaller ones broke; the card is that of the largest. n:
    test samples (default 1000, or all where there are fewer), the first of a named set, of other data a fixed choice with as
    many of each class. eot: the answers of a randomised model that attacks see the mean of (default 20, and 1 for any other).
    test_time: a defense to add without training, such as "rfi" or "smoothing?sigma=0.25". diagnosed: say whether the number can
    be trusted, as plans may ask for themselves; active: with the binarization test among the checks. fresh: attack
    anew where a card is there already, which is set aside. workers: processes that attack, which changes no result; on: where,
    "ray" or "ray:ADDRESS" instead of this machine.
    Returns the card and the path it was written to.
    """
    refuse_unknown("evaluate", unknown, evaluate)
    request = EvaluationRequest.of(
        model=reference, dataset=dataset, norm=norm, eps=radii(eps, eps_sweep), plan=plan_name, n=n, seed=seed,
        eot=eot, test_time=test_time, name=name,
    )  # fmt: skip
    with Execution(Path(results), device_name, batch_size, quiet, fresh, executor_of(workers, on)) as execution:
        return evaluated(request, execution, diagnosed=diagnosed, active=active)[:2]


class Answer(NamedTuple):
    """What came of a request."""

    card: Card
    path: Path
    told: str = ""
    """What of it is not the work of this run; empty where all is."""


@device.usual()
def evaluated(request: EvaluationRequest, execution: Execution, *, diagnosed: bool = False, active: bool = False) -> Answer:
    """The card that answers a request, and its path: made where it is not there yet."""
    task = resolve(request, execution)
    elsewhere = not task.folder.resolve().is_relative_to(execution.results.resolve())
    if elsewhere and execution.results != Path("results"):
        told = f"the card of a run lies with the run, in {task.folder}, and not in {execution.results}"
        Reporter(f"evaluate {task.label}", 1, quiet=task.quiet).say(told)
    if execution.fresh:
        begin_anew(task)
    if card := finished(task):
        told = read(task)
        Reporter(f"evaluate {task.label}", 1, quiet=task.quiet).say(f"{task.folder}: {told}")
    else:
        card, told = _attacked(task, execution.executor)
    if request.name and card.name != request.name:
        card = _relabelled(task, request.name)
    if diagnosed or active or task.plan.diagnose:
        card = _diagnosed(task, card, active)
    return Answer(card, task.folder / "card.json", told)


def _attacked(task: Task, executor: Executor) -> tuple[Card, str]:
    """Carry out the plan and write the card; where another process is at it, wait for its card instead."""
    subject, folder = task.subject, task.folder
    title, steps = f"evaluate {task.label}", len(task.plan.attacks) * len(task.balls)
    with Reporter(title, steps, quiet=task.quiet) as report, alone(folder, report.tell), device.exact_float32():
        if card := finished(task):
            report.say(f"{folder}: {read(task)}")
            return card, read(task)
        for short in filter(None, (out_of_reach(defense, task.balls[-1]) for defense in subject.defenses)):
            report.say(f"warning: {short}")
        began = time.monotonic()
        aim = Aim.at(task)
        run = Evaluation(
            **aim.fields(), plan=task.plan, folder=folder / "units", report=report, key=task.key, carry=carrying(aim, executor)
        )
        attacks, curve = carry_out(run, task.balls)
        proof, seen = prove(run, subject), look(run)
        if not subject.batch_dependent:
            seen = (*seen, *unsteady(run))
        about = About(round(time.monotonic() - began, 3), aim.search, proof, seen, tuple(weak_plan(run)))
        card = make_card(task, run, attacks, curve, about)
        card.save(folder / "card.json")
        shutil.rmtree(folder / "units", ignore_errors=True)
        if told := reused(task, run.reused):
            report.say(f"{folder}: {told}")
    return card, told


def _relabelled(task: Task, name: str) -> Card:
    """The card under another label, which changes nothing that was measured."""
    with alone(task.folder, lambda _: None):
        card = read_card(task.folder / "card.json").model_copy(update={"name": name})
        card.save(task.folder / "card.json")
    return card


def _diagnosed(task: Task, card: Card, active: bool) -> Card:
    """The card with its diagnosis, which is made where it is not there yet."""
    if card.diagnosis and (not active or any(finding.check == ACTIVE for finding in card.diagnosis.findings)):
        return card
    broken = torch.isin(task.data.ids.cpu(), broken_ids(card, task.folder))
    with Reporter(f"diagnose {card.name}", len(CHECKS), quiet=task.quiet) as report, device.exact_float32():
        probe = probe_of(card, task.subject, task.data, broken, task.dataset, task.batch_size)
        diagnosis = diagnose(probe, report, active=active)
        with alone(task.folder, report.tell):
            # Somebody may have added examples in the meantime.
            card = read_card(task.folder / "card.json").model_copy(update={"diagnosis": diagnosis})
            card.save(task.folder / "card.json")
    return card


def probe_of(card: Card, subject: Subject, data: Dataset, broken: Tensor, dataset: str, batch_size: int) -> Probe:
    """What the diagnosis of a card looks at; broken: which of its samples have fallen, bool [n].

    A substitute learns from the training images of the data set, or from the samples where it has no split of its own.
    """
    pool = load(dataset, "train") if has_own_split(dataset) else data
    where = data.x.device
    net = subject.model.net.to(where)
    threat = ThreatModel.parse(card.threat.norm, card.threat.eps)
    judge = Judge(net, threat, VOTES if subject.noisy else 1, card.seed)
    faster = None if subject.noisy else to_low_precision(net, *(part.to(where) for part in subject.first))[0]
    return choose(data, judge, broken, batch_size=batch_size, pool=pool, low_precision=faster, own=card.attacks, plan=card.plan)


def carry_out(run: Evaluation, balls: Sequence[ThreatModel] = ()) -> tuple[list[AttackResult], list[CurvePoint]]:
    """Every attack of the plan, in order; with balls in each of them, smallest first, and the curve they make."""
    attacks, curve = [], []
    home = run.folder
    for ball in balls or (run.threat,):
        if len(balls) > 1:
            run.widen(ball, home / folder_name(ball), "" if ball == balls[-1] else f" at {ball.eps_text}")
        for number, spec in enumerate(run.plan.attacks):
            result = run_portfolio(run, number, spec) if isinstance(spec, Portfolio) else run_attack(run, number, spec)
            attacks.append(result.model_copy(update={"name": result.name + run.suffix}))
        standing = len(run.data) - int(run.broken.sum())
        interval = wilson(standing, len(run.data))
        curve.append(CurvePoint(eps=ball.eps_text, robust_accuracy=standing / len(run.data), interval=interval))
    return attacks, curve if len(balls) > 1 else []
