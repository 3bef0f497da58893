"""A row with everything that it takes to do again what its card tells of."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from torch import Tensor

from bench.core import ThreatModel
from bench.data import Dataset
from bench.files import Reporter
from bench.models import Subject
from bench.results import Card


class Row(NamedTuple):
    """One row under audit."""

    card: Card
    dataset: str
    """Where its samples come from here."""
    under: Subject
    samples: Dataset
    records: pd.DataFrame
    broken: Tensor
    """Which samples its examples break, bool [n]."""
    batch_size: int
    report: Reporter

    def balls(self) -> list[ThreatModel]:
        """The radii it was attacked in, smallest first."""
        radii = [point.eps for point in self.card.curve] or [self.card.threat.eps]
        return [ThreatModel.parse(self.card.threat.norm, radius) for radius in radii]

    def survivors(self) -> frozenset[int]:
        """Ids of the samples that its records say no attack broke."""
        fallen = self.records["id"][self.records["broken"]].tolist()
        return frozenset(self.samples.ids.tolist()) - frozenset(fallen)

    def torn(self) -> frozenset[int]:
        """Ids of those that one attack broke and another, which was run on them, did not."""
        tried = self.records[self.records["run"] != ""]
        fell = tried.groupby(["id", "attack"])["broken"].any().groupby("id")
        return frozenset(fell.any().index[fell.any() & ~fell.all()].tolist())
