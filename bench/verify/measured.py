"""Whether the measures that a card states are those of documents about its weights, as far as these are here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BadInput
from bench.files import regular, sha256
from bench.results import DOCUMENT_BYTES, MEASURES, Card, Measured, in_short, is_of, measures_folder, read_measurement

NAME = "measures"
"""The check; the number of a row does not rest on it."""
MOST = 2**25
"""Bytes of the documents of a card that are read."""


def missing(card: Card, folder: Path) -> list[str]:
    """A sentence for each document that is not here."""
    home = measures_folder(folder)
    return [
        f"{MEASURES}/{short.file} is not here, so that what the card states of {short.measure} cannot be checked; "
        "put it there, or `gauntlet measure` it again"
        for short in card.measures
        if not os.path.lexists(home / short.file)
    ]


def problems(card: Card, folder: Path) -> Iterator[str]:
    """Where a document is not the one of the card, or says otherwise."""
    home, left = measures_folder(folder), MOST
    for short in (short for short in card.measures if os.path.lexists(home / short.file)):
        name = f"{MEASURES}/{short.file}"
        try:
            left -= regular(home / short.file, min(DOCUMENT_BYTES, left))
            yield from (f"{name} {told}" for told in _differences(card, short, home / short.file))
        except (BadInput, OSError) as error:
            yield str(error).replace(str(home), MEASURES)


def _differences(card: Card, short: Measured, path: Path) -> Iterator[str]:
    if (found := sha256(path)) != short.sha256:
        yield f"is not the document of the card: its sha256 is {found[:12]}, the card says {short.sha256[:12]}"
        return
    document = read_measurement(path)
    if not is_of(document, card.model):
        of = "with a defense at test time" if card.model.test_time else card.model.digest[:12]
        yield f"is of the network {document.digest[:12] or 'unknown'}, and the card of {of}"
    there = in_short(document, path)
    if there is None or (there.measure, there.asked) != (short.measure, short.asked):
        of = f"{there.measure}, {there.asked}" if there else "nothing that a card could hold"
        yield f"is of {of}; the card says {short.measure}, {short.asked}"
    for name, value in short.values.items():
        if document.values.get(name) != value:
            yield f"has {name} {document.values.get(name)}, the card says {value}"
