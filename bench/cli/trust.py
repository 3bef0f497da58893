"""The commands that say whether numbers can be trusted; torch is imported only inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options as opt
from bench.errors import BadInput, GauntletError

trust = typer.Typer()


@trust.command()
@opt.unfold
def diagnose(
    evaluating: opt.Evaluating,
    active: Annotated[bool, typer.Option("--active", help="Plant adversarial examples and see if they are found.")] = False,
) -> None:
    """Say whether a model's number can be trusted, and why not; evaluates it first where that is not done."""
    from bench.diagnose.report import render, to_json
    from bench.evaluation import evaluated

    with evaluating.execution() as execution:
        card, path, _ = evaluated(evaluating.request(), execution, diagnosed=True, active=active)
    opt.tell(to_json(card, path) if evaluating.as_json else render(card, path))


@trust.command()
def verify(
    cards: Annotated[list[Path] | None, typer.Argument(help="Cards, or folders that hold some [default: results].")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model, if the card's reference leads nowhere.")] = None,
    dataset: opt.Dataset = None,
    plugin: opt.Plugin = None,
    device: opt.Device = "auto",
    batch_size: opt.Batch = None,
    add: Annotated[
        Path | None, typer.Option("--add", help="Examples (ids, z; .safetensors or .npz) that lower one card's row.")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Whose examples these are.")] = "",
    again: Annotated[
        int | None,
        typer.Option("--rerun", min=1, help="Attack so many samples of each row again, as its records tell."),
    ] = None,
    again_seed: Annotated[int | None, typer.Option("--rerun-seed", help="Which samples [default: nobody knows].")] = None,
    rediagnose: Annotated[
        bool, typer.Option("--diagnose", help="Make the diagnosis again, and fail where it is worse.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where anything could not be checked.")] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Check cards against their files, the data and the model; --rerun attacks some samples again. Exit code 1 where anything
    does not hold."""
    from bench.verify.cards import exit_code, render, to_json, verify_cards
    from bench.verify.loading import Given

    opt.load(plugin)
    places, given = cards or [Path("results")], Given(model, dataset, device, batch_size)
    quiet = opt.quiet_for(quiet, as_json)
    if add is None:
        rows = verify_cards(places, given, quiet=quiet)
        if again or rediagnose:
            from bench.audit import Asked, audited

            rows = audited(rows, Asked(again or 0, again_seed, rediagnose), given, quiet=quiet)
        opt.tell(to_json(rows) if as_json else render(rows))
        raise typer.Exit(exit_code(rows, strict=strict))
    from bench.verify.additions import add as run_add
    from bench.verify.additions import render as told

    if len(places) > 1 or not by:
        raise BadInput("--add takes one card, and --by NAME, which the card will say")
    added = run_add(places[0], add, by, given, quiet=quiet)
    opt.tell(told(added, as_json=as_json))
    raise typer.Exit(0 if added.card else exit_code([added.before]) or 1)


@trust.command()
def accept(
    card: Annotated[Path, typer.Argument(help="What was handed in: a .zip of `gauntlet submit`, a card or its folder.")],
    into: Annotated[Path, typer.Option("--into", help="The board: a folder of results that is committed.")],
    by: Annotated[str, typer.Option("--by", help="Who proved the number.")],
    on: Annotated[str, typer.Option("--on", help="When, to be remembered with it, such as 2026-11-28.")] = "",
    again: Annotated[
        int, typer.Option("--rerun", min=0, help="How many of its samples to attack again; 0 leaves it out.")
    ] = 50,
    again_seed: Annotated[int | None, typer.Option("--rerun-seed", help="Which samples [default: nobody knows].")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model, if the card's reference leads nowhere.")] = None,
    dataset: opt.Dataset = None,
    plugin: opt.Plugin = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run the plug-ins that came with it, which you have read.")
    ] = False,
    device: opt.Device = "auto",
    batch_size: opt.Batch = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Take a row into a board: verify it, audit it, copy it, remember its number. Exit code 1 where it is refused."""
    from bench.audit import Asked, audited
    from bench.verify.acceptance import Audit, Signed, render
    from bench.verify.acceptance import accept as run_accept
    from bench.verify.loading import Given

    opt.load(plugin)
    given, quiet = Given(model, dataset, device, batch_size), opt.quiet_for(quiet, as_json)
    audit = Audit(again, lambda row: audited([row], Asked(again, again_seed), given, quiet=True)[0]) if again else None
    accepted = run_accept(card, into, Signed(by, on), given, audit=audit, run_code=run_code, quiet=quiet)
    opt.tell(render(accepted, as_json=as_json))
    if accepted.path is None:
        raise typer.Exit(1)


@trust.command()
def compare(
    a: Annotated[str, typer.Argument(help="A card, its folder, or a folder or pattern with cards that differ in the seed.")],
    b: Annotated[str, typer.Argument(help="What it is compared with.")],
    metric: Annotated[str, typer.Option("--metric", help="robust or clean.")] = "robust",
    as_json: opt.Json = False,
) -> None:
    """Say who wins, by how much and with what certainty, and how many samples would settle it."""
    from bench.compare.pairs import compare_rows, render

    found = compare_rows(a, b, metric)
    opt.tell(found.to_json() if as_json else render(found))


@trust.command()
def check(
    baseline: Annotated[str, typer.Option("--baseline", help="The card, or its folder, that must not be undercut.")],
    candidate: Annotated[str, typer.Option("--candidate", help="The card, or its folder, that is checked.")],
    alpha: Annotated[float, typer.Option("--alpha", help="How often a drop may be seen where there is none.")] = 0.025,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Tolerated drop: 0.01 is one point; of seconds 0.5 is half as many again.")
    ] = 0.0,
    metric: Annotated[str, typer.Option("--metric", help="robust, clean or seconds.")] = "robust",
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Write a summary in Markdown.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Gate a change: exit code 1 for a regression, 2 where nothing was measured or the two do not compare."""
    from bench.compare.gate import check_regression
    from bench.compare.gate_report import publish, render

    try:
        found = check_regression(baseline, candidate, metric, alpha, tolerance)
    except GauntletError as error:
        publish(error, metric, junit, summary)
        raise
    for sentence in publish(found, metric, junit, summary):
        opt.tell(f"warning: {sentence}", err=True)
    opt.tell(found.to_json() if as_json else render(found))
    if found.regression:
        raise typer.Exit(1)
