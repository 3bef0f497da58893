"""The executor that somebody asks for."""

from __future__ import annotations

from bench.errors import BadInput, UnknownName
from bench.executors.executor import Executor, InProcess


def executor_of(workers: int | None = None, on: str | None = None) -> Executor:
    """Of `--workers N` and `--on ray[:ADDRESS]`: this process for one worker, processes beside it for more, else a cluster.

    Workers of a cluster are as many as it has processors, where nobody says.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers}: give at least 1")
    if on is not None:
        kind, colon, address = on.partition(":")
        if kind != "ray":
            raise UnknownName("place to run on", on, ["ray", "ray:ADDRESS"])
        if colon and not address:
            raise BadInput(
                "--on ray: is without the address that its colon announces; write --on ray, or --on ray:10.0.0.1:6379"
            )
        from bench.executors.cluster import Ray

        return Ray(workers, address or None)
    if workers in (None, 1):
        return InProcess()
    from bench.executors.processes import Loky

    return Loky(workers)
