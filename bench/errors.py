"""The errors a user can cause: each names the thing, the value and the remedy. The command line prints them, exit 2."""

import copyreg
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is written most like this one, whatever the case; empty where none is like it."""
    folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), sorted(folded), n=1, cutoff=0.5)
    return folded[near[0]] if near else ""


class GauntletError(Exception):
    """Something the user can put right; never shown as a traceback."""


class UnknownName(GauntletError):
    """A name that is not registered, with the nearest one that is."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        # What is said of a name and is none, "yours with --plugin FILE", stands at the end.
        names = sorted(known, key=lambda one: (" " in one, one))
        near = nearest(name, [one for one in names if " " not in one])
        hint = f"did you mean {near!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")

    def __reduce__(self) -> tuple[Any, ...]:
        # By its sentence: from one process to another.
        return copyreg.__newobj__, (type(self), *self.args)  # type: ignore[attr-defined]


class BadInput(GauntletError):
    """A value or a file that cannot be used as it is."""


class Skipped(GauntletError):
    """A defense that does not apply to this data set or threat model; the reason goes into the table."""


class AccessError(GauntletError):
    """An attack asked its view for more than it declared."""


class AttackWarning(UserWarning):
    """What an attack wants the reader of its number to know."""


class PluginWarning(UserWarning):
    """What was installed to be found and cannot be used, and what is used under a name it no longer has."""


_UNMAPPED = ("failed to map segment", "annot allocate memory")
"""What the loader says of a library that it has no room for."""


def no_room(error: BaseException) -> str:
    """A sentence about a process that has no memory to begin with; empty for any other error."""
    if not isinstance(error, ImportError | MemoryError) or not out_of_memory(error):
        return ""
    lines = [line for line in str(error).splitlines() if any(words in line for words in _UNMAPPED)]
    return f"there is not memory enough to start ({lines[0] if lines else 'MemoryError'}); free some, or raise the limit"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine; by name, because this must not import torch."""
    told = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    unmapped = isinstance(error, ImportError | OSError) and any(words in told for words in _UNMAPPED)
    return named or unmapped or "DefaultCPUAllocator" in told or "bad_alloc" in told
