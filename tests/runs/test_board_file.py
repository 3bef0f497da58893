"""The file of a board: what it may say, one value however it is written, and a sentence for every mistake."""

import itertools
import os
import re
import tomllib
from pathlib import Path

import pytest

from bench.doctor import scaffold_board
from bench.errors import BadInput, GauntletError, UnknownName
from bench.plugins import broken_names, defense_names, registry
from bench.runs import Board, chosen, lines_of, read_board
from bench.runs.board import External, Measured, Published, Row

HEAD = 'title = "T"\ndataset = "digits"\nthreat = "linf 0.2"\nplan = "smoke"\n'
ROW = '[[rows]]\ndefense = "fast_at"\n'


def read(tmp_path: Path, text: str) -> Board:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_board(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + "sedes = 3\n" + ROW, "unknown key in board {file}: 'sedes': did you mean 'seeds'?"),
        (HEAD + ROW + "[[rows]]\ndefense = 'trades'\nsetings = {}\n",
         "{file}, rows 2 (trades): 'setings': did you mean 'settings'?"),
        (HEAD + "[[external]]\nreference = 'ckpt:a.pt'\npublished = [{source = 's', robus = 1}]\n",
         "{file}, external 1 (ckpt:a.pt), published 1: 'robus': did you mean 'robust'?"),
        (HEAD + ROW + "also = [{plans = 'fast'}]\n", "rows 1 (fast_at), also 1: 'plans': did you mean 'plan'?"),
        (HEAD + "also = [{plan = 'fst'}]\n" + ROW, "board {file}: also 1, plan: unknown plan 'fst': did you mean 'fast'?"),
        (HEAD.replace("linf 0.2", "linf") + ROW, "threat: 'linf': write the norm and the radius"),
        (HEAD.replace("linf 0.2", "lnif 0.2") + ROW, "did you mean 'linf'?"),
        (HEAD.replace("linf 0.2", "linf 8") + ROW, "did you mean 8/255?"),
        (HEAD + "seeds = 0\n" + ROW, "seeds: 0 seeds; give 1 to"),
        (HEAD + "seeds = [1, 1]\n" + ROW, "seeds: [1, 1]: give one or more seeds, each once"),
        (HEAD + "seeds = true\n" + ROW, "seeds: give a number of seeds, or a list of them"),
        (HEAD + ROW + "grid = {step = 1.0}\n", "rows 1 (fast_at), grid, step: 1.0: give a list, as in [1.0]"),
        (HEAD.replace('"linf 0.2"', '["linf 0.2", "l2 1"]') + ROW + "published = [{source = 's', robust = 1}]\n",
         "fast_at has 2 threats and a published figure; say of which, by its threat"),
        (HEAD + ROW + "published = [{source = 's', threat = 'l2 1'}]\n",
         "fast_at: a published figure is of l2 1, which is none"),
        (HEAD + "seeds = [-1]\n" + ROW, "seeds: [-1]: give one or more seeds, each once, from 0 on"),
        (HEAD + "n = 0\n" + ROW, "n: Input should be greater than or equal to 1"),
        (HEAD.replace('"smoke"', "[]") + ROW, "plan: an empty list"),
        (HEAD + ROW + "grid = {step = []}\n", "rows 1 (fast_at): the grid of 'step' has no values"),
        (HEAD + ROW + "settings = {step = 1}\ngrid = {step = [1, 2]}\n", "'step' stands in settings and in grid"),
        (HEAD + ROW + f"grid = {{step = {[*range(200)]}, lr = {[*range(200)]}}}\n", "its grid has 40000 points; give at most"),
        (HEAD + "seeds = 6000\n" + ROW + ROW, "make 12000 trainings; give at most 10000"),
        (HEAD, "board {file}: there are no rows"),
        (HEAD.replace('title = "T"', "") + ROW, "title: Field required"),
        (HEAD + "[[rows]]\nmodel = 'x'\n", "rows 1, defense: Field required"),
        (HEAD + "[[rows]\n", "board {file} is not TOML"),
        (HEAD + ROW + "name = 'a/b'\n", "rows 1 (a/b), name: a name becomes a part of a folder's name"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_place_and_remedy(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(GauntletError) as error:
        read(tmp_path, text)
    assert told.format(file=tmp_path / "mine.toml") in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read board .*none\.toml: .*; `gauntlet new board NAME` writes one"):
        read_board(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("[[rows]]\ndefense = 'fast_ta'\n", "rows 1 (fast_ta): unknown defense 'fast_ta': did you mean 'fast_at'?"),
        (
            "[[rows]]\ndefense = 'fast_at'\nsettings = {stepp = 2}\n",
            "unknown setting of 'fast_at' 'stepp': did you mean 'step'?",
        ),
        ("[[rows]]\ndefense = 'fast_at'\nsettings = {epochs = 0}\n", "rows 1 (fast_at): "),
        ("[[rows]]\ndefense = 'fast_at'\nmodel = 'digits_cn'\n", "did you mean 'digits_cnn'?"),
        (ROW + "test_time = 'rf'\n", "rows 1 (fast_at): unknown defense 'rf': did you mean 'rfi'?"),
        (ROW + "test_time = 'rfi?k=1&kk=2'\n", "rows 1 (fast_at): "),
        (ROW + "n = 100000\n", "rows 1 (fast_at): digits test holds 360 samples"),
        (ROW + ROW, "rows 2 (fast_at): fast_at seed 0 is another row already; give one of them a name"),
        ("[[external]]\nreference = 'results/x'\n", "external 1 (results/x): it is no network from elsewhere"),
        ("[[rows]]\ndefense = 'fast_at'\nthreat = 'l2 1'\nplan = 'linf.toml'\n", "works in linf, not in l2"),
    ],
)
def test_a_mistake_in_a_row_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("linf.toml").write_text('[[attacks]]\nattack = "multi_targeted"\n[[attacks]]\nattack = "fgsm"\n')
    board = read(tmp_path, HEAD + row)
    if "linf, not" in told:
        Path("linf.toml").write_text('[[attacks]]\nattack = "rays"\n')
    with pytest.raises(BadInput) as error:
        lines_of(board, tmp_path / "mine.toml", tmp_path)
    assert told in str(error.value)


def test_a_data_set_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    board = read(tmp_path, HEAD.replace('"digits"', '"digit"') + ROW)
    with pytest.raises(BadInput, match=r"board .*mine\.toml: dataset: .*did you mean 'digits'"):
        lines_of(board, tmp_path / "mine.toml", tmp_path)


def test_two_spellings_are_one_board(tmp_path: Path) -> None:
    one = read(tmp_path, HEAD + "seeds = 2\n" + ROW)
    other = read(
        tmp_path, HEAD.replace('"linf 0.2"', '["linf 1/5"]').replace('"smoke"', '["smoke", "smoke"]') + "seeds=[0,1]\n" + ROW
    )
    assert one == other
    assert read(tmp_path, one.show()) == one


def test_rows_seeds_grids_and_balls_multiply(tmp_path: Path) -> None:
    board = read(
        tmp_path,
        HEAD.replace('"linf 0.2"', '["linf 0.2", "l2 1"]')
        + "seeds = 2\nalso = [{plan = 'autoattack', seeds = 1}]\n"
        + ROW
        + "grid = {step = [1, 2], lr = [0.1, 0.2]}\nn = 50\nalso = [{n = 100, seeds = [1, 7]}]\n",
    )
    lines = lines_of(board, tmp_path, tmp_path)
    wanted = {
        f"fast_at step={step} lr={lr} {threat} seed {seed}"
        for step, lr, threat, seed in itertools.product((1, 2), (0.1, 0.2), ("linf 0.2", "l2 1"), (0, 1, 7))
    }
    assert {line.label for line in lines} == wanted
    assert len({line.home for line in lines}) == len(lines)
    plans = {line.training.seed: [(a.request.plan.name, a.request.n) for a in line.asked] for line in lines if line.training}
    assert plans == {
        0: [("smoke", 50), ("autoattack", 50)],
        1: [("smoke", 50), ("smoke", 100)],
        7: [("smoke", 100)],
    }


def test_what_a_row_leaves_out_is_the_boards(tmp_path: Path) -> None:
    board = read(
        tmp_path, HEAD + "n = 9\nsettings = {epochs = 3, lr = 1}\n" + ROW + "settings = {epochs = 5}\ndiagnose = true\n"
    )
    assert board.measures(board.rows[0]) == [Measured("smoke", 9, (0,), True)]
    (line,) = lines_of(board, tmp_path, tmp_path)
    assert line.job
    assert (line.job.recipe.epochs, line.job.recipe.lr) == (5, 1)


def test_a_pattern_means_names_and_labels(tmp_path: Path) -> None:
    text = HEAD + "seeds = 2\n" + ROW + "grid = {step = [1, 2]}\n[[rows]]\ndefense = 'pgd_at'\n"
    lines = lines_of(read(tmp_path, text), tmp_path, tmp_path)
    assert len(chosen(lines, ["fast_at"])) == 4
    assert {line.label for line in chosen(lines, ["*step=2*"])} == {"fast_at step=2 seed 0", "fast_at step=2 seed 1"}
    assert [line.label for line in chosen(lines, ["pgd_at seed 1"])] == ["pgd_at seed 1"]
    both = chosen(lines, ["pgd_at seed 1", "*step=2 seed 0"])
    assert [line.label for line in both] == ["fast_at step=2 seed 0", "pgd_at seed 1"], "in the order of the board"
    assert chosen(lines) == lines
    with pytest.raises(UnknownName, match="unknown row 'pgd_ta': did you mean 'pgd_at'"):
        chosen(lines, ["fast_at", "pgd_ta"])
    assert chosen(lines, (), ["sm*"]) == lines
    with pytest.raises(UnknownName, match="unknown plan of these rows 'smake': did you mean 'smoke'"):
        chosen(lines, (), ["smoke", "smake"])


def test_code_is_run_only_where_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('it ran')\n")
    board = read(tmp_path, HEAD + f"[[external]]\nreference = 'py:{tmp_path}/net.py:net'\n")
    (line,) = lines_of(board, tmp_path, tmp_path)
    assert line.reason == f"it is code, which runs only when you name it: add --plugin {tmp_path}/net.py"


def test_the_example_is_a_board_with_all_that_a_board_may_say(tmp_path: Path) -> None:
    told = scaffold_board("mine", tmp_path / "new")
    file = tmp_path / "new/mine.toml"
    assert told.splitlines()[1] == f"  gauntlet board {file} --dry-run"
    text = file.read_text()
    assert len(lines_of(read_board(file), file, tmp_path)) == 7
    # What is commented out can be used as it stands, too, and nothing that a board knows is left unsaid.
    every = re.sub(r"^# (?=[a-z_]+ = |\[\[)", "", text, flags=re.MULTILINE)
    board = read(tmp_path, every)
    assert board.external[0].reference == "py:net.py:build"
    for table in (Board, Row, External, Published):
        assert all(key in every for key in table.model_fields if key != "eot")
    with pytest.raises(BadInput, match="is already there"):
        scaffold_board("mine.toml", tmp_path / "new")
    with pytest.raises(BadInput, match="without slashes"):
        scaffold_board("../mine", tmp_path)


COMMITTED = sorted((Path(__file__).parents[2] / "results/boards").glob("*.toml"))


@pytest.mark.parametrize(
    "file", [file for file in COMMITTED if "title" in tomllib.loads(file.read_text())], ids=lambda file: file.stem
)
def test_the_committed_boards_resolve(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parents[2])
    board = read_board(file)
    if board.dataset != "digits" and not os.environ.get("GAUNTLET_DATA"):
        pytest.skip("needs GAUNTLET_DATA")
    lines = lines_of(board, file, tmp_path)
    assert not [line.label for line in lines if line.reason and line.training]


@pytest.mark.parametrize(
    ("name", "left"), [("digits", {"smoothing"}), ("mnist", {"smoothing", "rfi", "clean_warmup", "periodic_budget"})]
)
def test_every_defense_stands_on_the_board_or_its_absence_is_told(name: str, left: set[str]) -> None:
    board = read_board(next(file for file in COMMITTED if file.stem == name))
    # Other tests may have registered defenses of their own.
    shipped = {name for name in defense_names() if not registry.code("defense", name)}
    assert shipped - {row.defense for row in board.rows} == left
    assert all(one in board.about for one in left)
    assert {row.defense for row in board.broken} == {*broken_names()}


def test_a_plan_of_its_own_takes_the_place_of_the_boards_further_ones(tmp_path: Path) -> None:
    board = read(tmp_path, HEAD + "also = [{plan = 'fast'}]\n" + ROW + "[[rows]]\ndefense = 'pgd_at'\nplan = 'full'\n")
    assert [[one.plan for one in board.measures(row)] for row in board.rows] == [["smoke", "fast"], ["full"]]
