"""What an adaptive attacker gets who looks inside: attacks on readings of the network (bench/core/adapted.py)."""

from __future__ import annotations

import torch

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
    found, left = torch.zeros_like(probe.broken), ~(probe.broken | probe.white)
    names = [name for name in probe.readings() if name != "noise"]
    for name in names:
        if name.startswith("inner"):
            found |= probe.attack("inner", among=left & ~found, reading=name)
            targets = min(3, forward(probe.net, probe.x[:1]).shape[1] - 1)
            found |= probe.attack("inner", among=left & ~found, reading=name, steps=40, targets=targets)
        else:
            found |= probe.attack("bpda", among=left & ~found, past=name)
    told = ", ".join(names) or "nothing, as nothing inside answers otherwise,"
    return Measured(float(found.double().mean()), {"readings": told})
