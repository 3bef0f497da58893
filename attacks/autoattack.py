"""AutoAttack (Croce & Hein 2020; for l1 Croce & Hein 2021) as its authors' code runs it."""

import warnings
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from bench.attack import AttackWarning, Module, Rng, ThreatModel, attack


@attack("autoattack", access="module", norms={"linf", "l2", "l1"}, whole=True)
def autoattack(
    model: Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    version: Literal["standard", "plus", "rand", "l1"] = "standard",
    batch_size: Annotated[int, Field(ge=1)] = 250,
) -> Tensor:
    """APGD-CE, targeted APGD-DLR and FAB, and Square, each on the survivors.

    plus: five restarts, and the untargeted losses too. rand: for randomised defenses, gradients averaged over 20 passes. l1:
    what standard is in l1, by name.
    """
    from bench.compat.autoattack import run_autoattack

    candidates, notes = run_autoattack(model.module, x, y, threat, version=version, seed=rng.seed, batch_size=batch_size)
    for note in notes:
        warnings.warn(note, AttackWarning, stacklevel=2)
    return candidates
