"""Whether two evaluations can be compared sample by sample, and what a reader of the comparison should know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench.data import CLASSES
from bench.errors import BadInput
from bench.results import Card, Outcomes

_SAMPLES: dict[str, Callable[[Card], object]] = {
    # A file is its content, whatever it is called: the digest below decides.
    "data sets": lambda card: card.dataset if card.dataset in CLASSES else "a file",
    "splits": lambda card: card.data.split,
    "threat models": lambda card: f"{card.threat.norm} {card.threat.eps}",
    "numbers of samples": lambda card: card.n,
    "samples (digests of the images)": lambda card: card.data.digest[:12],
}
_TOLD: dict[str, Callable[[Card], object]] = {
    "seed of the evaluation": lambda card: card.seed,
    "answers averaged for attacks (eot)": lambda card: card.eot,
    "radii of the sweep": lambda card: ", ".join(point.eps for point in card.curve) or "none",
    "version of gauntlet-bench": lambda card: card.versions.get("gauntlet-bench", "unknown"),
}
_CONSTANT = "the network answers one class to almost every image, and what is left standing is the share of that class"
_TIED = "the answer to an image depends on the others in its batch, and so does the number"


def require_same(first: Outcomes, second: Outcomes, names: tuple[str, str], *, adaptive: bool = False) -> list[str]:
    """BadInput that names what differs, unless the two can be compared sample by sample; else what a reader should know.

    adaptive: allow one plan to go on with further attacks, as it does where a defense declares some for its fair attacker.
    """
    notes = require_same_work(first.card, second.card, names, adaptive=adaptive)
    if not (np.array_equal(first.ids, second.ids) and np.array_equal(first.labels, second.labels)):
        told = "their records hold other ids or labels; evaluate both again"
        raise BadInput(f"{names[0]} and {names[1]} cannot be compared: {told}")
    return notes


def without_additions(side: Sequence[Outcomes], name: str) -> list[str]:
    """What a reader should know where examples that were handed in later lowered one of these; plans are compared without."""
    lowered = sum(int((outcomes.planned & ~outcomes.robust).sum()) for outcomes in side)
    seeds = f", its {len(side)} seeds together" if len(side) > 1 else ""
    samples = "sample" if lowered == 1 else "samples"
    told = f"{name} lost {lowered} more {samples} to examples handed in later{seeds}; they do not count here"
    return [told] if lowered else []


def require_same_work(first: Card, second: Card, names: tuple[str, str], *, adaptive: bool = False) -> list[str]:
    """The same by the cards alone: the same samples, attacked in the same way."""
    for what, value in _SAMPLES.items():
        _require(what, value(first), value(second), names)
    further = _further(first, second, names) if adaptive else []
    if not further:
        _require("plans", _plan(first), _plan(second), names)
    for what in _tools(first, second, further=bool(further)):
        raise BadInput(
            f"{names[0]} and {names[1]} cannot be compared: other {what}, under one name; evaluate both with the same"
        )
    same = first.identity == second.identity
    if first.eot != second.eot and (same or min(first.eot, second.eot) > 1):
        _require("answers averaged for attacks (--eot)", first.eot, second.eot, names)
    _require("attacks left out", _left_out(first), _left_out(second), names)
    values = {what: (value(first), value(second)) for what, value in _TOLD.items()}
    return [
        *further,
        *(f"{what}: {left} for {names[0]}, {right} for {names[1]}" for what, (left, right) in values.items() if left != right),
        *(f"{name}: {_CONSTANT}" for card, name in zip((first, second), names, strict=True) if card.constant),
        *(doubted(card, name) for card, name in zip((first, second), names, strict=True) if card.doubt),
        *(f"{name}: {_TIED}" for card, name in zip((first, second), names, strict=True) if card.batch_dependent),
        *(f"{name}: warning: {told}" for card, name in zip((first, second), names, strict=True) for told in card.warnings),
    ]


def doubted(card: Card, name: str) -> str:
    """That a number may be too high, where that is known."""
    return f"{name}: the verdict on its number is {card.verdict}, so it may be too high; `gauntlet diagnose` says why"


def require_attacked(card: Card, name: str) -> None:
    """BadInput where no attack was run although there was something to attack."""
    if card.clean_accuracy > 0 and not any(attack.attempted for attack in card.attacks):
        raise BadInput(f"{name} measured nothing: no attack of plan {card.plan.name} was run; the notes of its card say why")


def _require(what: str, left: object, right: object, names: tuple[str, str]) -> None:
    if left != right:
        raise BadInput(
            f"{names[0]} and {names[1]} cannot be compared: other {what}: {left} against {right}; "
            "evaluate both with the same options"
        )


def _plan(card: Card) -> str:
    return f"{card.plan.name} ({card.plan.digest[:8]})"


def _further(first: Card, second: Card, names: tuple[str, str]) -> list[str]:
    """What is to be said where one plan is the other and more."""
    plans = first.plan, second.plan
    lengths = [len(plan.attacks) for plan in plans]
    begin = {plan.model_copy(update={"attacks": plan.attacks[: min(lengths)]}).digest for plan in plans}
    if lengths[0] == lengths[1] or plans[0].name != plans[1].name or len(begin) > 1:
        return []
    longer = int(lengths[1] > lengths[0])
    more = ", ".join(spec.label for spec in plans[longer].attacks[min(lengths) :])
    return [f"{names[longer]} was also attacked with {more}, beyond the plan that both share"]


def _tools(first: Card, second: Card, *, further: bool) -> list[str]:
    """What attacks came with that differs, "code of attack zigzag"; further: one of the two has attacks beyond the plan."""
    known = {**first.code, **second.code}
    keys = first.tools.keys() & second.tools.keys() if further else first.tools.keys() | second.tools.keys()
    differ = sorted(key for key in keys if first.tools.get(key) != second.tools.get(key))
    return [f"{'code' if key in known else 'file'} of {key}" for key in differ]


def _left_out(card: Card) -> str:
    """Optional attacks that could not use the model or a file."""
    missing = [a.name for a in card.attacks if not a.attempted and any(note.startswith("left out: ") for note in a.notes)]
    return ", ".join(sorted(missing)) or "none"
