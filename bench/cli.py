"""The command line. It imports torch only inside a command, so that --help and --version answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BadInput, GauntletError, Skipped, UnknownName

app = typer.Typer(
    name="gauntlet",
    help="How robust is this classifier, really? Train defenses, attack them, publish rows a stranger can check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
plans = typer.Typer(help="Which attacks are run, and how.", no_args_is_help=True)
app.add_typer(plans, name="plan")

DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="digits, mnist, cifar10, ... (see `gauntlet list datasets`), a .npz file or a folder."),
]
NormOption = Annotated[str, typer.Option("--norm", help="linf, l2 or l1.")]
EpsOption = Annotated[str | None, typer.Option("--eps", help="Radius in input units: 8/255 or 0.3.")]
PlanOption = Annotated[str, typer.Option("--plan", help="A built-in plan (see `gauntlet list plans`) or a .toml file.")]
CountOption = Annotated[int | None, typer.Option("--n", help="Evaluate the first n test samples [default: 1000, or all].")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder for trainings, cards and tables.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
BatchOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images per batch of an attack; changes no result.")
]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file with attacks or defenses of your own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the card as JSON and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
ModelOption = Annotated[str | None, typer.Option("--model", help='Architecture, such as "preact_resnet18?width=16".')]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A hyper-parameter, as key=value; repeatable.")]
NameOption = Annotated[str | None, typer.Option("--name", help="The row's label [default: the defense's or the model's name].")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"gauntlet {installed('gauntlet-bench')}")
        raise typer.Exit


@app.command()
def demo(results: ResultsOption = Path("results/demo"), quiet: QuietOption = False) -> None:
    """Train six defenses on 1,797 real digits, attack each with the smoke plan, print a leaderboard."""
    from bench.demo import demo as run_demo

    typer.echo(run_demo(results, quiet=quiet))


@app.command()
def train(
    defense: Annotated[str, typer.Argument(help="See `gauntlet list defenses`.")],
    dataset: DatasetOption = None,
    model: ModelOption = None,
    norm: NormOption = "linf",
    eps: EpsOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Short for --set epochs=...")] = None,
    seed: SeedOption = 0,
    setting: SetOption = None,
    name: NameOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train a defense. Run it again after an interruption and it goes on; a finished training is left alone."""
    from bench.jobs import train as run_train

    _load(plugin)
    folder = run_train(
        defense, dataset=dataset or "digits", model=model, norm=norm, eps=eps, seed=seed,
        settings=_settings(setting, epochs), name=name, results=results, device_name=device, quiet=quiet,
    )  # fmt: skip
    typer.echo(folder)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, ckpt:FILE?arch=NAME or py:FILE.py:factory.")],
    dataset: DatasetOption = None,
    norm: Annotated[str | None, typer.Option("--norm", help="linf, l2 or l1.")] = None,
    eps: EpsOption = None,
    eps_sweep: Annotated[str | None, typer.Option("--eps-sweep", help="Radii, one after the other: 2/255,4/255,8/255.")] = None,
    plan: PlanOption = "fast",
    n: CountOption = None,
    seed: SeedOption = 0,
    eot: Annotated[
        int | None, typer.Option("--eot", help="Answers of a randomised model that attacks see the mean of [default: 20].")
    ] = None,
    name: NameOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    batch_size: BatchOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Attack a model with a plan and write its card, records and adversarial examples."""
    from bench.evaluation import evaluate as run_evaluate
    from bench.tables import summary

    _load(plugin)
    card, path = run_evaluate(
        model, dataset=dataset, norm=norm, eps=eps, eps_sweep=[part.strip() for part in (eps_sweep or "").split(",") if part],
        plan_name=plan, n=n, seed=seed, eot=eot, results=results, name=name, device_name=device, batch_size=batch_size,
        quiet=quiet or (as_json and not sys.stderr.isatty()),
    )  # fmt: skip
    typer.echo(card.to_json().rstrip() if as_json else summary([(card, path)]))


@app.command()
def run(
    defense: Annotated[str, typer.Argument(help="See `gauntlet list defenses`.")],
    dataset: DatasetOption = None,
    model: ModelOption = None,
    norm: NormOption = "linf",
    eps: EpsOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Short for --set epochs=...")] = None,
    seed: SeedOption = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to train, from --seed on.")] = 1,
    setting: SetOption = None,
    plan: PlanOption = "fast",
    n: CountOption = None,
    name: NameOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    batch_size: BatchOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a defense, evaluate it, record it. Idempotent: run it again and it does only what is missing."""
    from bench.jobs import run as run_all
    from bench.jobs import skip
    from bench.tables import summary

    _load(plugin)
    chosen = dataset or "digits"
    try:
        rows = run_all(
            defense,
            seeds=seeds,
            seed=seed,
            plan_name=plan,
            n=n,
            results=results,
            device_name=device,
            batch_size=batch_size,
            quiet=quiet,
            dataset=chosen,
            model=model,
            norm=norm,
            eps=eps,
            settings=_settings(setting, epochs),
            name=name,
        )
    except Skipped as reason:
        typer.echo(f"skipped: {reason}; noted for the leaderboard in {skip(str(reason), defense, chosen, norm, eps, results)}")
        return
    typer.echo(summary(rows))


@app.command()
def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder with cards.")] = Path("results"),
    form: Annotated[str, typer.Option("--format", help="md, csv, tex, html or all.")] = "all",
) -> None:
    """Write the tables of all cards below a folder. The same cards give the same bytes."""
    from bench.tables import FORMATS, write_leaderboard

    if form not in (*FORMATS, "all"):
        raise UnknownName("format", form, [*FORMATS, "all"])
    written, refused = write_leaderboard(results, FORMATS if form == "all" else [form])
    for sentence in refused:
        typer.echo(f"left out: {sentence}", err=True)
    for path in written:
        typer.echo(path)


@app.command()
def transfer(
    model: Annotated[list[str], typer.Argument(help="Two or more: run folders, ckpt:FILE?arch=NAME or py:FILE.py:factory.")],
    dataset: DatasetOption = None,
    norm: Annotated[str | None, typer.Option("--norm", help="linf, l2 or l1.")] = None,
    eps: EpsOption = None,
    n: CountOption = None,
    seed: SeedOption = 0,
    plugin: PluginOption = None,
    device: DeviceOption = "auto",
    batch_size: BatchOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the matrix and the flags as JSON and nothing else.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Try the adversarial examples of every model on every other; tell whose own gradient finds less than another's."""
    from bench.transfer import render, to_json, transfer_matrix

    _load(plugin)
    found = transfer_matrix(
        model, dataset=dataset, norm=norm, eps=eps, n=n, seed=seed, device_name=device, batch_size=batch_size,
        quiet=quiet or (as_json and not sys.stderr.isatty()),
    )  # fmt: skip
    typer.echo(to_json(found) if as_json else render(found))


@plans.command("show")
def show_plan(
    name: Annotated[str, typer.Argument(help="A built-in plan or a .toml file.")], plugin: PluginOption = None
) -> None:
    """Print a plan as a TOML file, to read or to edit."""
    from bench.plans import load, show

    _load(plugin)
    typer.echo(show(load(name)).rstrip())


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="defenses, attacks, models, datasets, plans or all.")] = "all",
    plugin: PluginOption = None,
) -> None:
    """What there is, a line each."""
    from bench.catalogue import catalogue

    _load(plugin)
    typer.echo(catalogue(what))


def _load(plugins: list[Path] | None) -> None:
    if plugins:
        from bench.registry import load_plugin

        for path in plugins:
            load_plugin(path)


def _settings(pairs: list[str] | None, epochs: int | None) -> dict[str, str]:
    settings = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise BadInput(f"--set {pair!r}: write key=value, as in --set epochs=5")
        settings[key] = value
    return settings | ({} if epochs is None else {"epochs": str(epochs)})


def main() -> None:
    """Run the command line: 0 when all is well, 1 when a check failed, 2 for misuse, 130 when interrupted."""
    try:
        code = app(standalone_mode=False)
    except GauntletError as error:
        typer.echo(f"error: {error}", err=True)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except MemoryError:
        typer.echo("error: out of memory; everything finished is kept: try a smaller --batch-size", err=True)
        code = 2
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{named}; everything finished is kept", err=True)
        code = 2
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        error.show()  # type: ignore[attr-defined]
        code = getattr(error, "exit_code", 2)
    if code == 130:
        typer.echo("interrupted; everything finished is kept, and the same command goes on from there", err=True)
    sys.exit(code)
