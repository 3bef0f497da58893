"""A user's own Python file: code that runs because it was named."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

from bench.errors import BadInput, GauntletError
from bench.plugins.provenance import late_imports

_files: set[Path] = set()
"""Every file of a user's that was run."""
_stayed: list[Path] = []
"""Folders in which modules are found also later."""


def import_file(file: Path, *, stay: bool = False) -> ModuleType:
    """Run a Python file as a module; its siblings can be imported as if it were run where it stands.

    stay: also later, from inside its functions; then its folder comes last, so that it hides nothing.
    """
    file = file.resolve()
    _files.add(file)
    with user_code(file, fresh=not stay):
        module = _import(file)
    if stay and str(file.parent) not in sys.path:
        _refuse_namesakes(file)
        _stayed.append(file.parent)
        sys.path.append(str(file.parent))
    return module


def was_run(file: Path) -> bool:
    """Whether a file was run already, because the user named it."""
    return file.resolve() in _files


def _refuse_namesakes(file: Path) -> None:
    """A module that this file imports when it is called would be that of a plug-in which came before."""
    late = late_imports(file) & _Siblings(file.parent).names
    for folder in _stayed:
        if both := late & _Siblings(folder).names:
            raise BadInput(
                f"{file} imports {min(both)!r} from inside a function, and the plug-in in {folder} brings a module of that "
                "name: import it at the top of the file, or use one of the two plug-ins at a time"
            )


@contextmanager
def user_code(file: Path, *, fresh: bool = False) -> Iterator[None]:
    """What a user's code raises becomes an error that tells where in the user's file it came from.

    fresh: its siblings are imported anew, as they are on disk now.
    """
    try:
        with _siblings_first(file.parent, fresh=fresh), _defaults_kept(file):
            yield
    except GauntletError:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"{place(file, error)}: {told(error)}") from None


@contextmanager
def _defaults_kept(file: Path) -> Iterator[None]:
    """BadInput where code changes what every tensor and gradient of the process is made as; it is put back."""
    known: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "default device": (torch.get_default_device, lambda was: torch.set_default_device(None if was.type == "cpu" else was)),
        "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    }
    before = {what: get() for what, (get, _) in known.items()}
    yield
    for what, (get, put) in known.items():
        now = get()
        if now != before[what]:
            put(before[what])
            raise BadInput(
                f"{file} sets torch's {what} to {now} for the whole process, where attacks and judge rely on {before[what]}: "
                "leave that out, and say it where a tensor or a network is made, such as by net.double()"
            )


def told(error: BaseException) -> str:
    """An error on one line."""
    if isinstance(error, GauntletError):
        return str(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    lost = re.search(r"Can't get attribute '(\w+)' on <module '(?:\w+\.)?__main__'", text)
    if not lost:
        return text
    made = f"import __main__; from THAT_SCRIPT import {lost[1]}; __main__.{lost[1]} = {lost[1]}"
    return f"{text}; the class lived in the script that saved it: begin the file with `{made}`"


def place(file: Path, error: BaseException) -> str:
    """The line of a file that an error came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [line for where, line in _frames(error.__traceback__) if Path(where) == file]
    return f"{file}:{lines[-1]}" if lines else str(file)


def culprit(error: BaseException) -> str | None:
    """The line of a user's file that an error passed last, and what it says; None where it passed none."""
    passed = [(Path(where), line) for where, line in _frames(error.__traceback__) if Path(where) in _files]
    if not passed:
        return None
    file, line = passed[-1]
    return f"{file}:{line}: {told(error)}"


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    for frame in traceback.extract_tb(trace):
        yield frame.filename, frame.lineno or 0


def _import(file: Path) -> ModuleType:
    """The module of a file, under a name no other module has."""
    key = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    name = f"gauntlet_user_{file.stem}_{key}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Siblings:
    """Finds the modules and packages of one folder ahead of all others, packages without __init__.py included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inside = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}
        # The standard library and the harness keep their names: too much else in this process relies on them.
        self.names = inside - set(sys.stdlib_module_names) - {"bench", "torch"}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a top-level module of the folder."""
        del target
        return PathFinder.find_spec(name, [str(self.folder)]) if path is None and name in self.names else None


@contextmanager
def _siblings_first(folder: Path, *, fresh: bool) -> Iterator[None]:
    """Imports look into this folder first, and see none of the like-named modules that were imported from elsewhere."""
    finder = _Siblings(folder)
    named = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in finder.names}
    own = {name for name in named if _within(sys.modules[name.partition(".")[0]], folder)}
    aside = {name: module for name, module in named.items() if name not in own}
    for name in [*aside, *(own if fresh else ())]:
        del sys.modules[name]
    # Compiled files know an edit by second and length, which is not enough to tell one from the next.
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.dont_write_bytecode = compiled
        sys.path.remove(str(folder))
        sys.meta_path.remove(finder)
        taken = {name.partition(".")[0] for name in aside}
        for name in [name for name in sys.modules if name.partition(".")[0] in taken]:
            del sys.modules[name]
        sys.modules.update(aside)


def _within(module: ModuleType, folder: Path) -> bool:
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    return any(Path(place or "").resolve().is_relative_to(folder) for place in places)
