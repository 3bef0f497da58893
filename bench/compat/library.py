"""What the adapters to libraries of attacks share: one of their classes becomes an attack of ours.

The libraries draw from global generators, a number after the other, so a sample's noise depends on its place in the batch:
the independence of the batch that our own attacks keep cannot be had. What can be had is here. A run repeats for the same
seed and `batch_size`, which is therefore a parameter of the attack; the harness hands over all samples at once, so that its
own batching does not show; and the global generators are found as they were left.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.core import Module, Rng, ThreatModel, ask, isolated
from bench.errors import BadInput
from bench.plugins import Attack

Once = Callable[[nn.Module, Tensor, Tensor, ThreatModel, Mapping[str, Any]], Tensor]
"""One run of a library's attack on a batch: (net, x, y, threat, its parameters) -> candidates."""
_OURS = ("restarts", "batch_size")


def package(name: str, wanted: str, extra: str) -> Any:
    """An optional package, or an error that says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise BadInput(f"{wanted!r}: {name} is installed and lacks {error.name}; install that, or {name} anew") from error
        raise BadInput(f"{wanted!r} needs the package {name}: pip install 'gauntlet-bench[{extra}]'") from None


def parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    """A keyword of a library's attack; one without a default has to be given."""
    default = None if default is inspect.Parameter.empty else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def as_attack(name: str, about: str, once: Once, parameters: Sequence[inspect.Parameter], norms: frozenset[str]) -> Attack:
    """A library's attack under our contract: its keyword parameters are the library's, and two of ours."""

    def run(
        view: Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        rng: Rng,
        *,
        restarts: Annotated[int, Field(ge=1)] = 1,
        batch_size: Annotated[int, Field(ge=1)] = 250,
        **options: Any,
    ) -> Tensor:
        z = x.clone()
        if not len(x) or not threat.eps:
            return z
        net = view.module.eval()
        going = torch.arange(len(x), device=x.device)
        for restart in range(restarts):
            for batch, rows in enumerate(going.split(batch_size)):
                with sealed(net, rng.seed, name, rng.stream, restart, batch), _told(name, x):
                    found = once(net, x[rows], y[rows], threat, options).detach().to(x.dtype)
                z[rows] = threat.project(torch.where(found.isfinite(), found, x[rows]), x[rows])
            if restart + 1 < restarts:
                going = going[_standing(net, z[going], y[going], batch_size)]
        return z

    run.__doc__ = about
    signature = inspect.signature(run)
    plain = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    run.__signature__ = signature.replace(parameters=[*plain, *parameters])  # type: ignore[attr-defined]
    run.__annotations__.update({one.name: one.annotation for one in parameters})
    return Attack(name, run, "module", norms, seeded=True, whole=True)


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Keep an attack that calls `backward` from piling up gradients in the network's parameters."""
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for one in trainable:
            one.requires_grad_(False)
        yield
    finally:
        for one in trainable:
            one.requires_grad_(True)


@contextmanager
def sealed(net: nn.Module, seed: int, *names: str | int) -> Iterator[None]:
    """Run a library's code with generators seeded for this use, and leave no trace of it: all are put back."""
    with isolated(seed, *names), frozen(net), redirect_stdout(StringIO()):
        yield


@contextmanager
def _told(name: str, x: Tensor) -> Iterator[None]:
    """What a library raises, told as what the user can do about it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise BadInput(f"attack {name!r} ran out of memory; give it a smaller batch_size") from None
    except Exception as error:  # a library raises anything
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"attack {name!r} fails on images of shape {list(x.shape[1:])}: {told}; change its parameters or leave it out"
        ) from error


@torch.no_grad()
def _standing(net: nn.Module, z: Tensor, y: Tensor, batch_size: int) -> Tensor:
    logits = torch.cat([ask(net, part) for part in z.split(batch_size)])
    return logits.argmax(1) == y
