"""The demo ends where a reader goes on: at a page."""

from pathlib import Path

import pytest
from command import call

from bench.cli import demo


def test_the_demo_ends_with_the_page_to_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEFENSES", ("standard",))
    code, out, _ = call(capsys, monkeypatch, "demo", "--quiet", "--results", tmp_path / "demo")
    assert code == 0
    last = out.strip().splitlines()[-1]
    page = Path(last.removeprefix("open ").partition(": ")[0])
    assert last.startswith("open ")
    assert page == tmp_path / "demo" / "report" / "index.html"
    assert "standard" in page.read_text(encoding="utf-8")
    assert (tmp_path / "demo" / "leaderboard.md").is_file()
