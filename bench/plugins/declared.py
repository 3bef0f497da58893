"""What a plug-in says of itself when it registers: what a user can get wrong, told at once, and which code stands behind it."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from bench.core import Norm
from bench.errors import BadInput, UnknownName
from bench.plugins.contract import Defense
from bench.plugins.provenance import code_digest

Kind = Literal["attack", "defense"]
Access = Literal["decision", "score", "gradient", "module"]
BROKEN = "broken_"
"""How the names of deliberately broken defenses begin; they are imported when one is asked for, and listed apart."""
SELECTS = ("pgd", "fgsm", "clean", "epoch")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_TAKEN = ("name", "model", "paper", "passes", "presets", "selects", "certifies")


def is_ours(module: str) -> bool:
    """Whether a module is a part of the harness."""
    return module.partition(".")[0] == __name__.partition(".")[0]


def code_of(thing: Any) -> str:
    """A digest of the code behind a class or a function, which may change under its name; empty for ours."""
    module = str(thing.__module__)
    if is_ours(module):
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file and Path(file).is_file():
        depth = module.count(".") + (Path(file).name == "__init__.py")
        return code_digest(Path(file), Path(file).resolve().parents[depth])
    try:  # a cell of a notebook
        return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def check_defense(name: object, cls: object) -> None:
    """BadInput or UnknownName for a class that cannot be registered as a defense."""
    _check_name("defense", name)
    if not (isinstance(cls, type) and issubclass(cls, Defense)):
        told = getattr(cls, "__name__", cls)
        raise BadInput(f"defense {name!r}: {told} is no subclass of Defense; write class {told}(Defense)")
    if str(name).startswith(BROKEN) and not is_ours(cls.__module__):
        raise BadInput(f"defense {name!r}: names that begin with {BROKEN!r} are for what is broken on purpose here; rename it")
    if cls.selects not in SELECTS:
        raise UnknownName(f"what defense {name!r} selects by", str(cls.selects), SELECTS)
    if not isinstance(cls.presets, Mapping) or not all(isinstance(preset, Mapping) for preset in cls.presets.values()):
        raise BadInput(f'defense {name!r}: presets are a mapping of mappings, {{"cifar": {{"epochs": 30}}}}')
    for field, kind in inspect.get_annotations(cls).items():
        if "ClassVar" in str(kind):
            continue
        if field in _TAKEN:
            raise BadInput(f"defense {name!r}: {field!r} is no name for a hyper-parameter, the harness uses it; rename it")
        if not hasattr(cls, field):
            raise BadInput(f"defense {name!r}: hyper-parameter {field!r} has no default; give it one")


def check_attack(name: object, access: object, norms: Collection[str], parameters: Mapping[str, Any]) -> None:
    """BadInput or UnknownName for a function that cannot be registered as an attack."""
    _check_name("attack", name)
    if access not in get_args(Access):
        raise UnknownName(f"access of attack {name!r}", str(access), get_args(Access))
    if isinstance(norms, str):
        raise BadInput(f"attack {name!r}: norms = {norms!r} is text; write norms={{{norms!r}}}")
    if not norms:
        raise BadInput(f"attack {name!r} declares no norm; write norms={{'linf'}}")
    for norm in norms:
        if norm not in get_args(Norm):
            raise UnknownName(f"norm of attack {name!r}", norm, get_args(Norm))
    for key, value in parameters.items():
        if value is inspect.Parameter.empty:
            raise BadInput(f"attack {name!r}: parameter {key!r} has no default; give it one")


def _check_name(kind: Kind, name: object) -> None:
    """A name becomes a part of a folder's name and of a command line."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise BadInput(
            f"{kind} {name!r}: a name is text of letters, digits, '_', '-' and '.', and begins with a letter or a digit; "
            f'write @{kind}("my_{kind}", ...)'
        )
