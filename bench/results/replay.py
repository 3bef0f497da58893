"""Whether the numbers of a card follow from its records, attack by attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.plans import AttackSpec
from bench.results.card import Card
from bench.results.schema import AttackResult

Mask = NDArray[np.bool_]


def suffix(card: Card, ball: int) -> str:
    """What tells the attacks of a sweep's smaller balls from those of the last."""
    return f" at {card.curve[ball].eps}" if ball + 1 < len(card.curve) else ""


def clean_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the clean pass, in the order of the samples."""
    return rows[(rows["attack"] == "clean").to_numpy() & (rows["run"] == "").to_numpy()]


def check_samples(card: Card, rows: pd.DataFrame) -> Iterator[str]:
    """Where the rows contradict the card or themselves about which samples there are."""
    first, names = clean_rows(rows), [attack.name for attack in card.attacks]
    if len(rows) != card.records.rows:
        yield f"there are {len(rows)} rows, the card says {card.records.rows}"
    if strange := sorted({*rows["attack"].unique()} - {*names, "clean"}):
        yield f"there are rows of {strange[0][:80]!r}, which is no attack of the card"
    ids, order = rows["id"].to_numpy(), np.argsort(first["id"].to_numpy(), kind="stable")
    known = first["id"].to_numpy()[order]
    if len(first) != card.n or (known[1:] == known[:-1]).any():
        yield f"there are {len(first)} clean samples with {len(np.unique(known))} ids, and n is {card.n}"
        return
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    if (lost := known[place] != ids).any():
        yield f"sample {ids[lost][0]} is not among those of the clean pass"
    elif (other := first["label"].to_numpy()[order][place] != rows["label"].to_numpy()).any():
        yield f"sample {ids[other][0]} has two labels"
    if len(set(names)) == len(names) and (twice := rows.duplicated(["attack", "run", "id"])).any():
        row = rows[twice].iloc[0]
        yield f"sample {row['id']} counts twice in {row['attack']}, {row['run']}"


def check_outcomes(card: Card, rows: pd.DataFrame, ids: NDArray[Any], clean: Mask) -> tuple[list[str], Mask]:
    """Where the card's numbers do not follow from the records, and which samples an attack broke, bool [n]."""
    n, added = len(ids), sum(addition.broken for addition in card.additions)
    place = pd.Series(range(n), index=ids).reindex(rows["id"]).fillna(-1).to_numpy(dtype=np.int64)
    tried = (rows["run"] != "").to_numpy() & (place >= 0)
    broken = ~clean
    broken[place[tried & rows["broken"].to_numpy()]] = True
    left, without = int((~broken).sum()) - added, f", less {added} that were added" if added else ""
    problems = [
        *_differs("clean accuracy", card.clean_accuracy, int(clean.sum()), n),
        *_differs("robust accuracy", card.robust_accuracy, left, n, without),
    ]
    per_attack = {name: tried & (rows["attack"] == name).to_numpy() for name in {attack.name for attack in card.attacks}}
    # Where two attacks share a name, nobody can tell their rows apart.
    if len(per_attack) == len(card.attacks):
        problems += _in_order(card, clean, {name: (rows[mine], place[mine]) for name, mine in per_attack.items()})
    return problems, broken & clean


def _differs(what: str, said: float, count: int, n: int, without: str = "") -> Iterator[str]:
    if count != round(said * n):
        yield f"{what}: the card says {said:.2%}, the records {count / n:.2%}{without}"


def _in_order(card: Card, clean: Mask, found: dict[str, tuple[pd.DataFrame, NDArray[Any]]]) -> Iterator[str]:
    """The attacks one after the other, in ball after ball, as the evaluation ran them."""
    n, each = len(clean), len(card.plan.attacks)
    broken, settled = ~clean, np.zeros(len(clean), dtype=bool)
    for number, result in enumerate(card.attacks):
        spec = card.plan.attacks[number % each]
        if number and number % each == 0:
            settled = broken & clean
        everyone = isinstance(spec, AttackSpec) and spec.on == "all"
        size = min(spec.samples or n, n) if isinstance(spec, AttackSpec) else n
        targets = ~(~clean | settled if everyone else broken) & (np.arange(n) < size)
        rows, place = found[result.name]
        ran, fell = np.zeros_like(clean), np.zeros_like(clean)
        ran[place], fell[place[rows["broken"].to_numpy()]] = True, True
        for problem in _attack(result, rows, targets, ran, fell, size):
            yield f"{result.name}: {problem}"
        broken = broken | fell
        if card.curve and (number + 1) % each == 0 and number // each < len(card.curve):
            point = card.curve[number // each]
            yield from _differs(f"robust accuracy at {point.eps}", point.robust_accuracy, int((~broken).sum()), n)


def _attack(result: AttackResult, rows: pd.DataFrame, targets: Mask, ran: Mask, fell: Mask, size: int) -> Iterator[str]:
    """Where what a card says of one attack does not follow from its rows."""
    count, left = int(targets.sum()), int((targets & ~fell).sum())
    refused = any(note.startswith("left out") for note in result.notes)
    if (ran & ~targets).any():
        yield "was run on samples that had fallen before"
    if not refused and (targets & ~ran).any():
        yield f"was not run on {int((targets & ~ran).sum())} of its {count} samples"
    wanted = {"n": size, "attempted": 0 if refused and not len(rows) else count, "broken": count - left}
    for key, value in wanted.items():
        if (said := getattr(result, key)) != value:
            yield f"{key} is {said} on the card and {value} in the records"
    yield from _differs("robust accuracy", result.robust_accuracy, left, size)
    for key in ("forwards", "backwards"):
        said, spent = getattr(result, key) * result.attempted, int(rows[key].to_numpy().sum())
        if not np.isclose(said, spent, rtol=1e-6, atol=0.5):
            yield f"{key} are {said:.0f} on the card and {spent} in the records"
