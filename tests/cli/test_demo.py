"""The demo ends where a reader goes on: at a page."""

import shutil
from pathlib import Path

import pytest
from command import call

from bench.cli import demo


def test_the_demo_ends_with_the_page_to_open(
    shown_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that are there already; making them takes minutes."""
    monkeypatch.setattr(demo, "DEFENSES", ())
    results = tmp_path / "demo"
    shutil.copytree(shown_results / "digits" / "linf-0.2" / "one", results / "digits" / "linf-0.2" / "one")
    code, out, _ = call(capsys, monkeypatch, "demo", "--quiet", "--results", results)
    assert code == 0
    last = out.strip().splitlines()[-1]
    page = Path(last.removeprefix("open ").partition(": ")[0])
    assert last.startswith("open ")
    assert page == results / "report" / "index.html"
    assert "fast_at" in page.read_text(encoding="utf-8")
    assert (results / "leaderboard.md").is_file()
