"""Commands in processes of their own, which tests/crash/server.py forks, so that torch is imported once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


class Server:
    """Starts commands in processes of their own."""

    def __init__(self) -> None:
        code = [sys.executable, str(Path(__file__).parents[1] / "crash" / "server.py")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **question: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str
    log: list[str]
    """What it did to its folder, in order: an audit event and a path each."""

    def made(self, *endings: str) -> list[str]:
        """The files with one of these endings that it put in place, in order."""
        return [line.split(" ", 1)[1] for line in self.log if line.startswith("os.rename") and line.endswith(endings)]


class Command:
    """A command that is running."""

    def __init__(self, server: Server, home: Path, argv: list[str], kill: Any, clock: float, limit: Any) -> None:
        self.server, self.stem = server, home.parent / f"{home.name}-{time.monotonic_ns()}"
        home.mkdir(exist_ok=True)
        argv = [str(next(home.glob("results/*/*/fast_at-*")).relative_to(home)) if part == "RUN" else part for part in argv]
        self.id = server.ask(
            argv=argv, cwd=str(home), err=str(self.stem), log=f"{self.stem}.log", kill=kill, clock=clock, limit=limit
        )

    def told(self) -> str:
        """What it has said so far."""
        err = self.stem.with_name(f"{self.stem.name}.err")
        return err.read_text() if err.exists() else ""

    def wait(self) -> Ended:
        code = self.server.ask(wait=self.id)
        out, err, log = (self.stem.with_name(f"{self.stem.name}.{end}") for end in ("out", "err", "log"))
        return Ended(code, out.read_text(), err.read_text(), log.read_text().splitlines() if log.exists() else [])
