"""A cluster of Ray's on this machine: the bytes of this process, another try after a kill, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from deeds import die, in_session, mark_and_die, raise_it, square, surroundings
from timeless import digests

from bench.errors import BadInput
from bench.evaluation import EvaluationRequest, Execution, evaluated
from bench.executors import Executor, Failed, executor_of
from bench.executors.executor import TRIES
from bench.plans import Plan

pytest.importorskip("ray")
MODEL = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
PLAN = {
    "name": "own",
    "attacks": [
        {"attack": "pgd", "parameters": {"steps": 3}, "grid": {"step": [0.02, 0.05]}, "restarts": 2, "probe": 40},
        {"attack": "square", "parameters": {"queries": 20}},
    ],
}
DRIVER = """
import time
from bench.executors import executor_of

with executor_of(2, "ray") as executor:
    list(executor.run(time.sleep, [0.1, 0.1]))
    print("up", flush=True)
    list(executor.run(time.sleep, [1000, 1000]))
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        # Where workers find the tasks of these tests.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "pretended"))
        with executor_of(2, "ray") as executor:
            handler = signal.getsignal(signal.SIGTERM)
            assert executor.workers == 2
            assert signal.getsignal(signal.SIGTERM) is handler
            yield executor


def test_each_task_gives_its_result_or_what_it_raised(ray: Executor) -> None:
    assert dict(ray.run(square, range(5))) == {place: place**2 for place in range(5)}
    failed = dict(ray.run(raise_it, ["unknown"]))[0]
    assert isinstance(failed, Failed)
    assert failed.text == "unknown attack 'pdg': did you mean 'pgd'? known are pgd"
    assert {one[1:] for _, one in ray.run(surroundings, range(4)) if not isinstance(one, Failed)} == {(1, "1")}


def test_a_task_is_tried_again_but_not_forever(ray: Executor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert dict(ray.run(mark_and_die, [tmp_path])) == {0: TRIES - 1}
    found = dict(ray.run(die, [1, -1, 2]))
    lost = found.pop(1)
    assert found == {0: 1, 2: 2}
    assert isinstance(lost, Failed)
    assert f"{TRIES} workers died" in lost.text
    time.sleep(1)
    assert capfd.readouterr().out == ""


def test_the_bytes_are_those_of_one_process(ray: Executor, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    request = EvaluationRequest.of(model=f"py:{tmp_path}/model.py:net", dataset="digits", plan=Plan.model_validate(PLAN), n=100)
    here = digests(evaluated(request, Execution(tmp_path, "cpu", quiet=True)).path)
    there = Execution(tmp_path, "cpu", quiet=True, fresh=True, executor=ray)
    assert digests(evaluated(request, there).path) == here


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_however_the_driver_ends_no_raylet_and_no_worker_is_left(how: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # What runs in the background of a script would not hear it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    assert driver.stdout
    assert driver.stdout.readline() == "up\n"
    assert any("raylet" in name for name in at_work(driver.pid))
    # As a terminal does: to all processes of the session's foreground.
    (os.killpg if how == signal.SIGINT else os.kill)(driver.pid, how)
    driver.communicate(timeout=60)
    # Ray's agents need a minute to notice.
    agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} if how == signal.SIGKILL else set()
    deadline = time.monotonic() + 30
    while (left := at_work(driver.pid) - agents) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def at_work(leader: int) -> set[str]:
    """The names of the processes of a session."""
    names = set()
    for pid in in_session(leader):
        with suppress(OSError):
            names.add(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip())
    return names


def test_a_cluster_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(BadInput, match="no cluster answers there"):
        executor_of(2, "ray:127.0.0.1:1").workers  # noqa: B018 - a cluster is entered when its workers are counted
