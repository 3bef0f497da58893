"""The beginning and the end of a command: interrupts at any moment and a lack of memory are told in a sentence."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GAUNTLET = [sys.executable, "-P", "-c", "import bench.cli.start as start; print('begun', flush=True); start.main()"]
"""Tells when the interpreter, whose own beginning nobody can guard, has handed over."""


def begun(*command: str, cwd: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*GAUNTLET, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("delay", [0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0])
def test_ctrl_c_while_imports_run_is_a_sentence(delay: float, tmp_path: Path) -> None:
    process = begun("train", "standard", "--epochs", "400", "--quiet", cwd=tmp_path)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    first = told.partition("\n")[0]
    assert (process.returncode, told) == (130, first + "\n")
    assert first.startswith("interrupted; everything finished is kept")


def test_ctrl_c_in_an_import_of_a_command_ends_it_there(tmp_path: Path) -> None:
    """Some of torch's extensions answer an exception by aborting the process."""
    (tmp_path / "mine.py").write_text(
        "import os, signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    os.abort()\n"
    )
    process = begun("list", "plans", "--plugin", "mine.py", cwd=tmp_path)
    _, told = process.communicate(timeout=60)
    first = told.partition("\n")[0]
    assert (process.returncode, told) == (130, first + "\n")
    assert first.startswith("interrupted; everything finished is kept")


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.002, 0.02, 0.1])
def test_ctrl_c_again_and_again_is_no_traceback(gap: float, tmp_path: Path) -> None:
    process = begun("train", "standard", "--epochs", "400", "--quiet", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not [*tmp_path.rglob("state.pt")]:
        time.sleep(0.02)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(gap)
    _, told = process.communicate(timeout=60)
    # At its very end the interpreter gives the signal back to the system, which says nothing and means the same to a shell.
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in told
    assert "Exception ignored" not in told


@pytest.mark.slow
def test_a_job_in_the_background_does_not_hear_it(tmp_path: Path) -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *GAUNTLET, "list", "plans"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert (process.returncode, "smoke" in shown) == (0, True)


@pytest.mark.parametrize("room", [2**27, 2**29, 2**31])
def test_an_import_that_has_no_memory_is_a_sentence(room: int, tmp_path: Path) -> None:
    program = [*GAUNTLET[:-1], f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({room},) * 2); {GAUNTLET[-1]}"]
    done = subprocess.run([*program, "list", "attacks"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != room
    if "OpenBLAS error" in done.stderr:
        pytest.skip("a library of numpy ended the process itself")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr


STUCK = """
import time
from pathlib import Path
from torch import nn

class Stuck(nn.Linear):
    def forward(self, x):
        Path("asked").touch()
        time.sleep(60)
        return super().forward(x.flatten(1))

def net():
    return Stuck(64, 10)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_end_from_outside_is_no_fault_of_the_model_that_runs(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    process = begun("evaluate", "py:stuck.py:net", "--dataset", "digits", "--eps", "0.1", "--quiet", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "asked").exists():
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (code, told.splitlines()[0] + "\n")
    assert told.startswith("interrupted; everything finished is kept")
