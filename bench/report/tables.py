"""The leaderboard as a table: a pure function of the cards below a folder, so that the same cards give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bench.compare import differences, methods, ranks, sections
from bench.report.entries import BACKINGS, Entry, read_entries
from bench.results import GAP, Card
from bench.statistics import mean_over_seeds

NOT_COMPARABLE, CONSTANT = "not comparable", "constant"
DOUBT = {"ok": 0, "": 1, "suspicious": 2, "broken": 3, NOT_COMPARABLE: 4, CONSTANT: 5}
"""Verdicts; a row that nobody looked at stands below the sound ones, and one that classifies above one that does not."""
DOUBTED = tuple(verdict for verdict, much in DOUBT.items() if much > DOUBT[""])
"""Of a row whose number is in doubt."""


def leaderboard(entries: Sequence[Entry] | Path | str, *, by: Literal["method", "seed"] = "method") -> pd.DataFrame:
    """The rows of these entries, or of everything below a folder; accuracies are in percent.

    by "method": trainings that differ in nothing but the seed are one row, with mean and standard deviation over their seeds;
    by "seed": one row each, with the rank of its method. Most robust first within a data set, threat model and plan; what
    cannot be trusted never stands above what can.
    """
    if isinstance(entries, Path | str):
        entries, _ = read_entries([Path(entries)])
    return placed(entries, by).drop(columns=PLACES) if entries else pd.DataFrame()


PLACES = "_places"
"""The column that says which entries a line is of."""


def placed(entries: Sequence[Entry], by: Literal["method", "seed"]) -> pd.DataFrame:
    """The leaderboard with the places of its entries in each line."""
    groups = methods([entry.card for entry in entries])
    places = sections([entry.card for entry in entries])
    ranked = ranks([entry.card for entry in entries], [entry.outcomes for entry in entries], groups)
    apart = _apart(entries, groups, places)
    rows = []
    for group, rank in zip(groups, ranked, strict=True):
        for part in [group] if by == "method" else [[place] for place in group]:
            row = _row([entries[place] for place in part], places[group[0]], rank, apart[group[0]], by)
            rows.append({**row, PLACES: part})
    table = pd.DataFrame(rows)
    attacks = {name for name in table.columns if name.startswith(ATTACK)}
    first = list(table.columns).index("clean") + 1
    others = [name for name in table.columns if name not in attacks]
    named = dict.fromkeys(column for row in rows for column in row if column.startswith(ATTACK))
    table = table[[*others[:first], *named, *others[first:]]]
    order = ["dataset", "threat", "plan", "_doubt", "robust", "clean", "defense", "seed" if by == "seed" else "seeds", "_key"]
    rising = [True, True, True, True, False, False, True, True, True]
    table = table.sort_values(order, ascending=rising, kind="stable", ignore_index=True).drop(columns=["_key", "_doubt"])
    return table.rename(columns=_plain(list(named), others))


ATTACK = "attack: "
"""How columns of attacks begin until they are shown, so that none can take the place of one of ours."""


def _plain(columns: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """What the columns of attacks are called where they stand beside ours, each once."""
    names: dict[str, str] = {}
    for column in columns:
        name = column.removeprefix(ATTACK)
        while name in ours or name in names.values():
            name += " (attack)"
        names[column] = name
    return names


def _apart(entries: Sequence[Entry], groups: Sequence[Sequence[int]], places: Sequence[tuple[str, str, str]]) -> dict[int, str]:
    """In what the methods of one name and network in a section differ, by the first card of each."""
    alike: dict[object, list[int]] = {}
    for group in groups:
        card = entries[group[0]].card
        alike.setdefault((places[group[0]], card.name, card.model.arch), []).append(group[0])
    return {
        place: told
        for firsts in alike.values()
        for place, told in zip(firsts, differences([entries[place].card for place in firsts]), strict=True)
    }


def _row(
    entries: Sequence[Entry], place: tuple[str, str, str], rank: str, apart: str, by: Literal["method", "seed"]
) -> dict[str, object]:
    cards = [entry.card for entry in entries]
    first = cards[0]
    seeds = [str(card.model.training.get("seed", "")) for card in cards]
    costs = [card.model.training.get("backwards_per_sample") for card in cards]
    passes = [float(cost) for cost in costs if cost is not None]
    attacks = dict.fromkeys(attack.name for card in cards for attack in card.attacks)
    eight = [card.eight_bit_accuracy for card in cards]
    return {
        **dict(zip(("dataset", "threat", "plan"), place, strict=True)),
        "rank": rank,
        "defense": first.name,
        "model": first.model.arch,
        "differs in": apart,
        **({"seed": seeds[0]} if by == "seed" else {"seeds": len(cards)}),
        "n": first.n,
        "clean": _mean([card.clean_accuracy for card in cards]),
        **{ATTACK + name: _mean([a.robust_accuracy for c in cards for a in c.attacks if a.name == name]) for name in attacks},
        "robust": _mean([card.robust_accuracy for card in cards]),
        **({} if by == "seed" else {"sd": _deviation([card.robust_accuracy for card in cards])}),
        "95% interval": _interval(entries),
        "8-bit": _mean([share for share in eight if share is not None]) if None not in eight else "",
        "certified": _mean([card.certified.accuracy for card in cards if card.certified]) if first.certified else "",
        "collapse": _collapses(cards),
        "verdict": max((_verdict(card) for card in cards), key=DOUBT.__getitem__),
        "train passes": "" if len(passes) < len(cards) else f"{np.mean(passes):.0f}",
        "notes": sum(len(card.notes) for card in cards) or "",
        "proof": max((entry.backing for entry in entries), key=BACKINGS.index),
        "_key": first.model.digest,
        "_doubt": max(_doubt(card) for card in cards),
    }


def _mean(shares: Sequence[float]) -> float:
    return 100 * float(np.mean(shares))


def _deviation(shares: Sequence[float]) -> float | str:
    return 100 * float(np.std(shares, ddof=1)) if len(shares) > 1 else ""


def _interval(entries: Sequence[Entry]) -> str:
    """Wilson's of one card; of several seeds of a training that of their mean, for other seeds and other samples."""
    known = [entry.outcomes.robust for entry in entries if entry.outcomes]
    low, high = entries[0].card.interval
    if len(entries) > 1:
        if len(known) < len(entries) or len({len(flags) for flags in known}) > 1:
            return ""
        low, high = mean_over_seeds(known)
    return f"{100 * low:.1f}-{100 * high:.1f}"


def _verdict(card: Card) -> str:
    if card.diagnosis:
        return card.diagnosis.verdict
    return NOT_COMPARABLE if card.batch_dependent else CONSTANT if card.constant else card.verdict or ""


def _doubt(card: Card) -> int:
    """Rows with a higher one stand below; what makes a row incomparable or constant weighs more than its diagnosis."""
    return DOUBT[CONSTANT if card.constant else NOT_COMPARABLE if card.batch_dependent else card.verdict or ""]


def _collapses(cards: Sequence[Card]) -> str | int:
    """The epoch of a collapse, or how many seeds collapsed; "masked" where FGSM never stopped overestimating."""
    found = [_collapse(card) for card in cards]
    if len(found) == 1:
        return found[0]
    kinds = [epoch for epoch in found if epoch not in ("no", "")]
    return f"{len(kinds)} of {len(found)}" if kinds else found[0]


def _collapse(card: Card) -> str | int:
    training = card.model.training
    if not training:
        return ""
    return training.get("collapse_epoch") or ("masked" if training.get("single_step_gap", 0) > GAP else "no")
