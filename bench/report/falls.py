"""Which samples fell to what, from the records beside a card."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import BadInput, GauntletError
from bench.results import Card, clean_rows, read_records


class Falls:
    """The records of one evaluation, by sample."""

    def __init__(self, card: Card, rows: pd.DataFrame) -> None:
        first = clean_rows(rows).sort_values("id")
        if len(first) != card.n or not first["id"].is_unique:
            raise BadInput(f"the records hold {len(first)} clean samples, and n is {card.n}")
        self.card, self.rows = card, rows
        self.ids: NDArray[np.int64] = first["id"].to_numpy(dtype=np.int64)
        self.labels: NDArray[np.int64] = first["label"].to_numpy(dtype=np.int64)
        self.clean: NDArray[np.bool_] = ~first["broken"].to_numpy(dtype=bool)

    @cached_property
    def by(self) -> pd.DataFrame:
        """For every right sample that fell: the run whose example is misclassified most clearly, which the archive holds."""
        fell = self.rows[self.rows["broken"].to_numpy() & (self.rows["run"] != "").to_numpy()]
        last = fell.sort_values(["id", "margin"], kind="stable").drop_duplicates("id", keep="last")
        return last.set_index("id")

    @cached_property
    def standing(self) -> NDArray[np.bool_]:
        """Right and never broken by the plan."""
        return self.clean & ~np.isin(self.ids, self.by.index.to_numpy())

    def runs(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Of every attack that was run on all, or of every arm of a pilot: the samples it was run on, and those it broke."""
        found = {}
        everyone = [attack for attack in self.card.attacks if attack.on == "all" and attack.attempted]
        if len(everyone) > 1:
            names = {attack.name: self.rows["attack"] == attack.name for attack in everyone}
        else:
            pilot = {
                f"round {number}: {one.arm}": one.arm
                for attack in self.card.attacks
                for number, one in enumerate(attack.rounds)
                if one.stage == "pilot"
            }
            names = {arm: self.rows["run"] == run for run, arm in pilot.items()}
        for name, mine in names.items():
            part = self.rows[mine.to_numpy()]
            if len(part):
                ids = part["id"].to_numpy(dtype=np.int64)
                found[name] = np.unique(ids), np.unique(ids[part["broken"].to_numpy(dtype=bool)])
        return found

    def per_class(self) -> list[tuple[int, int, float, float]]:
        """Label, samples, clean and robust accuracy of every class."""
        found = []
        for label in np.unique(self.labels):
            mine = self.labels == label
            found.append((int(label), int(mine.sum()), float(self.clean[mine].mean()), float(self.standing[mine].mean())))
        return found


def read_falls(card: Card, path: Path) -> Falls | None:
    """The falls of a card; None where its records are not here or not whole."""
    try:
        return Falls(card, read_records(path.parent / card.records.file, card.records.rows))
    except (GauntletError, OSError):
        return None
