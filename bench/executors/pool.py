"""What executors with workers have in common: one task for each worker at a time, and another try where a worker dies."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
import traceback
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from bench.executors.executor import TRIES, Executor, Failed, R, T, sentence

Handle = TypeVar("Handle")
BEAT = 0.5
"""Seconds after which a worker notices that the process it works for is gone."""
_LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Died:
    """What came of a task whose worker is gone."""

    why: str


class Pool(Executor, Generic[Handle]):
    """Workers that are processes of their own; a handle is a task that one of them is at."""

    apart = True

    def run(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R | Failed]]:
        """What a function gives for each task, with the task's place, in the order in which they finish."""
        waiting, idle = deque(range(len(tasks))), list(range(self.workers))
        busy: dict[Handle, tuple[int, int]] = {}
        deaths = [0] * len(tasks)
        ended: list[tuple[int, R | Failed]] = []
        try:
            while waiting or busy or ended:
                while waiting and idle:
                    place, worker = waiting.popleft(), idle.pop()
                    busy[self._submit(worker, function, tasks[place])] = place, worker
                # Only now, so that nobody waits for what is made of a result.
                yield from ended
                ended = []
                for handle in self._finished(busy):
                    place, worker = busy.pop(handle)
                    idle.append(worker)
                    outcome = self._outcome(handle)
                    if not isinstance(outcome, Died):
                        ended.append((place, outcome))
                    elif deaths[place] + 1 < TRIES:
                        deaths[place] += 1
                        waiting.appendleft(place)
                    else:
                        ended.append((place, _lost(outcome)))
        finally:
            for handle in busy:
                self._drop(handle)

    @abstractmethod
    def _submit(self, worker: int, function: Callable[[Any], Any], task: object) -> Handle:
        """Give a task to the worker of this number, which has none."""

    @abstractmethod
    def _finished(self, busy: Collection[Handle]) -> Collection[Handle]:
        """Those of these tasks that are over, at least one unless there is none at all: waits for it."""

    @abstractmethod
    def _outcome(self, handle: Handle) -> Any:
        """What came of a task that is over: what `Attempt` gave, or Died."""

    @abstractmethod
    def _drop(self, handle: Handle) -> None:
        """End a task that nobody waits for any more, at once."""


@dataclass(frozen=True)
class Attempt:
    """Carries out a task in a worker: with the threads that are its own, and an error that can be sent home."""

    threads: int
    gpu: int | None = None
    """Which GPU of the machine is the worker's, counted round; None where that is settled already."""

    def __call__(self, function: Callable[[T], R], task: T) -> R | Failed:
        """What a function gives for a task, or what it raises."""
        import torch

        # A worker that was used before keeps the threads that it had.
        torch.set_num_threads(self.threads)
        if self.gpu is not None and (count := torch.cuda.device_count()) > 1:
            torch.cuda.set_device(self.gpu % count)
        try:
            return function(task)
        except Exception as error:  # whatever the task raises
            return Failed(sentence(error), _sendable(error), traceback.format_exc())

    def environment(self) -> dict[str, str]:
        """What libraries read of their threads when they are loaded."""
        return dict.fromkeys(_LIBRARIES, str(self.threads))


def threads_each(workers: int) -> int:
    """The threads of one of so many workers, which share those that this process would use."""
    import torch

    return max(torch.get_num_threads() // workers, 1)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def live_with(parent: int) -> None:
    """End this process, a worker, when its parent is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(BEAT)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lost(last: Died) -> Failed:
    return Failed(f"{TRIES} workers died at it, the last so: {last.why}; with fewer workers each has more memory")


def _sendable(error: Exception) -> Exception | None:
    """The error, if it arrives as what it is."""
    try:
        pickle.dumps(error)
        # Made again from the same parts as at its arrival.
        again = copy.copy(error)
    except Exception:  # of whatever somebody's class raises
        return None
    return error if type(again) is type(error) and str(again) == str(error) else None
