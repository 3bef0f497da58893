"""Checks of a plug-in, one after the other, and what to do where one fails."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from bench.errors import AttackWarning, GauntletError
from bench.plugins import place, told

Case = TypeVar("Case")


class Violation(Exception):
    """What a plug-in does and the harness cannot live with; says what to do instead."""


class NotApplicable(Exception):
    """Why a check says nothing about this plug-in."""


class Finding(NamedTuple):
    """The outcome of one check."""

    check: str
    ok: bool | None
    """None where the check does not apply."""
    remedy: str = ""


def expect(holds: object, remedy: str) -> None:
    """Raise a Violation unless it holds."""
    if not holds:
        raise Violation(remedy)


def carry_out(checks: Mapping[str, Callable[[Case], None]], cases: Mapping[str, Case], source: Path) -> Iterator[Finding]:
    """Every check on every case (a name for each, told where it fails); source: the plug-in's file."""
    for name, check in checks.items():
        finding = Finding(name, True)
        for case_name, case in cases.items():
            try:
                # What an attack warns of goes on a card, and is no fault.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AttackWarning)
                    check(case)
            except NotApplicable as reason:
                finding = Finding(name, None, str(reason))
            except (Violation, GauntletError) as error:
                finding = Finding(name, False, f"{case_name}: {error}")
            except (Exception, SystemExit) as error:  # a plug-in raises anything
                finding = Finding(name, False, f"{case_name}: {place(source, error)}: {told(error)}")
            if finding.ok is False:
                break
        yield finding


@contextmanager
def no_global_randomness(instead: str) -> Iterator[None]:
    """The global generators of torch, numpy and Python are left where they were."""
    before = torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate()
    yield
    after = torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate()
    drawn = [
        name
        for name, one, other in zip(("torch", "numpy", "Python"), before, after, strict=True)
        if not (torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other)  # type: ignore[arg-type]
    ]
    expect(not drawn, f"it draws from the global generator of {' and '.join(drawn)}; {instead}")
