"""Which rows are one method with several seeds, and which are evaluations of one model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from bench.compare.bands import sections
from bench.results import Card


def best_of_each_model(cards: Sequence[Card]) -> list[int]:
    """The places of one card per model, section and seed of the evaluation: the one with most samples, of these the one that
    most is known against, else the first."""
    kept: dict[object, int] = {}
    for place, (card, section) in enumerate(zip(cards, sections(cards), strict=True)):
        key = (section, card.identity, card.seed, card.eot)
        if key not in kept or _weight(cards[kept[key]]) < _weight(card):
            kept[key] = place
    return sorted(kept.values())


def _weight(card: Card) -> tuple[int, int, float]:
    """Of two evaluations of one model, the heavier stands."""
    return card.n, card.doubt, -card.robust_accuracy


def methods(cards: Sequence[Card]) -> list[list[int]]:
    """The places of the cards of every method: alike in everything but the seed of their training.

    A seed that is there twice is no further seed: of its copies each is a row of its own, and the heaviest is counted with the
    others.
    """
    keys = [(section, *_method(card)) for card, section in zip(cards, sections(cards), strict=True)]
    copies: Counter[object] = Counter()
    turns = {}
    for place in sorted(range(len(cards)), key=lambda place: _weight(cards[place]), reverse=True):
        training = cards[place].model.training
        same = (keys[place], training.get("seed", f"at {place}"))
        turns[place] = copies[same]
        copies[same] += 1
    found: dict[object, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault((key, turns[place]), []).append(place)
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
