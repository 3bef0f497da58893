"""How far along a long command is: a live bar with an estimate on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.escape import line

BEAT = 60
"""Seconds after which a reader hears again of what takes long."""


class Reporter:
    """Progress of one task of `total` steps. Use it as a context manager; `quiet` says nothing at all."""

    def __init__(self, title: str, total: float, *, quiet: bool = False) -> None:
        self._title = title
        self._total = total
        self._quiet = quiet
        self._started = time.monotonic()
        self._said = self._started
        self._done = 0.0
        self._note = ""
        self._over = threading.Event()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if not quiet and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        elif not self._quiet:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._bar:
            self._bar.stop()

    def advance(self, amount: float, note: str = "", *, milestone: bool = False) -> None:
        """`amount` more steps are done. Off a terminal only milestones, or a line every 20 seconds, are printed.

        note: what is being done; without one, what was.
        """
        self._done += amount
        note = self._note = line(note) or self._note
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=note)
        now = time.monotonic()
        if self._quiet or (self._bar and not milestone) or not (milestone or now - self._said > 20):
            return
        self._said = now
        self.say(f"{self._title}: {note}{self._left(now)}")

    def tell(self, text: str) -> None:
        """One line that even the quiet must read, such as why nothing happens."""
        quiet, self._quiet = self._quiet, False
        self.say(text)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        text = line(text)
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - the product's voice

    def _beat(self) -> None:
        """Off a terminal, a line where something takes so long that a reader would think it stuck."""
        while not self._over.wait(BEAT):
            now = time.monotonic()
            if now - self._said >= BEAT:
                self._said = now
                self.say(f"{self._title}: {self._note or 'at work'}, {_duration(now - self._started)} so far{self._left(now)}")

    def _left(self, now: float) -> str:
        if not 0 < self._done < self._total:
            return ""
        seconds = (now - self._started) * (self._total / self._done - 1)
        return f" · about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
