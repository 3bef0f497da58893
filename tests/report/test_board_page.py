"""The page of a board: two plans beside each other, and what is missing."""

from pathlib import Path

from bench.compare import two_plans
from bench.report import Beside, Count, Page, write_board
from bench.results import read_outcomes

ROWS = Path(__file__).parents[2] / "results" / "digits" / "linf-0.2"


def page(path: Path, beside: list[Beside], counts: list[Count]) -> str:
    write_board(path, Page("A board", "About it.", [], [], [], [], beside, counts))
    return path.read_text()


def test_two_plans_stand_beside_each_other(tmp_path: Path) -> None:
    beside = []
    for name in ("noise_fgsm-digits_cnn-s0-c285134e", "fast_at-digits_cnn-s0-*"):
        (row,) = ROWS.glob(name)
        (pair,) = two_plans([read_outcomes(path) for path in row.glob("*/card.json")])
        beside.append(Beside(f"{name[:7]}|", 0, pair))
    lines = page(tmp_path / "board.md", beside, []).splitlines()
    assert lines[:4] == ["# A board", "", "About it.", ""]
    assert "### fast and standard" in lines
    assert "fast leaves fewer samples on 0 of 2 networks, standard on 1." in lines
    cells = [[cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert cells == [
        ["row", "seed", "n", "fast", "standard", "fast alone", "standard alone"],
        ["noise_f/", "0", "360", "48.1", "47.8", "1", "0"],
        ["fast_at/", "0", "360", "47.2", "47.2", "0", "0"],
    ]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    counts = [Count("a|b", "fast, n 10", 1, 3), Count("c", "standard", 0, 1), Count("d", "fast, n 10", 2, 2)]
    told = page(tmp_path / "board.md", [], counts)
    assert "Of the 6 evaluations that this board asks for 3 have no card here" in told
    assert told.endswith("- fast, n 10: a\\|b (1 of 3)\n- standard: c\n")
    assert "Not here" not in page(tmp_path / "board.md", [], counts[2:])


def test_paragraphs_of_what_a_reader_should_know_stay_paragraphs(tmp_path: Path) -> None:
    about = "\nOne sentence that\nis wrapped.\n\n  Another *one*.\n"
    write_board(tmp_path / "board.md", Page("A board", about, [], [], [], [], [], []))
    lines = (tmp_path / "board.md").read_text().splitlines()
    assert lines == ["# A board", "", "One sentence that is wrapped.", "", "Another \\*one\\*."]
