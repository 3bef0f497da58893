"""Workers that are processes on this machine, by loky: started afresh instead of forked, so that torch's threads are safe."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from joblib.externals.loky import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from joblib.externals.loky.process_executor import TerminatedWorkerError

from bench.executors.executor import Failed
from bench.executors.pool import Attempt, Died, Pool, live_with, threads_each


class _Hand(NamedTuple):
    """A task in the hands of a worker."""

    worker: int
    future: Future[Any]


class Loky(Pool[_Hand]):
    """Processes beside this one, which start with the first tasks and stay."""

    workers = 0

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = threads_each(workers)
        # A pool for each, so that a death takes one task along and no other.
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def close(self) -> None:
        """End all workers at once."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, kill_workers=True)
        for pool in self._pools.values():
            pool.shutdown(wait=True)
        self._pools.clear()

    def _submit(self, worker: int, function: Callable[[Any], Any], task: object) -> _Hand:
        attempt = Attempt(self._threads, worker)
        with _uninterrupted():
            try:
                return _Hand(worker, self._pool(worker, attempt).submit(attempt, function, task))
            except TerminatedWorkerError:
                # It died while it had nothing to do, which is no task's death.
                self._end(worker)
                return _Hand(worker, self._pool(worker, attempt).submit(attempt, function, task))

    def _pool(self, worker: int, attempt: Attempt) -> ProcessPoolExecutor:
        if worker not in self._pools:
            self._pools[worker] = ProcessPoolExecutor(
                1, initializer=live_with, initargs=(os.getpid(),), env=attempt.environment()
            )
        return self._pools[worker]

    def _finished(self, busy: Collection[_Hand]) -> Collection[_Hand]:
        done = wait([hand.future for hand in busy], return_when=FIRST_COMPLETED).done
        return [hand for hand in busy if hand.future in done]

    def _outcome(self, handle: _Hand) -> Any:
        try:
            return handle.future.result()
        except TerminatedWorkerError as error:
            self._drop(handle)
            return Died(" ".join(str(error).split()))
        except Exception as error:  # what it is made of cannot be sent there, or what it gives cannot be sent home
            self._drop(handle)
            return Failed(f"{error}", trace=str(error.__cause__ or error))

    def _drop(self, handle: _Hand) -> None:
        self._end(handle.worker)

    def _end(self, worker: int) -> None:
        self._pools.pop(worker).shutdown(wait=True, kill_workers=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process that is started now never hears of a Ctrl-C, which a terminal sends to all; this one hears of it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
