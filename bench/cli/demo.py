"""The whole product in a few minutes: six defenses on embedded data, attacked, in one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.cli.options import tell
from bench.files import alone
from bench.report import FORMATS, read_entries, render, write_leaderboard
from bench.runs import run
from bench.site import write_report

DEFENSES = ("standard", "fast_at", "noise_fgsm", "clean_warmup", "periodic_budget", "pgd_at")


def demo(results: Path, *, quiet: bool = False, width: int | None = None) -> str:
    """Train and attack every demo defense on digits; returns the leaderboard as text and says where everything is, the page to
    open last."""
    for name in DEFENSES:
        run(name, dataset="digits", plan_name="smoke", results=results, quiet=quiet)
    with alone(results, partial(tell, err=True)):
        read = read_entries([results], falls=True)
        write_leaderboard(results, FORMATS, read=read)
        report = write_report(results, quiet=quiet, read=read)
    return (
        f"{render(read[0], 'text', width=width)}\n"
        f"written to {results}: cards, adversarial examples, leaderboard.md, .csv, .tex and .html\n"
        f"open {report.first}: {report.pages} pages, by `gauntlet report {results}`; they say what fell to what, and prove it"
    )
