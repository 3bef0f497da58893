"""Every executor: what tasks give, raise and die of; what is left when the process ends, however it ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from deeds import die, mark_and_die, raise_it, square, surroundings

from bench.errors import BadInput, GauntletError, UnknownName
from bench.executors import Executor, Failed, InProcess, executor_of
from bench.executors.executor import TRIES
from bench.executors.processes import Loky


@pytest.fixture(scope="module")
def loky() -> Iterator[Executor]:
    with executor_of(2) as executor:
        yield executor


@pytest.mark.parametrize("kind", ["here", "loky"])
def test_each_task_gives_its_result_or_what_it_raised(kind: str, loky: Executor) -> None:
    executor = InProcess() if kind == "here" else loky
    assert dict(executor.run(square, range(5))) == {place: place**2 for place in range(5)}
    assert list(executor.run(square, [])) == []
    failed = dict(executor.run(raise_it, ["unknown", "x"]))
    assert all(isinstance(one, Failed) for one in failed.values())
    assert failed[0].text == "unknown attack 'pdg': did you mean 'pgd'? known are pgd"
    assert failed[1].text == "KeyError: 'x'"
    with pytest.raises(UnknownName, match="did you mean 'pgd'"):
        failed[0].reraise()
    with pytest.raises(KeyError):
        failed[1].reraise()


@pytest.mark.slow
def test_a_task_whose_worker_was_killed_is_carried_out_by_another(loky: Executor, tmp_path: Path) -> None:
    assert dict(loky.run(mark_and_die, [tmp_path])) == {0: TRIES - 1}


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_has_nothing_to_do_is_no_loss() -> None:
    with executor_of(2) as executor:
        assert isinstance(executor, Loky)
        for pid in {one[0] for one in dict(executor.run(surroundings, range(4))).values()}:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not all(pool._flags.broken for pool in executor._pools.values()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert dict(executor.run(square, range(4))) == {place: place**2 for place in range(4)}


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_given_up_and_takes_no_other_along(loky: Executor) -> None:
    found = dict(loky.run(die, [1, -1, 2, 3]))
    lost = found.pop(1)
    assert found == {0: 1, 2: 2, 3: 3}
    assert isinstance(lost, Failed)
    assert "SIGKILL" in lost.text
    with pytest.raises(GauntletError, match=f"{TRIES} workers died"):
        lost.reraise()


def test_what_cannot_be_sent_is_told(loky: Executor) -> None:
    (_, lost), (_, kept) = sorted(loky.run(square, [threading.Lock(), 3]))  # type: ignore[list-item]
    assert isinstance(lost, Failed)
    assert "pickle" in lost.text
    assert kept == 9


@pytest.mark.slow
def test_threads_are_divided_among_workers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with executor_of(2) as executor:
            found = dict(executor.run(surroundings, range(6))).values()
    finally:
        torch.set_num_threads(before)
    assert {one[1:] for one in found} == {(2, "2")}
    assert os.getpid() not in {one[0] for one in found}


@pytest.mark.slow
def test_who_stops_listening_gets_his_workers_back(loky: Executor) -> None:
    began = time.monotonic()
    running = loky.run(time.sleep, [0, 100, 100])
    next(running)
    running.close()
    assert dict(loky.run(square, [3])) == {0: 9}
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("workers", "on", "told"),
    [
        (0, None, "--workers 0: give at least 1"),
        (-3, "ray", "--workers -3: give at least 1"),
        (2, "ray:", "without the address"),
        (2, "slurm", "unknown place to run on 'slurm'"),
        (None, "Ray", "did you mean 'ray'"),
        (2, "", "unknown place to run on ''"),
    ],
)
def test_what_cannot_be_an_executor_is_told(workers: int | None, on: str | None, told: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=told):
        executor_of(workers, on)


def test_one_worker_is_this_process() -> None:
    assert isinstance(executor_of(), InProcess)
    assert isinstance(executor_of(1), InProcess)
