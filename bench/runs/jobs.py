"""Train a defense and evaluate what came out: each half is done only where it is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import data
from bench.core import device
from bench.errors import GauntletError
from bench.evaluation import Answer, EvaluationRequest, Execution, choose_threat, evaluated
from bench.executors import executor_of
from bench.files import LOCK, Reporter, alone, bury, set_aside, write_text
from bench.measures import watched
from bench.models import require_the_images, resolve, training_in
from bench.plans import Plan
from bench.plans import load as load_plan
from bench.plugins import out_of_reach
from bench.results import Card, read_card, section
from bench.training import STATE, Job, Trainer, TrainingRequest, begun_anew, check_watch, finished, job_folder

SKIP_SCHEMA = 1
"""Of the file that says why a defense has no row."""


def train(  # noqa: PLR0913
    defense: str,
    *,
    dataset: object = "digits",
    model: str | None = None,
    norm: str = "linf",
    eps: str | float | None = None,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
    results: str | Path = "results",
    device_name: str = "auto",
    quiet: bool = False,
    **hyper_parameters: object,
) -> Path:
    """Train a defense and return its run folder; a training that was interrupted goes on, a finished one is left alone.

    settings: hyper-parameters of the defense or the recipe ({"epochs": 5}), which may also be given as keywords (epochs=5).
    """
    request = TrainingRequest.of(
        defense=defense, dataset=dataset, model=model, norm=norm, eps=eps, seed=seed, name=name,
        settings={**(settings or {}), **hyper_parameters},
    )  # fmt: skip
    return trained(request, Execution(Path(results), device_name, quiet=quiet))


def run(  # noqa: PLR0913
    defense: str,
    *,
    seeds: int = 1,
    dataset: object = "digits",
    model: str | None = None,
    norm: str = "linf",
    eps: str | float | None = None,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
    plan_name: str | Path | Plan = "fast",
    n: int | None = None,
    results: str | Path = "results",
    device_name: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    on: str | None = None,
    **hyper_parameters: object,
) -> list[tuple[Card, Path]]:
    """Train with seeds seed, seed + 1, ... and evaluate each, as `train` and `evaluate` do; the cards and where they are.

    fresh: attack anew where cards are there already, which are set aside; a finished training is left alone. workers, on: who
    attacks, as in `evaluate`.
    """
    request = TrainingRequest.of(
        defense=defense, dataset=dataset, model=model, norm=norm, eps=eps, seed=seed, name=name,
        settings={**(settings or {}), **hyper_parameters},
    )  # fmt: skip
    with Execution(Path(results), device_name, batch_size, quiet, fresh, executor_of(workers, on)) as execution:
        return [answer[:2] for answer in trained_and_evaluated(request, seeds, load_plan(plan_name), n, execution)]


@device.usual()
def trained(request: TrainingRequest, execution: Execution, watch: Sequence[str] = ()) -> Path:
    """The run folder of a training: made where it is not there yet, gone on with where it was interrupted.

    watch: what is looked at meanwhile, such as "kernel"; it changes nothing of the training, and lies in measures/ then.
    """
    check_watch(watch)
    job = request.job()
    folder = job_folder(job, execution.results)
    if not finished(folder, job):
        where, title = device.pick(execution.device), f"train {job.name} seed {job.seed}"
        with Reporter(title, job.recipe.epochs, quiet=execution.quiet) as report, alone(folder, report.tell):
            # Another process may have finished it while this one waited.
            if not finished(folder, job):
                if not (folder / STATE).exists() and (why := begun_anew(job, folder)):
                    report.say(why)
                if short := out_of_reach(job.defense, job.threat):
                    report.say(f"warning: {short}")
                Trainer(job, folder, where, report, watch).run()
                for aside in _of_other_weights(folder, job):
                    report.say(f"an evaluation that lay here was of other weights than were trained now; it is in {aside}")
    require_the_images(training_in(folder))
    bury(folder / LOCK)
    if watch:
        watched(folder)
    return folder


def _of_other_weights(folder: Path, job: Job) -> Iterator[Path]:
    """Set aside the evaluations in a run folder that its weights do not answer for, such as those of another processor's."""
    samples = data.load(job.dataset, "test")
    for path in sorted(folder.glob("*/card.json")):
        try:
            card = read_card(path)
            query = card.model.reference.partition("?")[2]
            now = resolve(f"run:{folder}?{query}" if query else f"run:{folder}", samples.shape, samples.classes)
        except GauntletError:
            continue
        if now.digest != card.model.digest:
            yield set_aside(path.parent)


def trained_and_evaluated(
    request: TrainingRequest, seeds: int, plan: Plan, n: int | None, execution: Execution, watch: Sequence[str] = ()
) -> list[Answer]:
    """The cards of a training with so many seeds, from its own on, and where they are."""
    # A mistake must not wait for the end of a long training.
    plan.resolved(request.job().threat)
    data.load(request.dataset, "test").first(n)
    device.pick(execution.device)
    rows = []
    for seed in range(request.seed, request.seed + seeds):
        folder = trained(request.model_copy(update={"seed": seed}), execution, watch)
        rows.append(evaluated(EvaluationRequest(model=str(folder), plan=plan, n=n), execution))
    return rows


def skip(reason: str, request: TrainingRequest, results: Path) -> Path:
    """Leave the reason why a defense has no row where the leaderboard finds it."""
    name, dataset = request.defense, request.dataset
    threat = choose_threat(request.norm, request.eps, {}, data.load(dataset, "train").family)
    path = section(results, dataset, threat) / f"{name}-skipped.json"
    content = {"schema_version": SKIP_SCHEMA, "name": name, "dataset": dataset, "threat": str(threat), "reason": reason}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path
