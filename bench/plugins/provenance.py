"""What a plug-in computes: a digest of its file and of what that imports from beside it, however deep."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path


def code_digest(file: Path, root: Path) -> str:
    """sha256 over a Python file and the files it imports from the folder `root`, also from inside functions."""
    file, root = file.resolve(), root.resolve()
    found: dict[Path, bytes] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_bytes()
            waiting += _imported(found[path], path, root)
    total = hashlib.sha256()
    # The file itself by its content alone, so that the same code elsewhere is the same.
    for path in sorted(found):
        name = "" if path == file else path.relative_to(root).as_posix()
        total.update(f"{name} {len(found[path])}\n".encode() + found[path])
    return total.hexdigest()


def late_imports(file: Path) -> set[str]:
    """The top-level modules that a Python file imports from inside its functions, when they are called."""
    tree = ast.parse(file.read_bytes())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    inside = [node for function in functions for node in ast.walk(function)]
    names = {alias.name for node in inside if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in inside if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def _imported(source: bytes, file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # an import that is never reached
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(file.relative_to(root).parts):  # out of the folder, which no import can do
                continue
            base = file.parents[node.level - 1] if node.level else root
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _modules(base, [*parts, alias.name])


def _modules(base: Path, parts: list[str]) -> Iterator[Path]:
    """The files of a module and of the packages it lies in; the last part may be a name inside one."""
    for end in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:end])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path
