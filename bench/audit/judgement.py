"""What attempts that were made again say of a row.

On the same kind of processor an honest row repeats itself to the last bit. Elsewhere rounding leads a search another way: over
four rows searched on another processor, one in bfloat16, each attempt cost the same passes, none of 200 survivors fell, and the
closest candidates lay as close (docs/verify.md). So what is asked elsewhere is one-sided: do samples fall here that are said to
have stood, and did the attacks of the claim come less close than the same attacks do here?
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

from bench.verify import FALLS

ALPHA = 2e-4
"""The chance at most that a test fails an honest row."""
FLIPS = 0.02
"""Share of survivors that rounding alone may let fall."""
CLOSER = 0.05
"""A difference of margins that rounding does not explain, in standard deviations of the margins in the records."""
SAME_COST = 0.9
"""Share of the attempts, at least, that cost what the records say; the end of a search may depend on rounding."""


class Audit(NamedTuple):
    """What came of one."""

    problems: list[str]
    seen: str
    exact: bool
    """Whether this machine repeats the row to the last bit."""


def judge(rows: pd.DataFrame) -> Audit:
    """rows: as `rerun` gives them. What the records claim is that a sample stood an attack, whatever became of it later."""
    if not len(rows):
        return Audit([], "no attempt was made on these samples", False)
    each = _of_each(rows)
    stood = each[~each["fell"]]
    exact = len(stood) > 0 and bool(stood["same"].all())
    problems = [
        *_falls(rows, each, exact),
        *_passes(rows[rows["id"].isin(stood.index.tolist())]),
        *_closeness(stood, float(np.nanstd(rows["said_margin"].to_numpy(dtype=float)))),
    ]
    repeated = f"{int(stood['same'].sum())} of {len(each)} samples repeat theirs to the last bit"
    how = (
        repeated
        if exact
        else f"up to rounding: the row was made on another processor, with other threads or by another release ({repeated})"
    )
    fell = int(each["fell"].sum())
    agree = f"agree, {how}" if not fell else f"were made, {how}; {fell} of the samples {FALLS}"
    return Audit(problems, f"{len(rows)} attempts on {len(each)} samples {agree}", exact)


def _of_each(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every sample: fell here to an attack that the records say it stood; same in every attempt; the best margins."""
    same = np.ones(len(rows), dtype=bool)
    for key in ("broken", "margin", "forwards", "backwards"):
        said, found = (rows[name].to_numpy(dtype=float) for name in (f"said_{key}", key))
        same &= (said == found) | (np.isnan(said) & np.isnan(found))
    return rows.assign(same=same, fell=_fell(rows)).groupby("id", sort=True).agg(
        fell=("fell", "any"), same=("same", "all"), best=("margin", "max"), said_best=("said_margin", "max")
    )  # fmt: skip


def _fell(rows: pd.DataFrame) -> pd.Series:
    """Which attempts broke a sample that no attempt of their attack broke by the records, bool."""
    return rows["broken"].astype(bool) & ~rows.groupby(["id", "attack"])["said_broken"].transform("any").astype(bool)


def _falls(rows: pd.DataFrame, each: pd.DataFrame, exact: bool) -> Iterator[str]:
    count, size = int(each["fell"].sum()), len(each)
    if not count or (not exact and binom.sf(count - 1, size, FLIPS) >= ALPHA):
        return
    first = rows[_fell(rows)].iloc[0]
    others = "all others repeat theirs to the last bit" if exact else f"rounding lets {FLIPS:.0%} fall at most"
    yield (
        f"{count} of {size} samples fall here that the records say stood, and {others}; sample {first['id']} to "
        f"{first['attack']}, {first['run']}"
    )


def _passes(rows: pd.DataFrame) -> Iterator[str]:
    """Whether attempts cost what the records say."""
    other = (rows["forwards"] != rows["said_forwards"]) | (rows["backwards"] != rows["said_backwards"])
    if len(rows) and float(other.mean()) > 1 - SAME_COST:
        first = rows[other].iloc[0]
        yield (
            f"{int(other.sum())} of {len(rows)} attempts cost another number of passes than the records say: "
            f"{first['attack']}, {first['run']}: {first['forwards']} forwards and {first['backwards']} backwards, recorded are "
            f"{first['said_forwards']} and {first['said_backwards']}"
        )


def _closeness(stood: pd.DataFrame, spread: float) -> Iterator[str]:
    """Whether the attacks of the claim came less close than they do here, sample by sample."""
    gap = (stood["best"] - stood["said_best"]).to_numpy(dtype=float)
    closer, further = int((gap > CLOSER * spread).sum()), int((gap < -CLOSER * spread).sum())
    if binom.sf(closer - 1, closer + further, 0.5) < ALPHA:
        yield (
            f"on {closer} of {len(stood)} samples the same attacks come closer here than the records say, and on {further} "
            "less close: the records are of weaker attacks"
        )
