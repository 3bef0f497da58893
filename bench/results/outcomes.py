"""What happened to every sample of an evaluation, from its card and the records beside it, to be paired with another's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import BadInput
from bench.files import ASIDE, below, sha256
from bench.results.archive import read_archive, read_records
from bench.results.card import Card, FileInfo, read_card
from bench.results.replay import clean_rows

METRICS = ("robust", "clean")
Flags = NDArray[np.bool_]

_AGAIN = "evaluate the model again"


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Per sample of one evaluation, in the order of their ids: was the model right, and did it stay so."""

    card: Card
    path: Path
    """Of the card."""
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    clean: Flags
    """Right on the clean image."""
    planned: Flags
    """Right there and against every attack, restart, round and radius of the plan."""
    robust: Flags
    """The same, less what was handed in later: what the card says."""

    def of(self, metric: str) -> Flags:
        """What two evaluations are compared by. Additions do not count: they were made for one of the two only."""
        return self.clean if metric == "clean" else self.planned


def read_outcomes(path: Path) -> Outcomes:
    """The outcomes of a card.json; BadInput where its records are missing, damaged or another evaluation's."""
    return outcomes_of(read_card(path), path)


def outcomes_of(card: Card, path: Path) -> Outcomes:
    """The outcomes of a card that was read from this path."""
    rows = read_records(_whole(card.records, path), card.records.rows)
    first = clean_rows(rows).sort_values("id")
    ids = first["id"].to_numpy(dtype=np.int64)
    broken = rows["id"].to_numpy()[rows["broken"].to_numpy()]
    clean = ~first["broken"].to_numpy(dtype=bool)
    planned = ~np.isin(ids, broken)
    robust = planned & ~np.isin(ids, _handed_in(card, path))
    whole = len(ids) == card.n == len(np.unique(ids)) and np.isin(rows["id"], ids).all()
    said = zip((card.clean_accuracy, card.robust_accuracy), (clean, robust), strict=True)
    if not whole or not all(abs(share * card.n - flags.sum()) < 0.5 for share, flags in said):
        raise BadInput(f"the records beside {path} are not those of its card: their numbers differ; {_AGAIN}")
    return Outcomes(card, path, ids, first["label"].to_numpy(dtype=np.int64), clean, planned, robust)


def fell_to(outcomes: Outcomes, ids: NDArray[np.int64]) -> dict[str, int]:
    """How many of these samples fell first to each attack of a plan, or to the search of a portfolio; the most first."""
    rows = read_records(_whole(outcomes.card.records, outcomes.path), outcomes.card.records.rows)
    first = rows[rows["broken"] & rows["id"].isin(ids)].drop_duplicates("id")
    counts = Counter(map(_attempt, first["attack"].astype(str), first["run"].astype(str)))
    return dict(counts.most_common())


def _attempt(attack: str, run: str) -> str:
    """ "clean", or an attack, or "margin-20 of fast" where a portfolio says which of its searches it was."""
    search = run.partition(": ")[2] if run.startswith("round ") else ""
    return f"{search} of {attack}" if search else attack


def find_cards(place: str | Path) -> list[Path]:
    """The cards that a path stands for: a card, a folder of one evaluation, or all below a folder or a pattern with *."""
    path = Path(place)
    found: list[Path] = []
    if path.is_file():
        found = [path]
    elif (path / "card.json").is_file():
        found = [path / "card.json"]
    elif path.is_dir():
        found = below(path, "card.json")
    elif "*" in str(path):
        start = Path(path.anchor)
        matches = [
            match for match in start.glob(str(path.relative_to(start))) if not any(p.endswith(ASIDE) for p in match.parts)
        ]
        found = sorted({card for match in matches for card in (below(match, "card.json") if match.is_dir() else [match])})
    if not found:
        raise BadInput(f"no card at {place}; `gauntlet evaluate` and `gauntlet run` write card.json and say where")
    return found


def _handed_in(card: Card, path: Path) -> list[int]:
    """Ids of the samples whose examples were handed in later."""
    files = [added.archive for added in card.additions]
    return [int(number) for file in files for number in read_archive(_whole(file, path), None, file.rows)[0]]


def _whole(file: FileInfo, card: Path) -> Path:
    path = card.parent / file.file
    if not path.is_file():
        raise BadInput(f"{path} belongs to {card} and is not there; fetch it, or {_AGAIN}")
    if sha256(path) != file.sha256:
        raise BadInput(f"{path} is not the file that {card} was written with (its sha256 differs); fetch it, or {_AGAIN}")
    return path
