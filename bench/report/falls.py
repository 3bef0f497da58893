"""Which samples fell to what, from the records beside a card."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import BadInput, GauntletError
from bench.results import Card, read_records


class Falls:
    """The records of one evaluation, by sample."""

    def __init__(self, card: Card, rows: pd.DataFrame) -> None:
        self.card, self.rows = card, rows
        self._ids, broken = rows["id"].to_numpy(dtype=np.int64), rows["broken"].to_numpy(dtype=bool)
        self._tried = (rows["run"] != "").to_numpy()
        self._fell = self._tried & broken
        first = np.flatnonzero(~self._tried)
        first = first[np.argsort(self._ids[first], kind="stable")]
        self.ids: NDArray[np.int64] = self._ids[first]
        if len(first) != card.n or len(np.unique(self.ids)) != card.n:
            raise BadInput(f"the records hold {len(first)} clean samples, and n is {card.n}")
        self.labels: NDArray[np.int64] = rows["label"].to_numpy(dtype=np.int64)[first]
        self.clean: NDArray[np.bool_] = ~broken[first]

    @cached_property
    def label_of(self) -> dict[int, int]:
        """The label of each sample, by its id."""
        return dict(zip(self.ids.tolist(), self.labels.tolist(), strict=True))

    @cached_property
    def by(self) -> pd.DataFrame:
        """For every right sample that fell: the run whose example is misclassified most clearly, which the archive holds."""
        fell = self.rows[self._fell]
        last = fell.sort_values(["id", "margin"], kind="stable").drop_duplicates("id", keep="last")
        found: pd.DataFrame = last.set_index("id")
        return found

    @cached_property
    def taken(self) -> dict[tuple[str, str], int]:
        """Of every attack and run, in order: how many samples fell to it that had not fallen before."""
        attack, run = (self.rows[key].astype("category").cat for key in ("attack", "run"))
        size = len(run.categories)
        code = attack.codes.to_numpy().astype(np.int64) * size + run.codes.to_numpy()
        kinds, first = np.unique(code[self._tried], return_index=True)
        _, earliest = np.unique(self._ids[self._fell], return_index=True)
        counts = dict(zip(*np.unique(code[self._fell][earliest], return_counts=True), strict=True))
        return {
            (str(attack.categories[kind // size]), str(run.categories[kind % size])): int(counts.get(kind, 0))
            for kind in kinds[np.argsort(first)]
        }

    @cached_property
    def standing(self) -> NDArray[np.bool_]:
        """Right and never broken by the plan."""
        return self.clean & ~np.isin(self.ids, self._ids[self._fell])

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
        labels, where, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        shares = [np.bincount(where, kind, len(labels)) / counts for kind in (self.clean, self.standing)]
        return [(int(a), int(b), float(c), float(d)) for a, b, c, d in zip(labels, counts, *shares, strict=True)]


def read_falls(card: Card, path: Path) -> Falls | None:
    """The falls of a card; None where its records are not here or not whole."""
    try:
        return Falls(card, read_records(path.parent / card.records.file, card.records.rows))
    except (GauntletError, OSError):
        return None
