"""One evaluation from a model reference to its card, records and archive."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from bench.core import device
from bench.core.expectation import DRAWS
from bench.core.judge import VOTES, Judge
from bench.core.threat import Norm, ThreatModel
from bench.data.datasets import Dataset, has_own_split, load
from bench.diagnose import ACTIVE, CHECKS, choose, examine
from bench.errors import BadInput, UnknownName
from bench.evaluation.bfloat16 import roughen
from bench.evaluation.certificates import certify
from bench.evaluation.engine import Evaluation
from bench.evaluation.portfolio import run_portfolio
from bench.evaluation.record import About, broken_ids, make_card
from bench.evaluation.restarts import run_attack
from bench.files.lock import LOCK, alone, bury
from bench.files.progress import Reporter
from bench.files.whole import sha256
from bench.models import Model
from bench.models.subject import Subject, samples_of, subject, training_record
from bench.plans import built_in as plans
from bench.plans.plan import Plan, Portfolio
from bench.plugins import registry
from bench.plugins.declared import Kind
from bench.results.card import Card, read_card
from bench.results.schema import AttackResult, CurvePoint
from bench.statistics.proportions import wilson

DEFAULT_EPS = {"digits": "0.2", "mnist": "0.3", "cifar": "8/255"}
"""linf budgets for each family of data sets."""
PROTOCOL = 2
"""Part of an evaluation's key; raised when the same plan would find something else."""


def evaluate(
    reference: str,
    *,
    dataset: str | None = None,
    norm: str | None = None,
    eps: str | None = None,
    eps_sweep: Sequence[str] = (),
    plan_name: str = "fast",
    n: int | None = None,
    seed: int = 0,
    eot: int | None = None,
    test_time: str = "",
    diagnosed: bool = False,
    active: bool = False,
    results: Path = Path("results"),
    name: str | None = None,
    device_name: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
) -> tuple[Card, Path]:
    """Attack a model with a plan and write its card; a card that is already there is read instead.

    reference: a run folder, `run:`, `ckpt:`, `py:` or `robustbench:` (see bench.models.reference). dataset, norm and eps
    default to those the model was trained with. eps_sweep: radii to attack one after the other, each going on from what the
    smaller ones broke; the card is that of the largest. n: the first n test samples (default 1000, or all where there are
    fewer). eot: the answers of a randomised model that attacks see the mean of (default 20, and 1 for any other model).
    test_time: a defense to add without training, such as "rfi" or "smoothing?sigma=0.25". diagnosed: say whether the number can
    be trusted, as plans may ask for themselves; active: with the binarization test among the checks.
    Returns the card and the path it was written to.
    """
    trained = training_record(reference)
    dataset = dataset or trained.get("dataset") or "digits"
    where = device.pick(device_name)
    samples = samples_of(dataset, trained, n)
    if eps is not None and eps_sweep:
        raise BadInput(f"both eps {eps} and a sweep over {', '.join(eps_sweep)} are given; leave one out")
    balls = sorted(
        {choose_threat(norm, radius, trained.get("threat", {}), samples.family) for radius in eps_sweep or (eps,)},
        key=lambda ball: ball.eps,
    )
    under = subject(reference, samples, dataset, seed, test_time)
    chosen = plans.load(plan_name)
    for defense in under.defenses:
        chosen = chosen.extended(defense.adaptive())
    chosen = chosen.resolved(balls[-1])
    draws = _draws(under.noisy, eot)
    foreign = _foreign_code(under, chosen)
    # What is the default adds nothing, so that a row keeps its folder.
    rest = [seed, draws, *filter(None, [test_time, foreign])]
    folder = _folder(results, dataset, balls, under.model, chosen, samples, rest)
    size = max((batch_size or (256 if where.type == "cpu" else 1024)) // draws, 1)
    task = _Task(
        under,
        dataset,
        foreign,
        samples.to(where),
        balls,
        chosen,
        seed,
        draws,
        test_time,
        name or under.label,
        folder,
        where,
        size,
        quiet,
    )
    card = _finished(folder) or _attacked(task)
    if diagnosed or active or chosen.diagnose:
        card = _diagnosed(task, card, active)
    return card, folder / "card.json"


class _Task(NamedTuple):
    """One evaluation, everything about it decided."""

    under: Subject
    dataset: str
    code: dict[str, str]
    """Of the defenses and attacks that are not ours."""
    data: Dataset
    balls: Sequence[ThreatModel]
    plan: Plan
    seed: int
    draws: int
    test_time: str
    label: str
    folder: Path
    where: torch.device
    batch_size: int
    quiet: bool


def _attacked(task: _Task) -> Card:
    """Carry out the plan and write the card; where another process is at it, wait for its card instead."""
    under, folder = task.under, task.folder
    title, steps = f"evaluate {task.label}", len(task.plan.attacks) * len(task.balls)
    with Reporter(title, steps, quiet=task.quiet) as report, alone(folder, report.tell), device.exact_float32():
        if card := _finished(folder):
            return card
        began = time.monotonic()
        net = under.model.net.to(task.where)
        rough, search = None, "float32: it is randomised"
        if not under.noisy:
            rough, search = roughen(net, *(part.to(task.where) for part in under.first))
        run = Evaluation(
            net=net, data=task.data, threat=task.balls[0], plan=task.plan, seed=task.seed, batch_size=task.batch_size,
            folder=folder / "units", report=report, rough=rough, randomised=under.noisy, eot=task.draws,
        )  # fmt: skip
        attacks, curve = carry_out(run, task.balls)
        # What the defense added last can prove, else what the one of the training can; nothing of an image in company.
        proving = () if under.batch_dependent else reversed(under.defenses)
        certified = next((proof for defense in proving if (proof := certify(run, defense))), None)
        seconds = round(time.monotonic() - began, 3)
        about = About(
            under, task.dataset, task.label, task.test_time, task.code, seconds, device.describe(task.where), search, certified
        )  # fmt: skip
        card = make_card(run, attacks, curve, about, folder)
        card.save(folder / "card.json")
        shutil.rmtree(folder / "units", ignore_errors=True)
    return card


def _diagnosed(task: _Task, card: Card, active: bool) -> Card:
    """The card with its diagnosis, which is made where it is not there yet."""
    if card.diagnosis and (not active or any(finding.check == ACTIVE for finding in card.diagnosis.findings)):
        return card
    threat = ThreatModel.parse(card.threat.norm, card.threat.eps)
    broken = torch.isin(task.data.ids.cpu(), broken_ids(card, task.folder))
    with Reporter(f"diagnose {card.name}", len(CHECKS), quiet=task.quiet) as report, device.exact_float32():
        net, noisy = task.under.model.net.to(task.where), task.under.noisy
        judge = Judge(net, threat, VOTES if noisy else 1, card.seed)
        rough = None if noisy else roughen(net, *(part.to(task.where) for part in task.under.first))[0]
        probe = choose(
            task.data, judge, broken, batch_size=task.batch_size, pool=_pool(task), rough=rough, own=card.attacks
        )  # fmt: skip
        diagnosis = examine(probe, report, active=active)
        with alone(task.folder, report.tell):
            # Somebody may have added examples in the meantime.
            card = read_card(task.folder / "card.json").model_copy(update={"diagnosis": diagnosis})
            card.save(task.folder / "card.json")
    return card


def _pool(task: _Task) -> Dataset:
    """The training images where the data has a split of its own, else the samples themselves."""
    return load(task.dataset, "train") if has_own_split(task.dataset) else task.data


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


def _foreign_code(under: Subject, plan: Plan) -> dict[str, str]:
    """A digest of the code of every defense and attack that takes part and is not ours."""
    names: list[tuple[Kind, str]] = [("defense", defense.name) for defense in under.defenses]
    for entry in plan.attacks:
        arms = (*entry.opening, *entry.arms, *entry.blind) if isinstance(entry, Portfolio) else (entry,)
        names += [("attack", arm.attack) for arm in arms]
    found = {f"{kind} {name}": registry.code(kind, name) for kind, name in names}
    return {name: digest for name, digest in sorted(found.items()) if digest}


def _draws(noisy: bool, eot: int | None) -> int:
    """How many answers attacks see the mean of."""
    if eot is not None and eot < 1:
        raise BadInput(f"eot {eot}: an expectation needs at least one answer")
    return (DRAWS if eot is None else eot) if noisy else 1


def choose_threat(norm: str | None, eps: str | None, trained: dict[str, str], family: str) -> ThreatModel:
    """What the user said, else what the model was trained for, else the usual linf budget of the data."""
    norm = norm or trained.get("norm", "linf")
    if eps is None and trained.get("norm") == norm:
        eps = trained["eps"]
    if norm not in get_args(Norm):
        raise UnknownName("norm", norm, get_args(Norm))
    if eps is None and norm != "linf":
        raise BadInput(f"no default eps for {norm}; give one, such as --eps 0.5")
    return ThreatModel.parse(norm, eps or DEFAULT_EPS[family])


def _folder(
    results: Path,
    dataset: str,
    balls: Sequence[ThreatModel],
    model: Model,
    chosen: Plan,
    samples: Dataset,
    rest: Sequence[object],
) -> Path:
    threats = " ".join(map(str, balls))
    key = json.dumps([PROTOCOL, model.digest, samples.digest, threats, chosen.digest, len(samples), *rest])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    home = model.run or results / Path(dataset).stem / folder_name(balls[-1]) / f"{model.name}-{model.digest[:8]}"
    return home / f"{chosen.name}-{digest}"


def folder_name(threat: ThreatModel) -> str:
    """A threat model as a folder's name: "linf-8_255"."""
    return f"{threat.norm}-{threat.eps_text.replace('/', '_')}"


def _finished(folder: Path) -> Card | None:
    """The card of an evaluation that is there with its records and archive, unharmed."""
    if not (folder / "card.json").exists():
        return None
    try:
        card = read_card(folder / "card.json")
    except BadInput as error:
        raise BadInput(f"{error}; delete {folder} before that") from None
    files = (card.records, card.archive, *(addition.archive for addition in card.additions))
    if not all((folder / file.file).exists() and sha256(folder / file.file) == file.sha256 for file in files):
        if card.additions:
            raise BadInput(
                f"a file beside {folder / 'card.json'} is missing or changed, and evaluating anew would lose the examples that "
                f"{card.additions[0].by} added; restore it (`gauntlet verify` names it), or move the folder away"
            )
        return None
    # What a kill after the card was written has left behind.
    shutil.rmtree(folder / "units", ignore_errors=True)
    bury(folder / LOCK)
    return card
