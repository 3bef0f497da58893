"""A network from a user's own Python file: `py:FILE.py:factory`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bench.errors import BadInput, UnknownName
from bench.plugins import import_file, user_code


def check_python(file: Path) -> None:
    """BadInput where a Python file is missing."""
    if not file.is_file():
        raise BadInput(f"no Python file at {file}; a py: reference is py:FILE.py:factory")


def call_factory(file: Path, name: str) -> nn.Module:
    """The network that the function (or class) of this name in a Python file returns."""
    check_python(file)
    file = file.resolve()
    module = import_file(file)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        if not own:
            raise BadInput(f"{file} has no {name!r}, nor any other function; define one that returns an nn.Module")
        raise UnknownName(f"factory in {file}", name, own)
    factory = getattr(module, name)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise BadInput(f"{name} in {file} is a {type(factory).__name__}, not a function that returns an nn.Module")
    with user_code(file):
        net = factory()
    if not isinstance(net, nn.Module):
        raise BadInput(f"{name}() in {file} returned a {type(net).__name__}; return an nn.Module")
    return net
