"""What is to be trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.core import ThreatModel
from bench.plugins import Defense
from bench.training.recipe import Recipe

SCHEMA = 2


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

    def key(self) -> str:
        """Eight hex digits that tell this training from any other of the same name."""
        source = self.data_digest or self.dataset
        content = [SCHEMA, self.defense.name, self.settings(), source, str(self.threat), self.arch, self.seed]
        content += filter(None, [self.code, dict(self.files)])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
