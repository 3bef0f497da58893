"""What was measured, entered in short into the cards of the same weights that lie beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.errors import BadInput
from bench.files import ASIDE, alone
from bench.results import MOST_MEASURED, SCHEMA, Card, Measured, Measurement, in_short, is_of, read_card, with_measured


def enter(found: Measurement, path: Path, tell: Callable[[str], None]) -> list[str]:
    """The folders of the evaluations whose cards have this measurement now; a card that has it already is left alone."""
    short = in_short(found, path)
    if short is None:
        return []
    cards = [card for card in sorted(path.parent.parent.glob("*/card.json")) if not card.parent.name.endswith(ASIDE)]
    return [card.parent.name for card in cards if _entered(card, found, short, tell)]


def _entered(path: Path, found: Measurement, short: Measured, tell: Callable[[str], None]) -> bool:
    card = _read(path)
    if card is None or not is_of(found, card.model):
        return False
    if short in card.measures:
        return True
    with alone(path.parent, tell):
        # Somebody may have changed it in the meantime.
        card = _read(path)
        if card is None:
            return False
        measures = with_measured(card.measures, short)
        if len(measures) > MOST_MEASURED:
            tell(f"{path} has {MOST_MEASURED} measures, and no card has more; {short.file} is not entered")
            return False
        card.model_copy(update={"schema_version": SCHEMA, "measures": measures}).save(path)
    return True


def _read(path: Path) -> Card | None:
    """A card; what is none is told by `gauntlet verify`, and hinders no measure."""
    try:
        return read_card(path)
    except BadInput:
        return None
