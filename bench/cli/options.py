"""The options that commands share."""

from __future__ import annotations

import functools
import inspect
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import BadInput
from bench.escape import lines

if TYPE_CHECKING:
    from bench.evaluation import EvaluationRequest, Execution
    from bench.training import TrainingRequest

Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="digits, mnist, cifar10, ... (see `gauntlet list datasets`), a .npz file or a folder."),
]
Norm = Annotated[str | None, typer.Option("--norm", help="linf, l2 or l1.")]
Eps = Annotated[str | None, typer.Option("--eps", help="Radius in input units: 8/255 or 0.3.")]
Sweep = Annotated[str | None, typer.Option("--eps-sweep", help="Radii, one after the other: 2/255,4/255,8/255.")]
Plan = Annotated[str, typer.Option("--plan", help="A built-in plan (see `gauntlet list plans`) or a .toml file.")]
Count = Annotated[
    int | None,
    typer.Option(
        "--n",
        help="Test samples: the first n of a named set, of your own data n with all classes alike [default: 1000, or all].",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
Eot = Annotated[
    int | None, typer.Option("--eot", help="Answers of a randomised model that attacks see the mean of [default: 20].")
]
TestTime = Annotated[
    str, typer.Option("--test-time", help='A defense to add without training: rfi, or "smoothing?sigma=0.25".')
]
RESULTS = Path("results")
Results = Annotated[Path, typer.Option("--results", help="Folder for trainings, cards and tables.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Batch = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images per batch of an attack; changes no result.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes that attack; changes no result [default: 1, on a cluster all]."),
]
On = Annotated[str | None, typer.Option("--on", help="Where they are: ray, or ray:ADDRESS of a cluster [default: here].")]
Plugin = Annotated[list[Path] | None, typer.Option("--plugin", help="A Python file with attacks or defenses of your own.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Attack anew where a card is there already; it is set aside, not lost.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A hyper-parameter, as key=value; repeatable.")]
Watch = Annotated[
    list[str] | None, typer.Option("--watch", help="kernel: look at it while training, for a few percent of the time.")
]
Name = Annotated[str | None, typer.Option("--name", help="The row's label [default: the defense's or the model's name].")]
_FORMS = "a run folder, ckpt:FILE?arch=NAME, py:FILE.py:factory or robustbench:NAME"
Model = Annotated[str, typer.Argument(help=f"{_FORMS[0].upper()}{_FORMS[1:]}.")]
Models = Annotated[list[str], typer.Argument(help=f"Two or more, each {_FORMS}.")]
OwnName = Annotated[str, typer.Argument(help="A Python identifier, such as my_method.")]
Into = Annotated[Path, typer.Option("--into", help="Folder for what is written; made where it is missing.")]


@dataclass(frozen=True)
class Training:
    """What to train and how: the options that `train` and `run` have in common."""

    defense: Annotated[str, typer.Argument(help="See `gauntlet list defenses`.")]
    dataset: Dataset = None
    model: Annotated[str | None, typer.Option("--model", help='Architecture, such as "preact_resnet18?width=16".')] = None
    norm: Norm = "linf"
    eps: Eps = None
    epochs: Annotated[int | None, typer.Option("--epochs", help="Short for --set epochs=...")] = None
    setting: Setting = None
    seed: Seed = 0
    name: Name = None
    plugin: Plugin = None
    results: Results = Path("results")
    device: Device = "auto"
    quiet: Quiet = False

    def request(self) -> TrainingRequest:
        """What is asked; plug-ins are loaded first, so that it can be of one."""
        from bench.training import TrainingRequest

        load(self.plugin)
        return TrainingRequest(
            defense=self.defense, dataset=self.dataset or "digits", model=self.model, norm=self.norm or "linf", eps=self.eps,
            seed=self.seed, settings=self._settings(), name=self.name,
        )  # fmt: skip

    def execution(
        self, batch_size: int | None = None, *, fresh: bool = False, workers: int | None = None, on: str | None = None
    ) -> Execution:
        """How it is carried out."""
        from bench.evaluation import Execution
        from bench.executors import executor_of

        return Execution(self.results, self.device, batch_size, self.quiet, fresh, executor_of(workers, on))

    def _settings(self) -> dict[str, str]:
        return settings_of([*(self.setting or []), *([] if self.epochs is None else [f"epochs={self.epochs}"])])


def settings_of(pairs: Sequence[str]) -> dict[str, str]:
    """What --set says, as texts by their names."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise BadInput(f"--set {pair!r}: write key=value, as in --set epochs=5")
        if settings.setdefault(key, value) != value:
            raise BadInput(f"{key} is given twice, as {settings[key]} and as {value}; leave one out")
    return settings


@dataclass(frozen=True)
class Evaluating:
    """What to attack and how: the options that `evaluate` and `diagnose` have in common."""

    model: Model
    dataset: Dataset = None
    norm: Norm = None
    eps: Eps = None
    eps_sweep: Sweep = None
    plan: Plan = "fast"
    n: Count = None
    seed: Seed = 0
    eot: Eot = None
    test_time: TestTime = ""
    name: Name = None
    plugin: Plugin = None
    results: Results = Path("results")
    device: Device = "auto"
    batch_size: Batch = None
    workers: Workers = None
    on: On = None
    fresh: Fresh = False
    as_json: Json = False
    quiet: Quiet = False

    def request(self) -> EvaluationRequest:
        """What is asked; plug-ins are loaded first, so that it can be of one."""
        from bench.evaluation import EvaluationRequest, radii
        from bench.plans import load as load_plan

        load(self.plugin)
        sweep = [part.strip() for part in (self.eps_sweep or "").split(",") if part]
        return EvaluationRequest(
            model=self.model, dataset=self.dataset, norm=self.norm, eps=radii(self.eps, sweep), plan=load_plan(self.plan),
            n=self.n, seed=self.seed, eot=self.eot, test_time=self.test_time, name=self.name,
        )  # fmt: skip

    def execution(self) -> Execution:
        """How it is carried out."""
        from bench.evaluation import Execution
        from bench.executors import executor_of

        quiet = quiet_for(self.quiet, self.as_json)
        return Execution(self.results, self.device, self.batch_size, quiet, self.fresh, executor_of(self.workers, self.on))


def tell(text: object, *, err: bool = False) -> None:
    """Print what a command has to say, whatever strangers' files put into it."""
    typer.echo(lines(text), err=err)


def width() -> int | None:
    """Characters of a line of the terminal; None where the output is a file or another program's."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def quiet_for(quiet: bool, as_json: bool) -> bool:
    """Whether progress is left out: asked for, or JSON that another program reads."""
    return quiet or (as_json and not sys.stderr.isatty())


def unfold(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with the fields of its first parameter, a dataclass, as parameters of its own."""
    first, *rest = inspect.signature(command, eval_str=True).parameters.values()
    fields = inspect.signature(first.annotation, eval_str=True).parameters

    @functools.wraps(command)
    def unfolded(**given: Any) -> None:
        command(first.annotation(**{key: given.pop(key) for key in fields}), **given)

    unfolded.__signature__ = inspect.Signature([*fields.values(), *rest])  # type: ignore[attr-defined]
    return unfolded


def load(plugins: list[Path] | None) -> None:
    """Run the files given with --plugin, in order."""
    if plugins:
        from bench.plugins import load_plugin

        for path in plugins:
            load_plugin(path)
