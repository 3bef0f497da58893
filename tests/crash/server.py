"""Imports the product once, then forks a process for each command that stdin names; each runs the real command line.

A line is a JSON object: {"argv", "cwd", "err", "log", "kill", "clock", "limit"} starts a command and answers its process id,
{"wait": ID} answers how it ended: its exit code, or the signal that killed it, negative.

log: every file the command put in place is noted there, a line each. kill: [what, k] kills the command at its k-th change of
the folder ("change") or tears the k-th file that it wants safely on disk in two and kills it there ("tear"); "none" only
counts. clock: seconds by which the wall clock jumps at every look. limit: [name, bytes] of resource.setrlimit.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from itertools import count
from typing import Any

import torch
import torch._dynamo  # what torch imports when it is first needed must not meet a limit of memory

import bench.report.tables  # so that no command has to
import bench.runs.jobs  # noqa: F401
from bench import data
from bench.cli.commands import main
from bench.plugins import registry

CHANGES = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "open": 0}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watch(given: dict[str, Any]) -> None:
    """Note and count what the command does to its folder, and kill it where it is told to."""
    home, (what, place) = os.path.realpath(given["cwd"]) + os.sep, given["kill"]
    log = os.open(given["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    changes, syncs, sync = count(1), count(1), os.fsync

    def hook(event: str, found: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(found[CHANGES[event]], (str, os.PathLike)):
            return
        path = os.path.join(home, os.fspath(found[CHANGES[event]]))  # noqa: PTH118 - no more work than needed in here
        if not path.startswith(home) or (event == "open" and not found[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        # Before it happens: what was put in place is noted by the next change at the latest.
        if what == "change" and next(changes) == place:
            die()
        os.write(log, f"{event} {path.removeprefix(home)}\n".encode())

    def torn(descriptor: int) -> None:
        if what == "tear" and next(syncs) == place:
            file = f"/proc/self/fd/{descriptor}"
            if os.path.isfile(file):  # noqa: PTH113
                os.truncate(file, os.fstat(descriptor).st_size // 2)
            die()
        sync(descriptor)

    sys.addaudithook(hook)
    os.fsync = torn


def wind(step: float) -> None:
    """A wall clock that jumps, and in turn forth and back."""
    looks, now, now_ns = count(), time.time, time.time_ns
    time.time = lambda: now() + step * (-1) ** next(looks)
    time.time_ns = lambda: now_ns() + int(step * 1e9) * (-1) ** next(looks)


def command(given: dict[str, Any]) -> None:
    os.chdir(given["cwd"])
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{given['err']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["gauntlet", *given["argv"]]
    if given["clock"]:
        wind(given["clock"])
    if given["limit"]:
        which, size = given["limit"]
        if which == "RLIMIT_FSIZE":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if which == "RLIMIT_AS" else 0  # noqa: PTH123, SIM115
        resource.setrlimit(getattr(resource, which), (used + size, used + size))
    watch(given)
    main()


def serve() -> None:
    for line in sys.stdin:
        given = json.loads(line)
        if "wait" in given:
            answer = os.waitstatus_to_exitcode(os.waitpid(given["wait"], 0)[1])
        elif not (answer := os.fork()):
            status = 70
            try:
                command(given)
            except SystemExit as stop:
                status = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    data.load("digits", "test")
    registry.get_attack("pgd")
    registry.get_defense("fast_at")
    serve()
