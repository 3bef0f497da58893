"""What a defense can prove about its network, beside what attacks found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core import Rng, ThreatModel
from bench.errors import BadInput
from bench.evaluation.engine import Evaluation
from bench.evaluation.restarts import RADII
from bench.models import Subject
from bench.plugins import Defense, out_of_reach
from bench.results import Certified, CurvePoint
from bench.statistics import wilson


class Proof(NamedTuple):
    """What could be proved of a network, and what is to be said of what could not."""

    certified: Certified | None
    notes: tuple[str, ...]
    """Why a defense that has certificates gives none here."""
    warnings: tuple[str, ...]
    """Why those that it gives say nothing."""


def prove(run: Evaluation, subject: Subject) -> Proof:
    """What the defense that was added last can prove, else what the one of the training can; nothing of an image in company."""
    notes: list[str] = []
    for defense in reversed([defense for defense in subject.defenses if defense.has_certificates()]):
        why = f"its certificates are not about {run.threat.norm}"
        if subject.batch_dependent:
            why = "the answer to an image depends on the others of its batch"
        else:
            try:
                if certified := certify(run, defense):
                    return Proof(certified, tuple(notes), tuple(filter(None, [out_of_reach(defense, run.threat)])))
            except Unproved as error:
                why = str(error)
        notes.append(f"{defense.name} certifies nothing here: {why}")
        run.report.say(notes[-1])
    return Proof(None, tuple(notes), ())


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


class Unproved(BadInput):
    """Nothing can be proved of this network."""


def proved(defense: Defense, net: nn.Module, x: Tensor, threat: ThreatModel, rng: Rng) -> tuple[Tensor, Tensor] | None:
    """What a defense certifies of some images; Unproved where it says that it cannot, BadInput for another form."""
    try:
        found: object = defense.certify(net, x, threat, rng)
    except BadInput as error:
        raise Unproved(str(error)) from None
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
