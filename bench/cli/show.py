"""The commands that show results: pages and pictures; torch is imported only inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options as opt

show = typer.Typer()


@show.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder with cards.")] = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the pages [default: RESULTS/report].")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every evaluation of a model, not only that of most samples.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="No galleries: ask no network what its examples are taken for.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a folder of pages that opens from disk: leaderboards, rows, comparisons, documents. The same results give the same
    bytes."""
    from bench.site import write_report

    written = write_report(results, out, every=every, galleries=not quick, quiet=quiet)
    for sentence in written.refused:
        opt.tell(f"named on the page: {sentence}", err=True)
    opt.tell(f"{written.pages} pages: {written.first}")


@show.command()
def plot(
    kind: Annotated[
        str,
        typer.Argument(
            help="tradeoff, cost, rounds, restarts, steps, eps, training, waterfall, classes, overlap, loss, measure."
        ),
    ],
    rows: Annotated[list[str], typer.Argument(help="Cards, folders or patterns; at most six curves.")],
    out: Annotated[Path, typer.Option("--out", help="A file that ends in .pdf, .svg or .png.")],
    width: Annotated[float, typer.Option("--width", min=1, max=20, help="In inches; 3.4 is a column of two, 7 a page.")] = 3.4,
) -> None:
    """Draw a picture for a paper, with intervals, units, and colours that a grey print keeps apart."""
    from bench.pictures.paper import save
    from bench.report.plots import plot as draw

    save(draw(kind, rows), out, width)
    opt.tell(out)
