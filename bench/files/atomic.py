"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BadInput
from bench.files.lock import bury, take, there

if TYPE_CHECKING:
    import numpy as np

ASIDE = ".aside"
"""How the folders end that were made anew, and are kept."""
_KINDS = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it when the block ends well, removed when it does not.

    BadInput where a device or a pipe is in its place, which would be a file from then on.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadInput(f"cannot write {path}: it is a {_KINDS.get(stat.S_IFMT(path.stat().st_mode), 'device')}; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        part, handle = _part(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}; everything finished before is kept") from None
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.chmod(0o644)
        part.replace(path)
        _settle(path.parent)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}; everything finished before is kept") from None
    finally:
        # Gone already, or removed while it is still locked and nobody takes it for a dead writer's.
        with suppress(OSError):
            part.unlink()
        if handle is not None:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def read_text(path: Path, limit: int = 2**26) -> str:
    """A text file of at most so many bytes; OSError or ValueError where it is not one."""
    with opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return content.decode("utf-8")


def opened(path: Path) -> BufferedReader:
    """A regular file, or a link to one, open to read; a pipe, which might never answer, and a device are an OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is a {_KINDS.get(stat.S_IFMT(kind), 'device')}, not a file", str(path))
    return BufferedReader(FileIO(descriptor))


def regular(path: Path, most: int) -> int:
    """The size of a regular file of at most so many bytes; BadInput where it is missing or anything else, such as a link."""
    try:
        found = path.lstat()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "device")
        raise BadInput(f"{path} is a {kind}, not a regular file; give the file itself")
    if found.st_size > most:
        raise BadInput(f"{path} has {found.st_size} bytes, and at most {most} can be what it should hold; it is not read")
    return found.st_size


def below(folder: Path, name: str) -> list[Path]:
    """Every file of this name, or with this ending for "*ending", in order; folders that vanish meanwhile hold none, those that
    were set aside are passed over, and links to folders are followed, to each folder once."""
    found, seen = [], set()
    for home, folders, files in os.walk(folder, followlinks=True):
        if (place := os.path.realpath(home)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [inside for inside in folders if not inside.endswith(ASIDE)]
        found += [Path(home, file) for file in files]
    return sorted(path for path in found if path.match(name))


def set_aside(folder: Path) -> Path:
    """Move a folder beside itself, where nothing that looks for results finds it; returns where it is now."""
    names = (folder.with_name(f"{folder.name}.{number}{ASIDE}") for number in count(1))
    aside = next(path for path in names if not os.path.lexists(path))
    try:
        folder.rename(aside)
    except OSError as error:
        raise BadInput(f"cannot move {folder} to {aside.name}: {error.strerror}; nothing was changed") from None
    return aside


def sha256(path: Path) -> str:
    """The digest of a file's bytes."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part(path: Path) -> tuple[Path, int | None]:
    """A new temporary file, locked as long as it is open: one that nobody has locked was left by a process that died."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        if take(handle, wait=True) is None:
            os.close(handle)
            return Path(name), None
        if there(Path(name), handle):
            return Path(name), handle
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what writers of this path left behind when they were killed."""
    for old in path.parent.glob(".*.part"):
        if old.name.startswith(f".{path.name}."):
            bury(old)


def _settle(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synchronised."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file, whole or not at all; the same arrays give the same bytes."""
    import numpy as np

    with atomic(path) as part, part.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
