"""Workers on a cluster, or on this machine, by Ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

from bench.errors import BadInput
from bench.executors.executor import Failed
from bench.executors.pool import Attempt, Died, Pool, cores, live_with, threads_each

TAMED = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Nothing is sent to anybody, tries are counted here alone, and a task that asks for no GPU keeps those it sees."""
PATIENCE = 10
"""Seconds in which a cluster has to answer."""


class Ray(Pool[Any]):
    """The workers of a Ray cluster; without an address, of one on this machine that begins and ends with this object."""

    def __init__(self, workers: int | None, address: str | None = None) -> None:
        self._ray = _imported()
        self._asked = workers
        self._address = address

    @property
    def workers(self) -> int:
        """Tasks that are carried out at a time; as many as there are processors, where nobody says."""
        return self._begun[0]

    @cached_property
    def _begun(self) -> tuple[int, Attempt, Any]:
        """The workers, how each attempts a task, and the function that Ray gives them; entering a cluster takes seconds."""
        here = 0 if self._address else self._asked or cores()
        threads = threads_each(here) if here else 1
        self._start(here * threads)
        there = self._ray.cluster_resources()
        cpus = int(there.get("CPU", 1))
        workers = self._asked or max(cpus // threads, 1)
        attempt = Attempt(threads if here else max(cpus // workers, 1))
        gpus = min(there.get("GPU", 0) / workers, 1)
        return workers, attempt, self._ray.remote(num_cpus=attempt.threads, num_gpus=gpus, max_retries=0)(_carry_out)

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        if "_begun" in self.__dict__:
            self._ray.shutdown()
            del self._begun

    def _start(self, cpus: int) -> None:
        os.environ.update({key: value for key, value in TAMED.items() if key not in os.environ})
        here = {} if self._address else {"num_cpus": cpus, "include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if self._address:
                _knock(self._address)
            self._ray.init(address=self._address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **here)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            told = " ".join(str(error).split()).partition(". ")[0]
            what = f":{self._address}: no cluster answers there" if self._address else ": it does not start here"
            raise BadInput(f"--on ray{what} ({told})") from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        # Of a worker that dies it would tell on stdout, where results go.
        self._ray._private.worker._worker_logs_enabled = False

    def _submit(self, worker: int, function: Callable[[Any], Any], task: object) -> Any:  # noqa: ARG002 - Ray chooses one
        _, attempt, remote = self._begun
        return remote.remote(attempt, function, task)

    def _finished(self, busy: Collection[Any]) -> Collection[Any]:
        done, _ = self._ray.wait(list(busy), num_returns=1)
        return done  # type: ignore[no-any-return]

    def _outcome(self, handle: Any) -> Any:
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            # Not the task, which tells of what it raises: what it is made of could not be read there, as without the package.
            return Failed(str(error).strip().rpartition("\n")[2], trace=str(error))
        except self._ray.exceptions.RayError as error:
            return Died(str(error).partition("\n")[0])

    def _drop(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True)


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise BadInput("--on ray needs the package ray: pip install 'gauntlet-bench[ray]'") from None
    return ray


def _knock(address: str) -> None:
    """OSError where nobody listens at HOST:PORT, which Ray takes minutes to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _carry_out(attempt: Attempt, function: Callable[[Any], Any], task: object) -> Any:
    live_with(os.getppid())
    return attempt(function, task)
