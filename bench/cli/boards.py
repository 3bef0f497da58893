"""The commands that make a leaderboard of a file, and rows of it for and from others; torch is imported only inside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options as opt

if TYPE_CHECKING:
    from bench.evaluation import Execution
    from bench.report import Count, Entry, Page, Skip
    from bench.runs import Board, Line, Standing, Survey

boards = typer.Typer()
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Networks at a time, in processes of their own that share the threads [default: 1]."),
]
On = Annotated[
    str | None, typer.Option("--on", help="ray or ray:ADDRESS: on a cluster that shares the results folder (extra [ray]).")
]


@boards.command()
def board(
    file: Annotated[Path, typer.Argument(help="The board, a .toml file; `gauntlet new board` writes one.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it would take.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say how far it is.")] = False,
    tables: Annotated[
        bool, typer.Option("--tables", help="Write the tables and pages of what is there; nothing is trained or attacked.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="The rows of this name or shell pattern, such as 'pgd_at*'; repeatable.")
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option("--plan", help="The evaluations under this plan, or under those of a shell pattern; repeatable."),
    ] = None,
    workers: Workers = None,
    on: On = None,
    plugin: opt.Plugin = None,
    results: opt.Results = Path("results"),
    device: opt.Device = "auto",
    batch_size: opt.Batch = None,
    quiet: opt.Quiet = False,
) -> None:
    """Train, attack and diagnose what is missing of a leaderboard, then write its tables and pages. Idempotent: a killed board
    goes on. Exit code 1 where a row failed; it stops no other."""
    from bench.core.device import pick
    from bench.errors import BadInput
    from bench.evaluation import Execution
    from bench.runs import Prices, Survey, chosen, failures_file, lines_of, overview, read_board, read_failures

    opt.load(plugin)
    pick(device)
    content, execution = read_board(file), Execution(results, device, batch_size, quiet)
    every = lines_of(content, file, results)
    memory = failures_file(file, results)
    survey = Survey(content.dataset, execution, read_failures(memory))
    meant = chosen(every, only or (), plan or ())
    if dry_run or status:
        standings = [survey.look(line) for line in meant]
        costs = Prices(results, device).of_all(standings) if dry_run else None
        opt.tell(overview(f"{content.title} ({file})\n", standings, costs, workers or 1))
        return
    failed = {} if tables else _made(file, [survey.look(line) for line in meant], execution, workers, on, plugin or [])
    written = _tables(file, content, every, Survey(content.dataset, execution, {}), results)
    for path in written:
        opt.tell(path)
    if tables and not written:
        raise BadInput(f"there are no cards in {results}; without --tables the board makes them")
    for label, reason in failed.items():
        opt.tell(f"failed: {label}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


def _made(
    file: Path, standings: list[Standing], execution: Execution, workers: int | None, on: str | None, plugins: list[Path]
) -> dict[str, str]:
    """Do what is left; why lines failed, those included that could not even be begun."""
    from bench.executors import executor_of
    from bench.runs import failures_file, note_skips, regenerate, work_of
    from bench.wording import count_of

    works = work_of(standings, execution, plugins)
    unbegun = {one.line.label: one.reason for one in standings if one.line.reason and one.training != "skipped"}
    note_skips([one.line for one in standings], execution.results)
    if not works:
        done = sum(one.done for one in standings)
        opt.tell(f"nothing to do: {done} of {count_of(len(standings), 'network')} of {file} are done", err=True)
        return unbegun
    memory, together = failures_file(file, execution.results), bool(on) or (workers or 1) > 1
    with executor_of(workers, on) as executor:
        return unbegun | regenerate(works, executor, f"board {file.stem}", memory, quiet=execution.quiet, together=together)


def _tables(file: Path, content: Board, lines: list[Line], survey: Survey, results: Path) -> list[Path]:
    """Write the leaderboard of the results, the page of the board and the report; where they are."""
    from bench.files import alone
    from bench.report import FORMATS, read_entries, read_skips, write_board, write_leaderboard
    from bench.site import write_report

    if not results.exists():
        return []
    # Another board of the same results would write what it read before.
    with alone(results, partial(opt.tell, err=True)):
        read = read_entries([results], falls=True)
        entries, _ = read
        if not entries:
            return []
        written, refused = write_leaderboard(results, FORMATS, read=read)
        for sentence in refused:
            opt.tell(f"left out: {sentence}", err=True)
        page = results / "boards" / f"{file.stem}.md"
        write_board(page, _page(content, [survey.look(line) for line in lines], entries, read_skips(results)))
        return [*written, page, write_report(results, quiet=survey.execution.quiet, read=read).first]


def _page(content: Board, standings: Sequence[Standing], entries: Sequence[Entry], skips: Sequence[Skip]) -> Page:
    """What the page of the board shows: its own rows of all results, and what others say of them."""
    from bench.compare import best_of_each_model, two_plans
    from bench.report import Beside, Figure, Page

    known = {entry.path.resolve(): entry for entry in entries}
    own = [(one.line, [known[path] for path in one.cards if path in known]) for one in standings]
    figures = [
        Figure(row, said.source, said.clean, said.robust, said.attack or "", said.n, said.note or "",
               [entry for line, mine in own if line.row == row for entry in mine])
        for row, (subject, threat) in {line.row: (line.subject, line.threat) for line, _ in own}.items()
        for said in subject.published if said.threat in (None, threat)
    ]  # fmt: skip
    # Of a network that has several under one plan, that of most samples, as on the leaderboard.
    most = [(line, [mine[place] for place in best_of_each_model([e.card for e in mine])]) for line, mine in own]
    kinds = {kind: [e for line, mine in most if (line.kind == "broken") is kind for e in mine] for kind in (False, True)}
    beside = [
        Beside(line.row, line.seed, pair)
        for line, mine in own if line.kind != "broken"
        for pair in two_plans([entry.outcomes for entry in mine if entry.outcomes])
    ]  # fmt: skip
    return Page(content.title, content.about, kinds[False], kinds[True], figures, skips, beside, _counts(standings))


def _counts(standings: Sequence[Standing]) -> list[Count]:
    """How many cards of each row and plan are there, of all that is asked for and not left out with a reason."""
    from bench.report import Count
    from bench.runs import plan_words

    cards: dict[tuple[str, str], list[bool]] = {}
    for line, evaluations in ((one.line, one.evaluations) for one in standings if one.training != "skipped"):
        for found in evaluations:
            cards.setdefault((line.row, plan_words(found.asked.request)), []).append(found.card is not None)
    return [Count(row, plan, sum(there), len(there)) for (row, plan), there in cards.items()]


@boards.command()
def submit(
    row: Annotated[Path, typer.Argument(help="A run folder, or the folder of one of its evaluations.")],
    into: Annotated[Path | None, typer.Option("--into", help="The file [default: the run's name, .zip].")] = None,
    paper: Annotated[str, typer.Option("--paper", help="Where the method is published.")] = "",
    authors: Annotated[Path | None, typer.Option("--authors", help="A text file: what its authors want to be known.")] = None,
    weights_at: Annotated[
        str, typer.Option("--weights-at", help="Where the weights can be had; they are then left out of the file.")
    ] = "",
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", help="A Python file that the row was made with; packed, and not run.")
    ] = None,
) -> None:
    """Pack a row into one file to send: card, records, examples and weights. Nothing of it is run."""
    from bench.verify.submission import submission_of
    from bench.verify.submission import submit as pack

    file, names = pack(row, into, submission_of(paper, authors, weights_at), plugin or [])
    size = file.stat().st_size / 2**20
    opt.tell(f"wrote {file}, {size:.1f} MiB:")
    for name in names:
        opt.tell(f"  {name}")
    opt.tell(f"send it; whoever keeps the board runs `gauntlet accept {file.name} --into results --by NAME`")
