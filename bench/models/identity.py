"""What a model is, beyond its weights: the answers it gives, and the plug-in that trained it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.core import forward
from bench.errors import BadInput
from bench.plugins import Defense, annotations_of, code, file_digests, get_defense, is_ours

ALIKE = 1e-3
"""By how much of their mean the leads on the first samples may differ between processors and versions of torch."""


class Answers(NamedTuple):
    """What a network answers to the first samples; catches whatever code reads that weights and sources do not show."""

    digest: str = ""
    """sha256 of the float32 logits; empty where there is nothing to be told apart by them."""
    leads: tuple[float, ...] = ()
    """How far the first answer leads the second, rounded to six digits."""


@torch.no_grad()
def answers_of(net: nn.Module, x: Tensor, rows: int) -> Answers:
    """Of a network that repeats itself, to images x [N, C, H, W], so many at once."""
    logits = torch.cat([forward(net, part) for part in x.split(rows)]).float().cpu().contiguous()
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    leads = tuple(float(f"{lead:.6g}") for lead in (top[:, 0] - top[:, -1]).tolist())
    return Answers(hashlib.sha256(logits.numpy().tobytes()).hexdigest(), leads)


def same_answers(one: Answers, other: Answers) -> bool:
    """Whether two networks answer alike, up to rounding."""
    if not one.digest or not other.digest or one.digest == other.digest:
        return True
    if len(one.leads) != len(other.leads) or not one.leads:
        return False
    first, second = (torch.tensor(part.leads, dtype=torch.float64) for part in (one, other))
    return bool((first - second).abs().max() <= ALIKE * first.abs().mean().clamp_min(1e-12))


def require_the_trainer(trained: Mapping[str, Any]) -> None:
    """BadInput where the defense at hand is not the one that trained a run, so that its settings would mean something else."""
    name, then, cls = trained["defense"], trained["settings"], get_defense(trained["defense"])
    was, now = trained.get("code", ""), code("defense", name)
    known = cls.hyper_parameters()
    gone, new = sorted(set(trained.get("fields", ())) - known), sorted(known - set(then))
    changes = [f"its field {gone[0]!r} is gone"] if gone else []
    # A field that a later release of ours adds does, by default, what there was before.
    changes += [f"its field {new[0]!r} is new"] if new and not is_ours(cls.__module__) else []
    changes += [f"its code was {was[:12]} and is {now[:12]}"] if was and was != now else []
    if changes:
        raise BadInput(
            f"defense {name!r} has changed since this run was trained ({'; '.join(changes)}), and would be evaluated as "
            "something it was not: load the plug-in as it was, or train anew"
        )


def files_of(defenses: Sequence[Defense]) -> dict[str, str]:
    """Digests of the files that defenses read at test time, by whose they are: "defense hat helper"."""
    found: dict[str, str] = {}
    for defense in defenses:
        own = {key: getattr(defense, key) for key in sorted(defense.hyper_parameters())}
        digests = file_digests(f"defense {defense.name!r}", annotations_of(type(defense)), own)
        found |= {f"defense {defense.name} {key}": digest for key, digest in digests.items()}
    return found
