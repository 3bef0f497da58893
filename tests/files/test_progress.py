"""What a reader off a terminal hears of long work: lines with an estimate, a beat, and nothing once it is over."""

import time
from pathlib import Path

import pytest

from bench import evaluate
from bench.files import progress
from bench.files.progress import Reporter


def test_what_takes_long_is_heard_of_and_then_no_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "BEAT", 0.1)
    with Reporter("evaluate net", 4) as report:
        report.advance(1.0, "autoattack")
        time.sleep(0.35)
    heard = capsys.readouterr().err.splitlines()
    assert 2 <= len(heard) <= 4
    assert all(line.startswith("evaluate net: autoattack, 0 s so far · about ") for line in heard)
    time.sleep(0.25)
    assert capsys.readouterr().err == ""


def test_the_quiet_hear_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BEAT", 0.05)
    with Reporter("evaluate net", 4, quiet=True) as report:
        report.advance(1.0, "autoattack")
        time.sleep(0.15)
    assert capsys.readouterr().err == ""


def test_the_default_plan_moves_its_bar(fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the opening on, and never past the end."""
    done = [0.0]
    plain = Reporter.advance

    def advance(self: Reporter, amount: float, note: str = "", *, milestone: bool = False) -> None:
        assert amount >= 0
        done.append(done[-1] + amount)
        plain(self, amount, note, milestone=milestone)

    monkeypatch.setattr(Reporter, "advance", advance)
    evaluate(f"ckpt:{fast_run}/best.safetensors", dataset="digits", n=60, results=tmp_path, quiet=True)
    assert len(set(done)) > 8
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)
