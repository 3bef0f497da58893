"""The AutoAttack reference code (package pyautoattack), seeded, and kept from touching anything outside itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from bench.compat.library import frozen
from bench.core import Classifier, ThreatModel, isolated
from bench.errors import BadInput

Version = Literal["standard", "plus", "rand", "l1"]
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_UNTARGETED = {"apgd-t": "apgd-dlr", "fab-t": "fab"}


def run_autoattack(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, version: Version, seed: int, batch_size: int
) -> tuple[Tensor, list[str]]:
    """Candidates [N, C, H, W] of the reference, bit for bit what it gives alone, with what it warns of."""
    own = _own_version(version, threat)
    if not len(x):
        return x.clone(), []
    x, net = x.contiguous(memory_format=torch.contiguous_format), Classifier(net)
    with isolated(seed, "autoattack"), frozen(net), _quiet() as notes:
        from pyautoattack import AutoAttack

        reference = AutoAttack(net, norm=_NORMS[threat.norm], eps=threat.radius, seed=seed, version=own, device=x.device)
        with torch.no_grad():
            classes = net(x[:1]).shape[1]
        for part in (reference.apgd_targeted, reference.fab):
            part.n_target_classes = min(part.n_target_classes, classes - 1)
        if threat.norm == "l1" and own != "standard":
            notes.append(f"AutoAttack {version} is not made for l1; version 'l1' searches larger balls first")
        wanted = reference.attacks_to_run
        reference.attacks_to_run = _existing(wanted, classes)
        if reference.attacks_to_run != wanted:
            ran = ", ".join(reference.attacks_to_run)
            notes.append(f"{classes} classes are too few for every loss of AutoAttack {version}; it ran {ran} instead")
        try:
            candidates, _ = reference.run_standard_evaluation(x, y, batch_size=batch_size)
        except torch.OutOfMemoryError:
            told = f"reference AutoAttack ran out of memory with batches of {batch_size}"
            raise BadInput(f"{told}; give it a smaller batch_size in the plan") from None
        except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
            told = f"reference AutoAttack ({threat}) fails on images of shape {list(x.shape[1:])}: {error}"
            raise BadInput(f"{told}; leave it out of the plan") from error
    return candidates, list(dict.fromkeys(notes))


def _own_version(version: Version, threat: ThreatModel) -> str:
    """The reference's name for a version; in l1 its standard one starts from larger balls, and is called l1 here."""
    if version != "l1":
        return version
    if threat.norm != "l1":
        raise BadInput(f"AutoAttack version 'l1' is for l1, and the threat is {threat}; use 'standard'")
    return "standard"


def _existing(attacks: list[str], classes: int) -> list[str]:
    """The attacks whose loss exists: the targeted DLR needs 4 classes, the DLR needs 3."""
    if classes >= 4:
        return attacks
    untargeted = dict.fromkeys(_UNTARGETED.get(name, name) for name in attacks)
    return [name for name in untargeted if classes == 3 or name != "apgd-dlr"]


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collect the reference's warnings instead of showing them, and put back the trace function that it removes."""
    from pyautoattack import checks

    # Its count of gradient calls in the forward pass is global and never reset: one dynamic defense taints the next.
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    logger, collector, trace = logging.getLogger("auto-attack"), _Collector(), sys.gettrace()
    before = (logger.handlers, logger.level, logger.propagate)
    logger.handlers, logger.propagate = [collector], False
    logger.setLevel(logging.WARNING)
    try:
        yield collector.texts
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
        sys.settrace(trace)
