"""Nothing is lost: commands killed at many points, two at once, disks and memory that are full, clocks that jump.

The commands are the real ones, each in a process of its own (forked.py), and kill -9 is kill -9.
"""

import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Command, Ended, Server
from timeless import timeless

PLAN = """
[[attacks]]
attack = "pgd"
on = "all"
restarts = 3
parameters = { steps = 3 }

[[attacks]]
attack = "square"
parameters = { queries = 30 }
"""
TRAINING = ["fast_at", "--model", "digits_cnn?width=8", "--epochs", "3", "--set", "lr=0.01"]
EVALUATION = ["--plan", "../tiny.toml", "--n", "40", "--eps", "0.1"]
COMMANDS = {
    "train": ["train", *TRAINING],
    "evaluate": ["evaluate", "RUN", *EVALUATION],
    "run": ["run", *TRAINING, *EVALUATION[:4]],
    "leaderboard": ["leaderboard"],
}


class Crash:
    """A place with folders to run commands in, and what the commands leave when nobody disturbs them."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server, self.root = server, root
        (root / "tiny.toml").write_text(PLAN)
        self.whole: dict[str, Ended] = {}
        for name in COMMANDS:
            home = self.fresh(name, root / f"whole-{name}")
            self.whole[name] = self.do(home, name)
            assert self.whole[name].code == 0, self.whole[name].err

    def fresh(self, name: str, home: Path) -> Path:
        """A folder with all that the command needs to be there already."""
        if before := {"evaluate": "train", "leaderboard": "run"}.get(name):
            shutil.copytree(self.root / f"whole-{before}", home)
        return home

    def start(self, home: Path, name: str, *more: str, kill: Any = ("none", 0), clock: float = 0, limit: Any = None) -> Command:
        return Command(self.server, home, [*COMMANDS[name], *more], kill, clock, limit)

    def do(self, home: Path, name: str, *more: str, **how: Any) -> Ended:
        return self.start(home, name, *more, **how).wait()


@pytest.fixture(scope="module")
def crash(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Crash:
    return Crash(server, tmp_path_factory.mktemp("crash"))


def left(home: Path) -> dict[str, Any]:
    """Every file below a folder with what it holds, times aside."""
    files = {str(path.relative_to(home)): path for path in home.rglob("*") if path.is_file()}
    return {
        name: timeless(json.loads(f.read_text()), "peak_memory_mib") if f.suffix == ".json" else f.read_bytes()
        for name, f in files.items()
    }


def seconds(home: Path) -> list[float]:
    """Every time that a record below a folder tells."""
    texts = [path.read_text() for path in home.rglob("*.json")]
    return [float(told) for text in texts for told in re.findall(r'"seconds": (-?[0-9.e-]+)', text)]


def points() -> list[tuple[str, str, float]]:
    """Twenty places to kill a command at: before a change of the folder, within a write, or after a part of its time."""
    rng = random.Random(5)
    found = []
    for name, counts in {"train": (2, 2, 1), "evaluate": (3, 2, 1), "run": (2, 2, 2), "leaderboard": (1, 1, 1)}.items():
        for what, count in zip(("change", "tear", "time"), counts, strict=True):
            # One of each kind in every part of the command, so that they are spread over it.
            found += [(name, what, (k + rng.random()) / count) for k in range(count)]
    assert len(found) == 20
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what", "share"), points())
def test_a_kill_loses_one_unit_at_most(crash: Crash, tmp_path: Path, name: str, what: str, share: float) -> None:
    whole, home = crash.whole[name], crash.fresh(name, tmp_path / "home")
    (tmp_path / "tiny.toml").write_text(PLAN)
    if what == "time":
        began = time.monotonic()
        running = crash.start(home, name)
        # As a share of the work, because the machine may be busy: a share of the changes is waited for, not counted in it.
        wanted = share * len(whole.log)
        log = Path(f"{running.stem}.log")
        while time.monotonic() - began < 60 and (not log.exists() or log.read_bytes().count(b"\n") < wanted - 1):
            time.sleep(0.002)
        time.sleep(share * 0.01)
        os.kill(running.id, signal.SIGKILL)
        first = running.wait()
        assert first.code in (-signal.SIGKILL, 0)
    else:
        total = len(whole.log) if what == "change" else 2 * len(whole.made(""))
        first = crash.do(home, name, kill=(what, 1 + int(share * total)))
        assert first.code == -signal.SIGKILL
    units = {str(path.relative_to(home)) for path in home.rglob("units/*.safetensors")}
    second = crash.do(home, name)
    assert second.code == 0, second.err
    assert left(home) == left(crash.root / f"whole-{name}")
    # Whatever was put in place is not made again: a unit of an evaluation, or an epoch with its state.
    assert not units & set(second.made(".safetensors"))
    epochs = [len(ended.made("state.pt")) for ended in (whole, first, second)]
    assert epochs[1] + epochs[2] in (epochs[0], epochs[0] + 1)
    assert min(seconds(home)) >= 0


def until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def rows(out: str) -> str:
    """What a run prints, less what of it is not its own work."""
    return re.sub("note: (a card was there already|units of work used).*\n", "", out)


def test_two_of_the_same_do_everything_once(crash: Crash, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(PLAN)
    home = tmp_path / "home"
    pair = [crash.start(home, "run"), crash.start(home, "run", "--quiet")]
    tables = []
    until(lambda: list(home.rglob("*.safetensors")))
    for _ in range(3):
        tables.append(crash.do(home, "leaderboard"))
    ended = [command.wait() for command in pair]
    assert [each.code for each in ended] == [0, 0], ended
    assert [each.err.count("waiting for it to end") >= 1 for each in ended].count(True) >= 1
    assert rows(ended[0].out) == rows(ended[1].out)
    assert len(ended[0].made("state.pt") + ended[1].made("state.pt")) == len(crash.whole["run"].made("state.pt"))
    units = [name for each in ended for name in each.made(".safetensors") if "/units/" in name]
    assert sorted(units) == sorted(name for name in crash.whole["run"].made(".safetensors") if "/units/" in name)
    for table in tables:
        assert table.code == 0 or "no cards below" in table.err
        assert "Traceback" not in table.err
    assert crash.do(home, "leaderboard").code == 0
    assert left(home) == left(crash.root / "whole-leaderboard")


def test_two_that_differ_do_not_touch_each_other(crash: Crash, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(PLAN)
    home = tmp_path / "home"
    ended = [command.wait() for command in [crash.start(home, "run"), crash.start(home, "run", "--seed", "1")]]
    assert [each.code for each in ended] == [0, 0], ended
    whole, both = left(crash.root / "whole-run"), left(home)
    assert {name: both[name] for name in whole} == whole
    assert len(both) == 2 * len(whole)


def test_who_waits_for_a_process_that_is_killed_goes_on(crash: Crash, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(PLAN)
    home = tmp_path / "home"
    first = crash.start(home, "run")
    until(lambda: list(home.rglob("state.pt")))
    os.kill(first.id, signal.SIGSTOP)
    second = crash.start(home, "run")
    until(lambda: f"process {first.id} on" in second.told() and "waiting" in second.told())
    os.kill(first.id, signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    ended = second.wait()
    assert ended.code == 0, ended.err
    assert "going on after epoch" in ended.err
    assert left(home) == left(crash.root / "whole-run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_a_process_that_dies_leaves_what_it_finished(crash: Crash, tmp_path: Path, number: int) -> None:
    (tmp_path / "tiny.toml").write_text(PLAN)
    home = tmp_path / "home"
    command = crash.start(home, "run")
    until(lambda: list(home.rglob("units/*.safetensors")))
    os.kill(command.id, number)
    ended = command.wait()
    if number == signal.SIGTERM:
        assert ended.code == 143
        assert "everything finished is kept, and the same command goes on from there" in ended.err
        assert not [*home.rglob("*.part"), *home.rglob(".lock")]
    else:
        assert ended.code == -number
    kept = {str(path.relative_to(home)) for path in home.rglob("units/*.safetensors")}
    assert kept
    again = crash.do(home, "run")
    assert not kept & set(again.made(".safetensors"))
    assert left(home) == left(crash.root / "whole-run")


def test_clocks_may_jump(crash: Crash, tmp_path: Path) -> None:
    """Backwards and forwards by a day at every look, with files that are older and younger than they can be."""
    (tmp_path / "tiny.toml").write_text(PLAN)
    home, day = tmp_path / "home", 86400
    began = time.monotonic()
    assert crash.do(home, "run", clock=-day, kill=("change", len(crash.whole["run"].log) * 2 // 3)).code == -signal.SIGKILL
    for number, path in enumerate(home.rglob("*")):
        os.utime(path, (day * number, 5e9 / (number + 1)))
    assert crash.do(home, "run", clock=day).code == 0
    assert left(home) == left(crash.root / "whole-run")
    assert 0 <= min(seconds(home)) <= max(seconds(home)) <= time.monotonic() - began


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 60 KiB."""
    home = tmp_path / "home"
    home.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", home], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield home
    subprocess.run(["umount", "-l", home], check=True)


def test_a_disk_that_is_full_and_one_that_is_read_only(crash: Crash, disk: Path) -> None:
    (disk.parent / "tiny.toml").write_text(PLAN)

    def resize(kibibytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", disk], check=True)

    def stops() -> None:
        ended = crash.do(disk, "run")
        assert ended.code == 2, ended.err
        assert re.search("cannot write .*No space left on device.*; everything finished before is kept", ended.err)
        assert "Traceback" not in ended.err
        assert not list(disk.rglob("*.part"))

    stops()
    resize(8000)
    assert crash.do(disk, "train").code == 0
    resize(20 + shutil.disk_usage(disk).used // 1024)
    stops()
    kept = {str(path.relative_to(disk)) for path in disk.rglob("units/*.safetensors")}
    assert kept
    resize(8000)
    ended = crash.do(disk, "run")
    assert ended.code == 0
    assert not kept & set(ended.made(".safetensors"))
    assert left(disk) == left(crash.root / "whole-run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    again = crash.do(disk, "run")
    assert (again.code, rows(again.out)) == (0, rows(ended.out))
    assert "units of work used" in ended.out
    assert "a card was there already" in again.out
    refused = crash.do(disk, "run", "--seed", "1")
    assert refused.code == 2
    assert "Read-only file system; everything finished before is kept" in refused.err


def test_a_file_that_cannot_grow_stops_nothing_that_was_done(crash: Crash, tmp_path: Path) -> None:
    """The units fit below the limit, the records of them all do not."""
    (tmp_path / "tiny.toml").write_text(PLAN)
    home = crash.fresh("evaluate", tmp_path / "home")
    largest = max(len(content) for name, content in left(crash.root / "whole-run").items() if name.endswith("samples.parquet"))
    ended = crash.do(home, "evaluate", limit=("RLIMIT_FSIZE", largest - 1))
    assert ended.code == 2
    assert re.search("samples.parquet: .*File too large; everything finished before is kept", ended.err)
    kept = {str(path.relative_to(home)) for path in home.rglob("units/*.safetensors")}
    assert kept
    again = crash.do(home, "evaluate")
    assert again.code == 0
    assert not kept & set(again.made(".safetensors"))
    assert left(home) == left(crash.root / "whole-evaluate")


WIDE = """
import torch
from torch import nn

from bench.data.datasets import load

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        data = load("digits", "train")
        x, y = data.batch(torch.arange(len(data)))
        means = torch.stack([x[y == k].flatten(1).mean(0) for k in range(10)])
        self.means = nn.Parameter(means)
        self.wide = nn.Parameter(torch.ones(64, 400000) / 64)

    def forward(self, x):
        x = x.flatten(1)
        return 8 * x @ self.means.T - 4 * self.means.square().sum(1) + torch.tanh(x @ self.wide).mean(1, keepdim=True)

def net():
    return Wide()
"""


@pytest.mark.slow
def test_little_memory_makes_smaller_batches_with_the_same_outcome(server: Server, tmp_path: Path) -> None:
    """What the full batch needs at once, 480 MB, is far more than all else, so that does not fit; then not one image."""
    (tmp_path / "wide.py").write_text(WIDE)
    (tmp_path / "huge.py").write_text(
        WIDE.replace("        x = x.flatten(1)\n", "        x = x.flatten(1) * torch.ones(2**28)[:1]\n")
    )
    (tmp_path / "two.toml").write_text('[[attacks]]\nattack="pgd"\non="all"\nparameters={steps=2}\n')
    rest = ["--plan", "../two.toml", "--n", "300", "--batch-size", "300", "--eps", "0.05"]

    def under(mebibytes: int, name: str = "wide") -> Ended:
        argv = ["evaluate", f"py:../{name}.py:net", *rest]
        return Command(server, tmp_path / str(mebibytes), argv, ("none", 0), 0, ("RLIMIT_AS", mebibytes * 2**20)).wait()

    enough, little = under(6000), under(1400)
    assert enough.code == little.code == 0, (enough.err, little.err)
    assert "out of memory" not in enough.err
    assert "out of memory: going on with batches of 150" in little.err
    assert left(tmp_path / "1400") == left(tmp_path / "6000")
    starved = under(800, "huge")
    assert starved.code == 2, starved.err
    assert "error: out of memory; everything finished is kept: try a smaller --batch-size" in starved.err
    assert "Traceback" not in starved.err


SOURCES = [path for name in ("bench", "attacks", "defenses") for path in (Path(__file__).parents[2] / name).rglob("*.py")]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_that_is_read_can_run_code_and_no_wall_clock_is_asked() -> None:
    assert len(SOURCES) > 50
    loads = []
    forbidden = re.compile(
        r"eval|exec|compile|(c?pickle|marshal|shelve|dill|joblib|cloudpickle)\.(load|loads|open|Unpickler)|yaml\.(unsafe_|full_)?load"
        r"|pd\.read_pickle|torch\.jit\.load|torch\.package.*|time\.(time|time_ns|localtime)|datetime\.(now|today|utcnow)"
        r"|.*\.getmtime|os\.system"
    )
    for path in SOURCES:
        assert "st_mtime" not in path.read_text(), path
        for name, call in calls(path):
            assert not forbidden.fullmatch(name), f"{path}:{call.lineno} calls {name}"
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name == "torch.load":
                assert given.get("weights_only") == "True", f"{path}:{call.lineno}"
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", f"{path}:{call.lineno}"
            if name in ("json.load", "json.loads") and not re.match(r"json\.dumps\(|to_json\(", ast.unparse(call.args[0])):
                assert path.name in ("json_file.py", "keywords.py"), f"{path}:{call.lineno}: read_json refuses endless numbers"
            loads.append(name)
    assert {"torch.load", "np.load", "json.loads"} <= set(loads)
