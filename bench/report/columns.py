"""What each column of a leaderboard says: one sentence for its head, which docs/glossary.md explains."""

from __future__ import annotations

from typing import Literal, NamedTuple

Better = Literal["up", "down", ""]


class Column(NamedTuple):
    """A column for a reader."""

    head: str
    meaning: str
    better: Better = ""
    numeric: bool = True


COLUMNS: dict[str, Column] = {
    "rank": Column("rank", "The places that the samples leave open: 1-2 may be first or second.", "down"),
    "defense": Column("method", "What trained the network; trainings alike in all but the seed are one method.", numeric=False),
    "model": Column("network", "The architecture that was attacked.", numeric=False),
    "differs in": Column("differs in", "In what methods of one name differ.", numeric=False),
    "seeds": Column("seeds", "Trainings that differ in nothing but the seed."),
    "seed": Column("seed", "The seed of the training."),
    "n": Column("n", "Test images that were attacked."),
    "clean": Column("clean", "Percent of the n images that are right as they are.", "up"),
    "robust": Column("robust", "Percent right and still right after every attack of the plan, image by image.", "up"),
    "sd": Column("± sd", "Standard deviation of the robust accuracy between seeds, in points.", "down"),
    "95% interval": Column(
        "95 % interval", "Where the robust accuracy lies: Wilson's interval; with seeds that of their mean."
    ),
    "8-bit": Column("8-bit", "Robust where an adversarial example has to survive rounding to 256 levels.", "up"),
    "certified": Column("certified", "Right, and proved so by the defense: no attack can go below it.", "up"),
    "collapse": Column(
        "collapse",
        "The epoch of catastrophic overfitting, if there was one; masked where single steps never told the truth.",
        numeric=False,
    ),
    "verdict": Column("verdict", "Of the diagnosis: whether the number can be trusted.", numeric=False),
    "train passes": Column("cost", "Backward passes per training image: the price of the training.", "down"),
    "notes": Column("notes", "Remarks on the card."),
    "proof": Column("proof", "What stands behind the number: an audit, examples, or the card's word.", numeric=False),
}  # fmt: skip


def column_of(name: str) -> Column:
    """The column of this name; any other is that of an attack."""
    return COLUMNS.get(name) or Column(
        name, f"Percent that {name} alone leaves standing; run on survivors, what is left after it.", "up"
    )
