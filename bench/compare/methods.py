"""Which rows are one method with several seeds, and which are evaluations of one model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench.compare.bands import sections
from bench.results import Card


def best_of_each_model(cards: Sequence[Card]) -> list[int]:
    """The places of one card per model, section and seed of the evaluation: the one with most samples, else the first."""
    kept: dict[object, int] = {}
    for place, (card, section) in enumerate(zip(cards, sections(cards), strict=True)):
        key = (section, card.identity, card.seed, card.eot)
        if key not in kept or cards[kept[key]].n < card.n:
            kept[key] = place
    return sorted(kept.values())


def methods(cards: Sequence[Card]) -> list[list[int]]:
    """The places of the cards of every method: alike in everything but the seed of their training."""
    found: dict[object, list[int]] = {}
    for place, (card, section) in enumerate(zip(cards, sections(cards), strict=True)):
        found.setdefault((section, *_method(card)), []).append(place)
    return list(found.values())


def _method(card: Card) -> tuple[object, ...]:
    """What cards of one method share; a model from elsewhere is a method of its own."""
    if not card.model.training:
        return (card.name, card.identity, card.n, card.seed, card.eot)
    facts = {**told(card), "code": [*card.code.items()], "files": [*card.files.items()], "sample": card.data.digest}
    return card.name, card.model.arch, json.dumps(facts, sort_keys=True)


def told(card: Card) -> dict[str, object]:
    """What may tell a row from another of the same name, in words of its own."""
    training, query = card.model.training, card.model.reference.partition("?")[2]
    facts: dict[str, object] = {**card.model.settings}
    if "threat" in training:
        facts["trained at"] = training["threat"]
    facts["weights"] = query.removeprefix("weights=") or "as selected"
    facts["added"] = card.model.test_time or "nothing"
    return {**facts, "n": card.n, "eot": card.eot, "seed of the evaluation": card.seed}


def differences(cards: Sequence[Card]) -> list[str]:
    """For every card of one name in one section: in what it differs from the others, "" where in nothing but the seed."""
    facts = [told(card) for card in cards]
    keys = dict.fromkeys(key for fact in facts for key in fact)
    apart = [key for key in keys if len({json.dumps(fact.get(key)) for fact in facts}) > 1]
    return [", ".join(f"{key} {_short(fact[key])}" for key in apart if key in fact) for fact in facts]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
