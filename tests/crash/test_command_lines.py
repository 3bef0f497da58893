"""Whatever is typed, a command ends with a sentence and a known exit code: never with a traceback, and never without a word."""

import os
import shutil
import signal
import threading
from pathlib import Path

import hypothesis
import pytest
from forked import Command, Server
from hypothesis import HealthCheck
from hypothesis import strategies as st
from typed import COMMANDS, options

BOARD = """
title = "t"
dataset = "digits"
threat = "linf 0.2"
plan = "smoke"
n = 8

[[rows]]
defense = "standard"
settings = {epochs = 1}
"""
TOY = "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
CARD, SMALL = "row/smoke/card.json", ["--plan", "smoke", "--n", "8"]
TRAINING = ["fast_at", "--epochs", "1", "--model", "digits_cnn?width=2"]
LINES = {
    "train": TRAINING, "evaluate": ["row", *SMALL], "run": [*TRAINING, *SMALL], "leaderboard": ["results"],
    "transfer": ["row", "py:toy.py:net", "--n", "8"], "doctor": ["fast_at"], "list": ["fast_at"], "plan show": ["fast"],
    "new defense": ["mine"], "new attack": ["mine"], "new board": ["mine"], "board": ["b.toml"], "submit": ["row"],
    "diagnose": ["row", *SMALL], "verify": [CARD], "accept": [CARD, "--into", "rows", "--by", "me"], "compare": [CARD, CARD],
    "check": ["--baseline", CARD, "--candidate", CARD], "measure": ["row", "path", "--n", "4"],
    "lab": ["linear", "--seeds", "1"], "report": ["results"], "plot": ["restarts", "row"],
}  # fmt: skip
"""Each as it works; then something is put in the place of a part, or added."""
WORDS = [
    "row", "run:row", "row/smoke", "py:toy.py:net", "py:toy.py", "py:missing.py:net",
    "ckpt:row/best.safetensors?arch=digits_cnn", "ckpt:a.txt?arch=digits_cnn", "missing", "empty", "a.txt", "b.toml",
    "loop", "pipe", "", "-", "--", ".", "/", "..", "fast_at", "standard", "pgd", "fast", "smoke", "digits", "kernel",
    "path", "linear", "restarts", "r\u00e9sum\u00e9", "\udce9", "x" * 5000, "robustbench:nope", "robustbench:", "run:",
    "py:", "ckpt:", "py::", "?a=b", "row?weights=last", "toy.py", "a b", "$(x)", "fast_at?step=2", "smoothing?sigma=1",
    "rfi", "0", "1", "-1", "nan", "/dev/null", "/dev/zero", "row/train.json", "row/best.safetensors", "inf", "1e999",
    "9" * 400, "8/255", "1/0", "0.2", "2", "linf", "l2", "l1", "l7", "cpu", "cuda", "ray:", "md", "csv", "html", "tex",
    "a=b", "step=2", "epochs=1", "n=3", "=", "k=", "2/255,4/255", ",", "0.1,0.1", "1000000", "361", "test", "train", "json",
    "png", "svg",
]  # fmt: skip
SECONDS = 20
"""Of a processor that a command may take before it is stopped, which is no fault of its."""


@pytest.fixture(scope="module")
def home(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a row, its card and files of all kinds."""
    home = tmp_path_factory.mktemp("lines") / "home"
    ended = Command(server, home, ["run", *TRAINING, *SMALL, "--quiet"], ("none", 0), 0, None).wait()
    assert ended.code == 0, ended.err
    (row,) = home.glob("results/digits/*/*")
    shutil.copytree(row, home / "row")
    next((home / "row").glob("*/card.json")).parent.rename(home / "row" / "smoke")
    (home / "toy.py").write_text(TOY)
    (home / "empty").mkdir()
    (home / "a.txt").write_text("hello")
    (home / "b.toml").write_text(BOARD)
    (home / "loop").symlink_to("loop")
    return home


@st.composite
def lines(draw: st.DrawFn, name: str) -> list[str]:
    """A command line that works, but for a few of its parts."""
    line = [*LINES[name]]
    for option in draw(st.lists(st.sampled_from(options(name)), min_size=1, max_size=3, unique_by=id)):
        flag = option.opts[0]
        if flag in line:
            del line[line.index(flag) : line.index(flag) + 2]
        line += [flag] if option.is_flag else [flag, draw(st.sampled_from(WORDS))]
    if line and not line[0].startswith("--") and draw(st.integers(0, 3)) == 0:
        line[0] = draw(st.sampled_from(WORDS))
    if draw(st.integers(0, 9)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(st.sampled_from(WORDS)))
    return [*name.split(), *line]


def test_every_command_is_tried() -> None:
    assert COMMANDS.keys() - {"demo"} == LINES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_a_command_line_ends_with_a_sentence(name: str, server: Server, home: Path, tmp_path: Path) -> None:
    @hypothesis.settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(lines(name))
    def property(line: list[str]) -> None:
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        shutil.copytree(home, tmp_path / "w", symlinks=True)
        os.mkfifo(tmp_path / "w" / "pipe")
        command = Command(server, tmp_path / "w", line, ("none", 0), 0, ("RLIMIT_CPU", SECONDS))
        hung = threading.Timer(30 * SECONDS, os.kill, (command.id, signal.SIGABRT))
        hung.start()
        ended = command.wait()
        hung.cancel()
        assert ended.code in (0, 1, 2, -signal.SIGKILL), (line, ended.err)
        assert "Traceback" not in ended.err, (line, ended.err)
        # What is asked of a row is answered on stdout, also where it is not.
        assert ended.code != 2 or "rror" in ended.err or ended.out, line

    property()
