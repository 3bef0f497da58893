"""Whether a plan that has the name of a built-in one is that plan."""

from __future__ import annotations

from typing import Any

from bench.plans import PLANS, Plan, reads_like
from bench.results import Card


def plan_note(card: Card) -> str:
    """A sentence where a plan has the name of a built-in one and other attacks; empty where it has not.

    Built-in plans are compared as they are written: what they leave at its default cannot be known without the attacks.
    """
    known = PLANS.get(reads_like(card.plan.name))
    if known is None or (known.name == card.plan.name and _alike(known, card.plan, card.threat.norm)):
        return ""
    told = known.name if known.name == card.plan.name else f"{card.plan.name!r}, which reads like {known.name},"
    return f"its plan is called {told} and is not what this release runs under that name; compare its attacks"


def _alike(known: Plan, found: Plan, norm: str) -> bool:
    """Whether a plan is a built-in one with its defaults written out, perhaps followed by what a defense asked for."""
    left = list(found.attacks)
    for spec in known.attacks:
        if left and _covers(spec.model_dump(), left[0].model_dump(), norm):
            left.pop(0)
        elif norm == "linf" or not getattr(spec, "optional", False):
            return False
    return True


def _covers(known: Any, found: Any, norm: str) -> bool:
    """Whether everything said in one is said in the other; arms that do not exist in a norm may be missing."""
    if isinstance(known, dict):
        same = isinstance(found, dict) and known.keys() <= found.keys()
        return same and all(key == "name" or _covers(value, found[key], norm) for key, value in known.items())
    if isinstance(known, list | tuple) and isinstance(found, list | tuple):
        if norm == "linf":
            return len(known) == len(found) and all(_covers(*pair, norm) for pair in zip(known, found, strict=True))
        return bool(found) and all(any(_covers(one, other, norm) for one in known) for other in found)
    return bool(known == found)
