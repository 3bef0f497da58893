"""One evaluation from a model reference to its card, records and archive."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bench import device, plans
from bench.card import AttackResult, Card, CurvePoint, read_card
from bench.certify import certify
from bench.data import Dataset
from bench.engine import Evaluation
from bench.errors import BadInput, UnknownName
from bench.expectation import DRAWS
from bench.files import sha256
from bench.models import Model
from bench.plan import Plan, Portfolio
from bench.portfolio import run_portfolio
from bench.progress import Reporter
from bench.record import About, make_card
from bench.restarts import run_attack
from bench.rough import roughen
from bench.stats import wilson
from bench.subject import samples_of, subject, training_record
from bench.threat import Norm, ThreatModel

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
    test_time: a defense to add without training, such as "rfi" or "smoothing?sigma=0.25".
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
    label = name or under.label
    folder = _folder(results, dataset, balls, under.model, chosen, samples, [seed, draws, *filter(None, [test_time])])
    if card := _finished(folder):
        return card, folder / "card.json"
    with Reporter(f"evaluate {label}", len(chosen.attacks) * len(balls), quiet=quiet) as report, device.exact_float32():
        began = time.monotonic()
        net = under.model.net.to(where)
        rough, search = None, "float32: it is randomised"
        if not under.noisy:
            rough, search = roughen(net, *(part.to(where) for part in under.first))
        run = Evaluation(
            net=net,
            data=samples.to(where),
            threat=balls[0],
            plan=chosen,
            seed=seed,
            batch_size=max((batch_size or (256 if where.type == "cpu" else 1024)) // draws, 1),
            folder=folder / "units",
            report=report,
            rough=rough,
            randomised=under.noisy,
            eot=draws,
        )
        attacks, curve = carry_out(run, balls)
        # What the defense added last can prove, else what the one of the training can.
        certified = next((proof for defense in reversed(under.defenses) if (proof := certify(run, defense))), None)
        seconds = time.monotonic() - began
    about = About(under, dataset, label, test_time, round(seconds, 3), device.describe(where), search, certified)
    card = make_card(run, attacks, curve, about, folder)
    card.save(folder / "card.json")
    shutil.rmtree(folder / "units", ignore_errors=True)
    return card, folder / "card.json"


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
    card = read_card(folder / "card.json")
    files = (card.records, card.archive)
    whole = all((folder / file.file).exists() and sha256(folder / file.file) == file.sha256 for file in files)
    return card if whole else None
