"""What an arm of a portfolio did in one round, and what the rounds of several on the same samples say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.evaluation.units import Unit
from bench.plans import Arm
from bench.plugins import get_attack

OUTDONE = 0.1
"""Share of the pilot's samples that fall to one kind of attack alone, above which the others are called masked."""
FRONTIER = 1
"""As many of them at most fall to blind search alone where margins say what falls next (docs/performance.md)."""


@dataclass(frozen=True)
class Trial:
    """What an arm did in one round."""

    arm: Arm
    units: list[Unit]
    progress: Tensor
    """Of each sample of the round: 1 where it broke, else up to one half for the part of the way its margin came."""
    rough: bool = False
    """Whether it saw the faster precision."""

    @property
    def cost(self) -> int:
        """Forward-equivalents."""
        return sum(unit.cost for unit in self.units)

    @property
    def fooled(self) -> Tensor:
        """Which samples of the round it broke, bool [M]."""
        return torch.cat([unit.fooled for unit in self.units]) if self.units else torch.zeros(0, dtype=torch.bool)


def blind(arm: Arm) -> bool:
    """Whether it sees no gradient, nor goes on from what one found."""
    return get_attack(arm.attack).access in ("score", "decision") and arm.parameters.get("start") != "known"


def reading(arm: Arm) -> str:
    """What it reads of a network; empty for an attack on the network as it is."""
    return str(arm.parameters.get("past") or arm.parameters.get("reading") or "")


def by_worth(trials: Sequence[Trial]) -> list[Arm]:
    """Greedily, the arm that adds most to what the chosen ones achieve, per forward-equivalent."""
    waiting, chosen = list(trials), []
    reached = torch.zeros_like(trials[0].progress)
    while waiting:
        best = max(waiting, key=lambda t: float((t.progress - reached).clamp_min(0).sum()) / max(t.cost, 1))
        reached = torch.maximum(reached, best.progress)
        chosen.append(best.arm)
        waiting.remove(best)
    return chosen


def outdone(trials: Sequence[Trial], near: int) -> str:
    """In what searches without gradients are ahead, if they are."""
    without, best = _apart(trials)
    if not len(best):
        return ""
    alone, ahead = overlooked(trials), int((without > best)[near:].sum())
    if alone > OUTDONE * len(best):
        return f"black-box search broke {alone} of {len(best)} pilot samples that no gradient attack broke"
    if ahead > 0.5 * (len(best) - near):
        return f"black-box search came closer than every gradient attack on {ahead} of {len(best) - near} samples"
    return ""


def overlooked(trials: Sequence[Trial]) -> int:
    """How many samples fell to searches without gradients and to no gradient."""
    without, best = _apart(trials)
    return int(((without == 1) & (best < 1)).sum())


def _apart(trials: Sequence[Trial]) -> tuple[Tensor, Tensor]:
    """The progress of searches that see no gradient, and of those that do, on each sample; on none where either is missing."""
    unseeing = [t.progress for t in trials if blind(t.arm)]
    seeing = [t.progress for t in trials if get_attack(t.arm.attack).access == "gradient"]
    if not unseeing or not seeing:
        return torch.zeros(0), torch.zeros(0)
    return torch.stack(unseeing).amax(0), torch.stack(seeing).amax(0)


def ahead(adaptive: Sequence[Trial], others: Sequence[Trial]) -> int:
    """How many samples fell to attacks on a reading of the network alone."""
    if not adaptive or not others:
        return 0
    found, plain = (torch.stack([trial.progress for trial in group]).amax(0) == 1 for group in (adaptive, others))
    return int((found & ~plain).sum())
