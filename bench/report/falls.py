"""Which samples fell to what, from the records beside a card."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import BadInput, GauntletError
from bench.results import Card

Ids = NDArray[np.int64]


class Falls:
    """The records of one evaluation, by sample; of their rows only those of samples that fell are kept."""

    def __init__(self, card: Card, rows: pd.DataFrame) -> None:
        self.card = card
        ids, broken = rows["id"].to_numpy(dtype=np.int64), rows["broken"].to_numpy(dtype=bool)
        attack, run = (rows[key].astype("category").cat for key in ("attack", "run"))
        names, runs = attack.categories.tolist(), run.categories.tolist()
        code = attack.codes.to_numpy().astype(np.int64) * len(runs) + run.codes.to_numpy()
        tried = np.array([bool(name) for name in runs])[run.codes] if runs else np.zeros(0, dtype=bool)
        first = np.flatnonzero(~tried)
        first = first[np.argsort(ids[first], kind="stable")]
        self.ids: Ids = ids[first]
        if len(first) != card.n or len(np.unique(self.ids)) != card.n:
            raise BadInput(f"the records hold {len(first)} clean samples, and n is {card.n}")
        self.labels: Ids = rows["label"].to_numpy(dtype=np.int64)[first]
        self.clean: NDArray[np.bool_] = ~broken[first]
        fell = np.flatnonzero(tried & broken)
        self._fell = rows.iloc[fell]
        kinds, begins = np.unique(code[tried], return_index=True)
        earliest = np.unique(ids[fell], return_index=True)[1]
        counts = dict(zip(*np.unique(code[fell][earliest], return_counts=True), strict=True))
        self.taken = {
            (names[kind // len(runs)], runs[kind % len(runs)]): int(counts.get(kind, 0)) for kind in kinds[np.argsort(begins)]
        }
        """Of every attack and run, in order: how many samples fell to it that had not fallen before."""
        self.standing: NDArray[np.bool_] = self.clean & ~np.isin(self.ids, ids[fell])
        """Right and never broken by the plan."""
        self.runs = {
            name: (np.unique(ids[mine]), np.unique(ids[mine & broken]))
            for name, mine in self._apart(attack.codes.to_numpy(), names, run.codes.to_numpy(), runs)
            if mine.any()
        }
        """Of every attack that was run on all, or of every arm of a pilot: the samples it was run on, and those it broke."""

    def _apart(
        self, attacks: NDArray[Any], names: list[str], runs: NDArray[Any], called: list[str]
    ) -> list[tuple[str, NDArray[np.bool_]]]:
        """Which rows are of each attack that was run on all, or of each arm of a pilot."""
        everyone = [attack.name for attack in self.card.attacks if attack.on == "all" and attack.attempted]
        if len(everyone) > 1:
            return [(name, attacks == names.index(name)) for name in everyone if name in names]
        pilot = {
            one.arm: f"round {number}: {one.arm}"
            for attack in self.card.attacks
            for number, one in enumerate(attack.rounds)
            if one.stage == "pilot"
        }
        return [(arm, runs == called.index(run)) for arm, run in pilot.items() if run in called]

    @cached_property
    def label_of(self) -> dict[int, int]:
        """The label of each sample, by its id."""
        return dict(zip(self.ids.tolist(), self.labels.tolist(), strict=True))

    @cached_property
    def by(self) -> pd.DataFrame:
        """For every right sample that fell: the run whose example is misclassified most clearly, which the archive holds."""
        last = self._fell.sort_values(["id", "margin"], kind="stable").drop_duplicates("id", keep="last")
        found: pd.DataFrame = last.set_index("id")
        return found

    def per_class(self) -> list[tuple[int, int, float, float]]:
        """Label, samples, clean and robust accuracy of every class."""
        labels, where, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        shares = [np.bincount(where, kind, len(labels)) / counts for kind in (self.clean, self.standing)]
        return [(int(a), int(b), float(c), float(d)) for a, b, c, d in zip(labels, counts, *shares, strict=True)]


def falls_of(card: Card, rows: pd.DataFrame | None) -> Falls | None:
    """The falls of a card; None where its records are not here or not whole."""
    try:
        return Falls(card, rows) if rows is not None and len(rows) <= card.records.rows else None
    except GauntletError:
        return None
