"""Two results on the same images: which method wins, what tells them apart, a matrix of all, and what another plan left."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from bench.compare import Comparison, TwoPlans, compare_outcomes, two_plans
from bench.errors import GauntletError
from bench.pictures import Bar, Bars, Heat
from bench.report import Falls, Method, Part, Row, Section, method_name
from bench.results import Outcomes
from bench.site.asked import Examples, fooled

MOST = 10
"""Methods of a plan whose pairs have pages of their own."""


class Duel(NamedTuple):
    """Two methods and what the test says; found is B against A."""

    a: Method
    b: Method
    found: Comparison

    @property
    def file(self) -> str:
        """Its page."""
        return "--".join(sorted((self.a.key, self.b.key))) + ".html"


def duels(part: Part) -> tuple[list[Duel], list[str]]:
    """Every pair of methods with records on the same samples, and why others have none."""
    found, failed = [], []
    for a, b in combinations(part.methods[:MOST], 2):
        sides = [_outcomes(method) for method in (a, b)]
        if not all(sides):
            failed.append(f"{method_name(a)} and {method_name(b)}: records are missing")
            continue
        try:
            found.append(Duel(a, b, compare_outcomes(sides[0], sides[1])))
        except GauntletError as error:
            failed.append(f"{method_name(a)} and {method_name(b)}: {error}")
    return found, failed


def other_plans(section: Section, row: Row) -> list[tuple[str, TwoPlans]]:
    """What other plans, each the second of its two, left of the network of a row; with the keys of their pages."""
    digest, rows = row.entry.card.model.digest, [one for part in section.parts for one in part.rows]
    alike = {one.entry.path: one for one in rows if one.entry.card.model.digest == digest and one.entry.outcomes}
    pairs = two_plans([one.entry.outcomes for one in alike.values() if one.entry.outcomes])
    found = [pair.turned() if pair.b.path == row.entry.path else pair for pair in pairs]
    return [(alike[pair.b.path].key, pair) for pair in found if pair.a.path == row.entry.path]


def _outcomes(method: Method) -> list[Outcomes]:
    known = [row.entry.outcomes for row in method.rows]
    return [] if None in known else [one for one in known if one is not None]


def beats(part: Part, found: list[Duel]) -> Heat:
    """Points that the method on the left has over the one above; shaded where it is settled, and wins."""
    methods = part.methods[:MOST]
    place = {method.key: number for number, method in enumerate(methods)}
    size = len(methods)
    shades: list[list[float | None]] = [[None] * size for _ in methods]
    texts, links = [[""] * size for _ in methods], {}
    for duel in found:
        for winner, loser, sign, letter in ((duel.a, duel.b, -1, "A"), (duel.b, duel.a, 1, "B")):
            down, across = place[winner.key], place[loser.key]
            gap = sign * 100 * duel.found.difference
            shades[down][across] = min(max(gap, 0.0) / 40 + 0.3, 0.75) if duel.found.winner == letter else 0.0
            texts[down][across], links[down, across] = f"{gap:+z.1f}", duel.file
    names = tuple(method_name(method) for method in methods)
    return Heat(
        "Points of robust accuracy that the method on the left has over the one above.", names, names,
        tuple(map(tuple, shades)), tuple(map(tuple, texts)), "over", "method", links,
    )  # fmt: skip


def transfers(part: Part, asked: Mapping[str, Examples], falls: Mapping[str, Falls]) -> Heat | None:
    """Of each method's adversarial examples, the share that fools each other one; where the networks are here."""
    there = [method for method in part.methods[:MOST] if method.key in asked and asked[method.key].net is not None]
    same = {(method.rows[0].entry.card.data.digest, method.rows[0].entry.card.n) for method in there}
    if len(there) < 2 or len(same) > 1:
        return None
    nets = [net for method in there if (net := asked[method.key].net) is not None]
    shades = []
    for source in there:
        known = falls[source.key].label_of
        labels = torch.tensor([known[number] for number in asked[source.key].ids.tolist()])
        shades.append(tuple(fooled(asked[source.key], nets, labels)))
    names = tuple(method_name(method) for method in there)
    texts = tuple(tuple(f"{100 * share:.0f}" for share in line) for line in shades)
    return Heat(
        "Of each method's adversarial examples, the share that each other one gets wrong.",
        names,
        names,
        tuple(shades),
        texts,
        "fool, %",
        "examples of",
    )


def flips(duel: Duel) -> tuple[Bars, dict[str, list[int]], str] | None:
    """What the first seeds of both do with the same images, and the samples that only one of them keeps."""
    a, b = (method.rows[0].entry.outcomes for method in (duel.a, duel.b))
    if a is None or b is None or not np.array_equal(a.ids, b.ids):
        return None
    one, other = a.planned, b.planned
    kinds = {"both": one & other, "A": one & ~other, "B": other & ~one, "neither": ~one & ~other}
    n, at, bars = len(one), 0.0, []
    names = {"both": "both stand", "A": "only A stands", "B": "only B stands", "neither": "neither stands"}
    for kind, mask in kinds.items():
        share = 100 * float(mask.mean())
        bars.append(Bar(names[kind], at, at + share, f"{int(mask.sum()):,}", 1 if kind == "neither" else 0))
        at += share
    ids = {kind: [int(number) for number in a.ids[kinds[kind]]] for kind in ("A", "B")}
    seeds = "" if len(duel.a.rows) == len(duel.b.rows) == 1 else " with their first seeds"
    return (
        Bars(f"Which of {n} images stand under A and B.", "% of the samples", tuple(bars)),
        ids,
        f"{n:,} images under both{seeds}.",
    )
