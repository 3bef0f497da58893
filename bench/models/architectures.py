"""Architectures by name, and the specs that set their parameters: "preact_resnet18?width=16"."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from bench.errors import BadInput, UnknownName
from bench.models.cnn import digits_bn, digits_cnn, lenet, mnist_fast
from bench.models.lab import linear, patches
from bench.models.layers import Normalize, Normalized
from bench.models.resnet import preact_resnet18, resnet18
from bench.models.vgg import vgg16
from bench.models.wide_resnet import wide_resnet

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder
    for builder in (digits_bn, digits_cnn, lenet, linear, mnist_fast, patches, preact_resnet18, resnet18, vgg16, wide_resnet)
}
_DEFAULTS = {"digits": "digits_cnn", "mnist": "mnist_fast", "cifar": "preact_resnet18", "structured": "patches"}
LARGEST = 1024
"""The largest width or depth that is built; beyond it memory runs out before anyone is told."""


def build(
    spec: str,
    shape: tuple[int, int, int],
    classes: int,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> nn.Module:
    """A freshly initialised network for images of shape (C, H, W) and K classes.

    spec: an architecture with its parameters, "wide_resnet?depth=34&width=10". statistics: mean and std per channel, in
    the units of the images; with them normalisation becomes the first layer.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise BadInput(f"image shape {shape} is not (channels, height, width) with at least one of each")
    if classes < 2:
        raise BadInput(f"{classes} classes: a classifier needs at least 2")
    name, given = parse_spec(spec)
    known = _parameters(name)
    for key in given:
        if key not in known:
            raise _unknown_parameter(name, key, known)
    body = _BUILDERS[name](shape, classes, **{key: _typed(name, known[key], text) for key, text in given.items()})
    if statistics is None:
        return body
    for values in statistics:
        if len(values) != shape[0]:
            raise BadInput(f"statistics of {len(values)} channels for images of {shape[0]}; give one value per channel")
    return Normalized(Normalize(*statistics), body)


def names() -> list[str]:
    """The names of all architectures."""
    return sorted(_BUILDERS)


def describe(name: str) -> str:
    """One line of what an architecture is, with its parameters and their defaults."""
    parameters = "&".join(f"{p.name}={p.default}" for p in _parameters(name).values())
    about = (inspect.getdoc(_BUILDERS[name]) or "").split("\n")[0]
    return f"{about} {parameters}".rstrip()


def default_architecture(family: str) -> str:
    """The architecture for a family of data sets: "digits", "mnist", "cifar" or "structured"."""
    if family not in _DEFAULTS:
        raise UnknownName("family of data sets", family, _DEFAULTS)
    return _DEFAULTS[family]


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """The name and the parameters, still text, in "name?key=value&key=value"."""
    name, _, query = spec.strip().partition("?")
    if name not in _BUILDERS:
        raise UnknownName("architecture", name, _BUILDERS)
    return name, parse_query(query, f"architecture {spec!r}")


def format_spec(name: str, parameters: Mapping[str, str]) -> str:
    """The spec that `parse_spec` reads back."""
    query = "&".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name}?{query}" if query else name


def parse_query(query: str, what: str) -> dict[str, str]:
    """The pairs in "key=value&key=value"."""
    pairs: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise BadInput(f"{what}: {part!r} is not key=value")
        if key in pairs:
            raise BadInput(f"{what}: {key} is given twice")
        pairs[key] = value
    return pairs


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    if name not in _BUILDERS:
        raise UnknownName("architecture", name, _BUILDERS)
    signature = inspect.signature(_BUILDERS[name], eval_str=True)
    return {p.name: p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}


def _unknown_parameter(name: str, key: str, known: Mapping[str, inspect.Parameter]) -> Exception:
    if not known:
        return BadInput(f"architecture {name!r} has no parameter {key!r}, nor any other")
    return UnknownName(f"parameter of architecture {name!r}", key, known)


def _typed(name: str, parameter: inspect.Parameter, text: str) -> int | float:
    try:
        if parameter.annotation is int:
            whole = int(text)
            if 1 <= whole <= LARGEST:
                return whole
        elif math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    wanted = f"a whole number from 1 to {LARGEST}" if parameter.annotation is int else "a number"
    raise BadInput(f"architecture {name!r}: {parameter.name} = {text!r} is not {wanted}; it defaults to {parameter.default}")
