"""The beginning and the end of the process: an interrupt at any moment, and a machine without memory, are a sentence.

Imports nothing that takes time, so that even a Ctrl-C at once finds it there.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

_TOLD = b"interrupted; everything finished is kept, and the same command goes on from there\n"
_CURSOR = b"\x1b[?25h"
"""Shows the cursor, which a progress bar hides."""


class _Interrupts:
    """What Ctrl-C does: while imports run it ends the process, then the command, and the second time the process."""

    def __init__(self) -> None:
        self.seen = False

    def at_once(self, *_: object) -> None:
        """End the process here and now: every file is whole at any moment, and what is half done is made anew."""
        os.write(2, (_CURSOR if os.isatty(2) else b"") + (b"" if self.seen else _TOLD))
        os._exit(130)

    def first(self, _: int, frame: FrameType | None) -> None:
        """Let the command end by itself; an extension that is being imported may answer an exception by aborting."""
        while frame:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                self.at_once()
            frame = frame.f_back
        self.seen = True
        signal.signal(signal.SIGINT, self.at_once)
        raise KeyboardInterrupt

    def dropped(self, lost: Any) -> None:
        """A Ctrl-C that fell into a finaliser, from which no exception comes out."""
        if self.seen and issubclass(lost.exc_type, KeyboardInterrupt):
            self.seen = False
            self.at_once()
        sys.__unraisablehook__(lost)


def main() -> None:
    """The command `gauntlet`."""
    interrupts = _Interrupts()
    # A job in the background of a shell ignores Ctrl-C, and goes on doing so.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, interrupts.at_once)
        sys.unraisablehook = interrupts.dropped
    try:
        from bench.cli.commands import main as run

        if heard:
            signal.signal(signal.SIGINT, interrupts.first)
        run()
    except Exception as error:
        # An extension that is interrupted while it is imported tells of anything but that.
        if interrupts.seen:
            interrupts.seen = False
            interrupts.at_once()
        # commands.py tells what it knows of; this is for the imports before it.
        from bench.errors import no_room

        if not (told := no_room(error)):
            raise
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)
    finally:
        if heard:
            signal.signal(signal.SIGINT, interrupts.at_once)
