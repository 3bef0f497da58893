"""The whole product in a few minutes: six defenses on embedded data, attacked, in one table."""

from __future__ import annotations

from pathlib import Path

from bench.report import FORMATS, read_entries, render, write_leaderboard
from bench.runs import run

DEFENSES = ("standard", "fast_at", "noise_fgsm", "clean_warmup", "periodic_budget", "pgd_at")


def demo(results: Path, *, quiet: bool = False, width: int | None = None) -> str:
    """Train and attack every demo defense on digits; returns the leaderboard as text and says where everything is."""
    for name in DEFENSES:
        run(name, dataset="digits", plan_name="smoke", results=results, quiet=quiet)
    write_leaderboard(results, FORMATS)
    table = render(read_entries([results])[0], "text", width=width)
    return f"{table}\nwritten to {results}: cards, adversarial examples, leaderboard.md, .csv, .tex and .html"
