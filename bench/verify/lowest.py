"""The lowest numbers that were proved for the models of a board, in a file that is committed: a row can only go down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from bench.core import Name
from bench.errors import BadInput
from bench.files import read_json, regular, sha256, write_text
from bench.models import Answers, same_answers
from bench.results import Card, Count, Record, Sentence, outcomes_of

LOWEST = "lowest.json"
SCHEMA = 1
BYTES = 2**26
"""Of the file at most."""


class Proven(Record):
    """How many samples of a model stood at last, and who proved it."""

    data: str
    """sha256 of the images and labels of the samples."""
    threat: str
    """Norm and radius: "linf 8/255"."""
    n: Annotated[Count, Field(ge=1)]
    model: str
    """sha256 of its parameters and buffers; who trained it, and with what, is for the submitter to say and decides nothing."""
    test_time: str = ""
    wrapper: str = ""
    """The defense of ours that stands around the network since its training; one of somebody's tells no models apart."""
    answers: str = ""
    leads: tuple[float, ...] = ()
    """What tells apart networks that code builds with the same weights, as on a card."""
    standing: Count
    """Of the n samples, those that were right and that nothing broke."""
    ids: str
    """sha256 of the ids of the samples that stood, int64, little-endian, rising."""
    card: str
    """sha256 of the card.json that proved it."""
    by: Name
    on: Sentence = ""
    """When, as it was given."""
    audited: Count = 0
    """Samples of the card that were attacked again when it was accepted."""

    def is_about(self, card: Card) -> bool:
        """Whether it limits the number of this card, whatever its plan."""
        around = (card.model.test_time, card.wrapper)
        same = (card.data.digest, f"{card.threat.norm} {card.threat.eps}", card.n, card.model.digest, *around)
        alike = same_answers(Answers(self.answers, self.leads), Answers(card.model.answers, card.model.leads))
        return (self.data, self.threat, self.n, self.model, self.test_time, self.wrapper) == same and alike

    @property
    def told(self) -> str:
        """The number and who proved it."""
        on = f" on {self.on}" if self.on else ""
        return f"{self.standing / self.n:.2%}, proved by {self.by}{on}"


def proven(card: Card, path: Path, by: str, on: str = "") -> Proven:
    """What a card that holds proves."""
    outcomes = outcomes_of(card, path)
    ids = np.sort(outcomes.ids[outcomes.robust]).astype("<i8")
    return Proven(
        data=card.data.digest, threat=f"{card.threat.norm} {card.threat.eps}", n=card.n, model=card.model.digest,
        test_time=card.model.test_time, wrapper=card.wrapper, answers=card.model.answers, leads=card.model.leads,
        standing=len(ids), ids=hashlib.sha256(ids.tobytes()).hexdigest(), card=sha256(path), by=by, on=on,
    )  # fmt: skip


def read_lowest(board: Path) -> list[Proven]:
    """What a board remembers; BadInput where its memory is damaged, since without it rows could be raised."""
    path = board / LOWEST
    if not path.exists() and not path.is_symlink():
        return []
    regular(path, BYTES)
    try:
        content = read_json(path, BYTES)
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA:
            raise ValueError(f"its schema version is not {SCHEMA}")
        return [Proven.model_validate(entry) for entry in content["lowest"]]
    except ValidationError as error:
        told = error.errors()[0]["msg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = str(error)
    raise BadInput(f"{path} cannot be read ({told[:200]}); restore it from version control, it keeps rows from being raised")


def lowest_of(card: Card, known: Sequence[Proven]) -> Proven | None:
    """The lowest number that was proved for the model of a card; None where there is none."""
    about = [entry for entry in known if entry.is_about(card)]
    return min(about, key=lambda entry: entry.standing, default=None)


def remember(board: Path, found: Proven, card: Card) -> None:
    """Record a number in place of higher ones; the same numbers give the same bytes.

    The same number of a card that changed since (a diagnosis, a measure) takes its place where as many of its samples were
    attacked again; who proved it first, and when, stays.
    """
    known = read_lowest(board)
    lowest = lowest_of(card, known)
    if lowest and (found.standing, -found.audited) > (lowest.standing, -lowest.audited):
        return
    if lowest and (found.standing, found.ids, found.audited) == (lowest.standing, lowest.ids, lowest.audited):
        found = found.model_copy(update={"by": lowest.by, "on": lowest.on})
    entries = [entry for entry in known if not entry.is_about(card)] + [found]
    lines = sorted(json.dumps(entry.model_dump(mode="json", exclude_defaults=True)) for entry in entries)
    body = ",\n  ".join(lines)
    write_text(board / LOWEST, f'{{"schema_version": {SCHEMA}, "lowest": [\n  {body}\n]}}\n')
