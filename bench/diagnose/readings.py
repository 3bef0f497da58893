"""What an adaptive attacker gets who looks inside: attacks on readings of the network (bench/core/adaptations.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core import forward
from bench.diagnose.finding import Measured, check
from bench.diagnose.probe import Probe


@check(
    "attacks on what is inside", (0.02, 0.1),
    fine="attacks on {readings} break {value:.1%} that nothing else does",
    wrong="{value:.1%} of the right images fall to attacks on {readings} and to nothing else that was run: the answers hide "
    "what is inside, and the number is too high by as much at least; run --plan fast, which attacks it too",
)  # fmt: skip
def inside(probe: Probe) -> Measured:
    """The share that falls to attacks on networks inside, past what denies the gradient, or around the image alone."""
    found = opened(probe)
    names = _names(probe)
    told = ", ".join(names) or "nothing, as nothing inside answers otherwise,"
    return Measured(float(found.double().mean()), {"readings": told})


def opened(probe: Probe, among: Tensor | None = None) -> Tensor:
    """Which of some samples fall to attacks on readings, bool [M]; of those that nothing else broke unless given."""
    if among is None:
        return probe.once("opened", lambda: opened(probe, ~(probe.broken | probe.white)))
    found = torch.zeros_like(among)
    for name in _names(probe):
        if name.startswith("inner"):
            found |= probe.attack("inner", among=among & ~found, reading=name)
            targets = min(3, forward(probe.net, probe.x[:1]).shape[1] - 1)
            found |= probe.attack("inner", among=among & ~found, reading=name, steps=40, targets=targets)
        else:
            found |= probe.attack("bpda", among=among & ~found, past=name)
    return found


def _names(probe: Probe) -> list[str]:
    return [name for name in probe.readings() if name != "noise"]
