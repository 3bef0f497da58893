"""What carries out tasks: the one interface, and the executor that is this process itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from bench.errors import GauntletError

T = TypeVar("T")
R = TypeVar("R")
TRIES = 3
"""Workers that one task may take down with it."""


@dataclass(frozen=True)
class Failed:
    """What came of a task that raised, or whose workers died."""

    text: str
    """What went wrong, in a sentence."""
    error: Exception | None = None
    """What it raised; None where its workers died, or where the error cannot be sent."""
    trace: str = ""
    """Where it was raised, as Python tells it."""

    def reraise(self) -> NoReturn:
        """Raise here what was raised there."""
        error = self.error or (RuntimeError if self.trace else GauntletError)(self.text)
        if self.trace:
            raise error from _Elsewhere(self.trace)
        raise error


class _Elsewhere(Exception):
    """The traceback of another process, to stand above one of this."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Executor(ABC):
    """Carries out tasks. Use it as a context manager: no process outlives it, whatever ends it."""

    apart: bool = False
    """Whether that is in other processes, which know nothing but what a task tells them."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Tasks that are carried out at a time."""

    @abstractmethod
    def run(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R | Failed]]:
        """What a function gives for each task, with the task's place, in the order in which they finish.

        A task that raises is Failed at once. One whose worker dies is given to another, until it has taken down TRIES of them.
        Function, tasks and results must pickle; a module-level function does.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers at once; nothing of theirs is lost but what they are at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class InProcess(Executor):
    """One task after the other, in this process."""

    workers = 1

    def run(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R | Failed]]:
        """What a function gives for each task, in their order."""
        for place, task in enumerate(tasks):
            try:
                yield place, function(task)
            except Exception as error:  # whatever the task raises
                yield place, Failed(sentence(error), error)

    def close(self) -> None:
        """There is nothing to end."""


def sentence(error: Exception) -> str:
    """An error in one line."""
    return str(error) if isinstance(error, GauntletError) else f"{type(error).__name__}: {error}".partition("\n")[0]
