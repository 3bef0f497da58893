"""What a defense can prove about its network, beside what attacks found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel
from bench.errors import BadInput
from bench.evaluation.engine import Evaluation
from bench.evaluation.restarts import RADII
from bench.plugins import Defense
from bench.results import Certified, CurvePoint
from bench.statistics import wilson


def certify(run: Evaluation, defense: Defense) -> Certified | None:
    """The certified accuracy in the ball of the evaluation and in others, or None for a defense that proves nothing.

    A sample counts where the certain answer is the right one. Of those, the ones that an attack has broken all the same are
    counted too: there are none, unless the proof is wrong or, for a proof by sampling, unlucky. A sampled proof is about the
    vote of endlessly many draws, which a network that answers with a few of them may differ from.
    """
    size = min(type(defense).certifies or len(run.data), len(run.data))
    parts = []
    for index in torch.arange(size).split(run.batch_size):
        x, y = run.data.batch(index)
        rng = Rng(run.seed, run.data.ids[index.to(x.device)]).at("certify")
        found = proved(defense, run.net, x, run.threat, rng)
        if found is None:
            return None
        labels, radii = found
        parts.append(torch.where(labels == y, radii, -1.0).cpu())
        run.report.say(f"certified {int(index[-1]) + 1} of {size} samples")
    radii = torch.cat(parts)
    balls = run.threat.multiples((0, *RADII))
    curve = []
    for ball in balls:
        held = int((radii >= ball.radius).sum())
        curve.append(CurvePoint(eps=ball.eps_text, robust_accuracy=held / size, interval=wilson(held, size)))
    certain = radii >= run.threat.radius
    count = int(certain.sum())
    return Certified(
        defense=defense.name,
        n=size,
        accuracy=count / size,
        interval=wilson(count, size),
        curve=tuple(curve),
        contradicted=int((certain & run.broken[:size]).sum()),
    )


def proved(defense: Defense, net: nn.Module, x: Tensor, threat: ThreatModel, rng: Rng) -> tuple[Tensor, Tensor] | None:
    """What a defense certifies of some images; BadInput where that is not labels [N] and radii [N]."""
    found: object = defense.certify(net, x, threat, rng)
    if found is None:
        return None
    n, name = len(x), defense.name
    parts = found if isinstance(found, tuple) and len(found) == 2 else ()
    if not parts or not all(isinstance(part, Tensor) and part.shape == (n,) for part in parts):
        raise BadInput(f"defense {name!r}: certify has to return labels [{n}] and radii [{n}] for {n} images, or None")
    labels, radii = parts
    if radii.isnan().any():
        raise BadInput(f"defense {name!r}: certify returned a radius that is no number; -1 stands for no answer")
    return labels, radii
