"""What a reference tells of its model before anything is loaded: its training, and what it was made for."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.models.reference import check_there, listed
from bench.models.samples import training_beside
from bench.models.subject import training_record


class Known(NamedTuple):
    """What stands beside a network, or in the list of its zoo."""

    trained: dict[str, Any]
    """The record of the run it came from; empty for a model from elsewhere."""
    seen: dict[str, Any]
    """The record of the training that its weights came from, wherever that is told: those samples it is not judged on."""
    dataset: str
    """What it was trained for; digits where nothing tells it."""
    threat: dict[str, Any]
    """The ball that it was trained in or is listed for, as `choose_threat` takes it."""


def known_of(reference: str) -> Known:
    """What is known of a model; BadInput where its folder or file is missing, before questions that it would answer."""
    check_there(reference)
    trained = training_record(reference)
    told = trained or listed(reference)
    return Known(trained, trained or training_beside(reference), told.get("dataset") or "digits", told.get("threat", {}))
