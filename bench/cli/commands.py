"""The command line. It imports torch only inside a command, so that --help and --version answer at once."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.cli import options as opt
from bench.cli.boards import boards
from bench.cli.parsing import Command
from bench.cli.science import science
from bench.cli.show import show
from bench.cli.trust import trust
from bench.errors import GauntletError, PluginWarning, Skipped, UnknownName, no_room, out_of_memory
from bench.escape import line

app = typer.Typer(
    name="gauntlet",
    help="How robust is this classifier, really? Train defenses, attack them, publish rows a stranger can check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
plans = typer.Typer(help="Which attacks are run, and how.", no_args_is_help=True)
new = typer.Typer(
    help="A defense, an attack or a board of your own, to start from: an example that works.", no_args_is_help=True
)
app.add_typer(plans, name="plan")
app.add_typer(new, name="new")
app.add_typer(boards)
app.add_typer(trust)
app.add_typer(science)
app.add_typer(show)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        opt.tell(f"gauntlet {installed('gauntlet-bench')}")
        raise typer.Exit


@app.command()
def demo(results: opt.Results = Path("results/demo"), quiet: opt.Quiet = False) -> None:
    """Train six defenses on 1,797 real digits, attack each with the smoke plan, print a leaderboard."""
    from bench.cli.demo import demo as run_demo

    opt.tell(run_demo(results, quiet=quiet, width=opt.width()))


@app.command()
@opt.unfold
def train(training: opt.Training, watch: opt.Watch = None) -> None:
    """Train a defense. Run it again after an interruption and it goes on; a finished training is left alone."""
    from bench.runs import trained

    opt.tell(trained(training.request(), training.execution(), watch or ()))


@app.command()
@opt.unfold
def evaluate(evaluating: opt.Evaluating) -> None:
    """Attack a model with a plan and write its card, records and adversarial examples."""
    from bench.evaluation import evaluated
    from bench.report import summary

    with evaluating.execution() as execution:
        card, path, told = evaluated(evaluating.request(), execution)
    opt.tell(card.to_json().rstrip() if evaluating.as_json else summary([(card, path)], [told], opt.width()))


@app.command()
@opt.unfold
def run(
    training: opt.Training,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to train, from --seed on.")] = 1,
    plan: opt.Plan = "fast",
    n: opt.Count = None,
    watch: opt.Watch = None,
    batch_size: opt.Batch = None,
    workers: opt.Workers = None,
    on: opt.On = None,
    fresh: opt.Fresh = False,
) -> None:
    """Train a defense, evaluate it, record it. Idempotent: run it again and it does only what is missing."""
    from bench.plans import load as load_plan
    from bench.report import summary
    from bench.runs import skip, trained_and_evaluated

    request = training.request()
    try:
        with training.execution(batch_size, fresh=fresh, workers=workers, on=on) as execution:
            rows = trained_and_evaluated(request, seeds, load_plan(plan), n, execution, watch or ())
        opt.tell(summary([row[:2] for row in rows], [row.told for row in rows], opt.width()))
    except Skipped as reason:
        noted = skip(str(reason), request, training.results)
        opt.tell(f"skipped: {reason}; noted for the leaderboard in {noted}")


@app.command()
def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder with cards.")] = Path("results"),
    form: Annotated[str, typer.Option("--format", help="md, csv, tex, html or all.")] = "all",
    every: Annotated[bool, typer.Option("--all", help="Every evaluation of a model, not only that of most samples.")] = False,
    verified: Annotated[bool, typer.Option("--verified", help="Only rows that their own files prove.")] = False,
) -> None:
    """Write the tables of all cards below a folder. The same cards give the same bytes."""
    from bench.report import FORMATS, write_leaderboard

    if form not in (*FORMATS, "all"):
        raise UnknownName("format", form, [*FORMATS, "all"])
    written, refused = write_leaderboard(results, FORMATS if form == "all" else [form], every=every, verified=verified)
    for sentence in refused:
        opt.tell(f"left out: {sentence}", err=True)
    for path in written:
        opt.tell(path)


@app.command()
def transfer(
    model: opt.Models,
    dataset: opt.Dataset = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    n: opt.Count = None,
    seed: opt.Seed = 0,
    plugin: opt.Plugin = None,
    device: opt.Device = "auto",
    batch_size: opt.Batch = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Try the adversarial examples of every model on every other; tell whose own gradient finds less than another's."""
    from bench.evaluation.transfer import render, to_json, transfer_matrix

    opt.load(plugin)
    found = transfer_matrix(
        model, dataset=dataset, norm=norm, eps=eps, n=n, seed=seed, device_name=device, batch_size=batch_size,
        quiet=opt.quiet_for(quiet, as_json),
    )  # fmt: skip
    opt.tell(to_json(found) if as_json else render(found))


@plans.command("show")
def show_plan(name: Annotated[str, typer.Argument(help="A built-in plan or a .toml file.")], plugin: opt.Plugin = None) -> None:
    """Print a plan as a TOML file, to read or to edit."""
    from bench.plans import built_in

    opt.load(plugin)
    opt.tell(built_in.show(built_in.load(name)).rstrip())


@new.command("defense")
def new_defense(name: opt.OwnName, into: opt.Into = Path()) -> None:
    """Write NAME.py, a defense that trains as it stands, and test_NAME.py."""
    from bench.doctor import scaffold

    opt.tell(scaffold("defense", name, into))


@new.command("attack")
def new_attack(name: opt.OwnName, into: opt.Into = Path()) -> None:
    """Write NAME.py, an attack that works as it stands, and test_NAME.py."""
    from bench.doctor import scaffold

    opt.tell(scaffold("attack", name, into))


@new.command("board")
def new_board(
    name: Annotated[str, typer.Argument(help="What the file is called, such as mine.")], into: opt.Into = Path()
) -> None:
    """Write NAME.toml, a leaderboard that can be made as it stands."""
    from bench.doctor import scaffold_board

    opt.tell(scaffold_board(name, into))


@app.command()
def doctor(
    name: Annotated[str, typer.Argument(help="A defense or an attack.")],
    setting: opt.Setting = None,
    plugin: opt.Plugin = None,
) -> None:
    """Check a defense or an attack against what the harness relies on; exit code 1 where something is wrong."""
    from bench.doctor.examination import examine_plugin, render

    opt.load(plugin)
    findings = examine_plugin(name, opt.settings_of(setting or []))
    opt.tell(render(name, findings))
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


@app.command("list")
def list_names(
    what: Annotated[
        str, typer.Argument(help="defenses, attacks, models, datasets, plans or all; or a name in one of these.")
    ] = "all",
    plugin: opt.Plugin = None,
) -> None:
    """What there is, a line each; or a defense or an attack with its parameters, their meaning and defaults."""
    from bench.cli.catalogue import catalogue

    opt.load(plugin)
    opt.tell(catalogue(what))


for _group in (app, plans, new, boards, trust, science, show):
    for _command in _group.registered_commands:
        _command.cls = Command


class _Terminated(BaseException):
    """SIGTERM; no SystemExit, which would be told as a fault of whatever plug-in was at work."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def main() -> None:
    """Run the command line: 0 when all is well, 1 when a check failed, 2 for misuse, 130 or 143 when interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *place, **rest: (
        f"warning: {line(message)}\n" if issubclass(category, PluginWarning) else plain(message, category, *place, **rest)
    )
    try:
        code = app(standalone_mode=False)
    except GauntletError as error:
        opt.tell(f"error: {error}", err=True)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _Terminated:
        code = 143
    except SystemExit as stop:
        code = stop.code if (told := _culprit(stop)) is None else _error(told)
    except OSError as error:
        if out_of_memory(error):
            sys.exit(_told(error))
        named = f": {error.filename}" if error.filename else ""
        opt.tell(f"error: {error.strerror or error}{named}; everything finished is kept", err=True)
        code = 2
    except Exception as error:
        misuse = _told(error)
        if misuse is None:
            raise
        code = misuse
    if code in (130, 143):
        opt.tell("interrupted; everything finished is kept, and the same command goes on from there", err=True)
    sys.exit(code)


def _error(told: str) -> int:
    opt.tell(f"error: {told}", err=True)
    return 2


def _culprit(error: BaseException) -> str | None:
    """The line of a user's file that an error passed last; none has run before the room of plug-ins is loaded."""
    userfile = sys.modules.get("bench.plugins.userfile")
    return userfile.culprit(error) if userfile else None


def _told(error: Exception) -> int | None:
    """Tell misuse of the command line, a lack of memory and a fault of a plug-in; anything else is a bug of ours and keeps its
    traceback."""
    if isinstance(error, ImportError) and (short := no_room(error)):
        return _error(short)
    if out_of_memory(error):
        hint = "try a smaller --batch-size, for a training --set batch_size=..., or --device cpu"
        opt.tell(f"error: out of memory; everything finished is kept: {hint}", err=True)
        return 2
    if told := _culprit(error):
        return _error(told)
    if not hasattr(error, "format_message"):
        return None
    error.show()  # type: ignore[attr-defined]
    return int(getattr(error, "exit_code", 2))
