"""What is to be trained."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.core import ThreatModel
from bench.errors import BadInput
from bench.plugins import Defense
from bench.training.recipe import Recipe

SCHEMA = 2
WITHIN = "snapshots before periods end"
"""Part of the key where a period ends in the middle of an epoch; rewritten when its snapshot would be of other weights."""
_TRIFLE = 1e-6


@dataclass(frozen=True)
class Job:
    """A training; equal jobs are the same training."""

    name: str
    """The row's label."""
    defense: Defense
    recipe: Recipe
    dataset: str
    threat: ThreatModel
    arch: str
    seed: int
    data_digest: str = ""
    """Of a user's own file, which may change behind its name; named sets do not."""
    code: str = ""
    """A digest of the defense's code, where it is not ours."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digests of the files that settings name."""

    def settings(self) -> dict[str, Any]:
        """All hyper-parameters, the defense's and the recipe's."""
        return {**asdict(self.defense), **self.recipe.settings()}  # type: ignore[call-overload]

    def about(self) -> dict[str, Any]:
        """What a record says of it, whether it is finished or not."""
        return {
            "name": self.name,
            "defense": self.defense.name,
            "settings": self.settings(),
            "dataset": self.dataset,
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps_text},
            "arch": self.arch,
            "seed": self.seed,
        }

    def snapshots(self) -> list[int]:
        """The epochs, from 1, after which weights are kept for an ensemble: of each period the last that ends within it.

        Fewer than there are periods where a training is so short that two would share one. BadInput for shares that are none.
        """
        # And a trifle, because 0.29 of 100 epochs is a little less than 29 in floating point.
        return sorted({max(math.floor(point * self.recipe.epochs + _TRIFLE), 1) for point in self.shares()})

    def shares(self) -> Sequence[float]:
        """The points of the training at which members of an ensemble are asked for; none for a single network."""
        points = self.recipe.snapshots or self.defense.snapshots()
        if not all(0 < point <= 1 for point in points):
            told = ", ".join(map(str, points))
            raise BadInput(f"defense {self.defense.name!r}: snapshots at {told}; give shares of the training, up to 1")
        return points

    def key(self) -> str:
        """Eight hex digits that tell this training from any other of the same name."""
        source = self.data_digest or self.dataset
        content = [SCHEMA, self.defense.name, self.settings(), source, str(self.threat), self.arch, self.seed]
        ends = [point * self.recipe.epochs for point in self.shares()]
        within = any(abs(end - round(end)) > _TRIFLE for end in ends)
        content += filter(None, [self.code, dict(self.files), WITHIN if within else ""])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
