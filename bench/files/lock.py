"""One process at a time: locks that the kernel drops together with the process that holds them, kill -9 included.

Windows, and file systems without locks, let everybody in: files stay whole there too, but work may be done twice.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file that a process locks in a folder it works in."""


def take(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file: True when it is ours, False when another process has it, None where locks are not known."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def own(path: Path, *, create: bool = False) -> int:
    """Open a regular file of ours to write; BadInput where a link or anything else lies there, whose bytes are not ours."""
    # Not blocking, because a pipe without a reader would wait for ever.
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise BadInput(_foreign(path)) from None
    found = os.fstat(descriptor)
    # A second name of a file elsewhere is as good as a link to it.
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1 and not path.is_symlink():
        return descriptor
    os.close(descriptor)
    raise BadInput(_foreign(path))


def _foreign(path: Path) -> str:
    return f"{path} is a link, a pipe or a folder and not a file of ours; nothing was written, look at it and remove it"


def there(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at this path."""
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def bury(path: Path) -> None:
    """Remove a file that a process had locked when it was killed; one that is still locked stays."""
    with suppress(OSError, BadInput):
        descriptor = own(path)
        try:
            if take(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def alone(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Work in a folder that no other process works in; waits for one that does, and tells so."""
    path = folder / LOCK
    descriptor = _hold(path, folder, tell)
    try:
        yield
    finally:
        # While it is still ours: whoever waits for it then finds it gone, and makes another.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _hold(path: Path, folder: Path, tell: Callable[[str], None]) -> int:
    """The lock file, open and ours."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = own(path, create=True)
        except OSError as error:
            raise BadInput(f"cannot write {folder}: {error.strerror}; everything finished before is kept") from None
        try:
            if take(descriptor) is False:
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                tell(f"{holder} is at work in {folder}: waiting for it to end")
                take(descriptor, wait=True)
            if there(path, descriptor):
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def busy(path: Path) -> bool:
    """Whether another process has locked this file."""
    with suppress(OSError, BadInput):
        descriptor = own(path)
        try:
            return take(descriptor) is False
        finally:
            os.close(descriptor)
    return False
