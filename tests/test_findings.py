"""Pages of docs/findings say what their commands printed: tables as recorded, figures beside them, a doubt a row."""

import json
import re
from pathlib import Path

import pytest
from tabulate import tabulate

CHECKOUT = Path(__file__).parents[1]
FINDINGS = CHECKOUT / "docs" / "findings"
RECORDS = sorted(FINDINGS.glob("*.json"))
PAGES = sorted(FINDINGS.glob("*.md"))


def test_there_is_something_to_look_at() -> None:
    assert len(RECORDS) > 2
    assert FINDINGS / "README.md" in PAGES


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_page_shows_the_tables_and_the_figure_of_its_record(path: Path) -> None:
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    for table in json.loads(path.read_text(encoding="utf-8"))["tables"]:
        drawn = tabulate(table["rows"], headers=table["headers"], tablefmt="github", disable_numparse=True)
        missing = [line for line in drawn.splitlines() if line.rstrip() not in page]
        assert not missing, f"{path.stem}.md has not the line {missing[0]!r}: paste what its command prints"
    assert path.with_suffix(".svg").exists()
    assert f"]({path.stem}.svg)" in page


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_page_names_a_command_that_is_there(path: Path) -> None:
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    scripts = re.findall(r"python (tests/studies/\w+\.py)", page)
    assert scripts
    assert all((CHECKOUT / script).exists() for script in scripts)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_doubt_has_a_question_a_command_and_an_answer() -> None:
    table = (FINDINGS / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| D")]
    assert [row[0] for row in rows] == [f"D{number}" for number in range(1, 35)]
    for row in rows:
        assert len(row) == 4, row[0]
        assert all(row), row[0]
        assert "`" in row[2] or "](" in row[2], f"{row[0]} names no command"
    for script in re.findall(r"tests/studies/\w+\.py", table):
        assert (CHECKOUT / script).exists(), script
