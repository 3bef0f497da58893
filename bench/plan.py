"""Plans: which attacks are run, in what order, with which parameters, on which samples."""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BadInput, UnknownName
from bench.registry import get_attack
from bench.threat import ThreatModel


class AttackSpec(BaseModel):
    """One attack of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: str
    """The registered attack."""
    name: str = ""
    """The column it fills; the attack's own name unless told."""
    parameters: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    """Values to try on the probe; the best combination is used for the restarts."""
    probe: Annotated[int, Field(ge=1)] = 256
    """How many of its samples the grid is searched on."""
    restarts: Annotated[int, Field(ge=1)] = 1
    samples: Annotated[int, Field(ge=1)] | None = None
    """Attack only the first so many samples of the evaluation."""
    on: Literal["all", "survivors"] = "survivors"
    """Every correctly classified sample, or those that no earlier attack has broken."""

    @property
    def label(self) -> str:
        """The column's name."""
        return self.name or self.attack

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every point of the grid, in order; a single empty one without a grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


class Plan(BaseModel):
    """An ordered list of attacks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str = ""
    attacks: Annotated[tuple[AttackSpec, ...], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """sha256 of the attacks as they will run; names and descriptions do not count."""
        content = [spec.model_dump(exclude={"name"}) for spec in self.attacks]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def extended(self, specs: Sequence[Mapping[str, Any]]) -> Plan:
        """The plan followed by further attacks, such as those a defense declares for its own fair attacker."""
        return self.model_copy(update={"attacks": (*self.attacks, *(AttackSpec.model_validate(spec) for spec in specs))})

    def resolved(self, threat: ThreatModel) -> Plan:
        """The same plan with every parameter written out, checked against the attacks and the threat model."""
        return self.model_copy(update={"attacks": tuple(_resolve(spec, threat) for spec in self.attacks)})


def load(name_or_path: str) -> Plan:
    """A built-in plan by name, or a TOML file."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _read(path)
    if name_or_path not in PLANS:
        raise UnknownName("plan", name_or_path, [*PLANS, "or a .toml file"])
    return PLANS[name_or_path]


def _read(path: Path) -> Plan:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"cannot read plan {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"plan {path} is not TOML: {error}") from None
    try:
        return Plan.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        # A misspelt key also leaves its right spelling missing: name the misspelling.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        where = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            known = AttackSpec.model_fields if "attacks" in where else Plan.model_fields
            raise UnknownName(f"key in plan {path}:", where[-1], known) from None
        raise BadInput(f"plan {path}: {'.'.join(where)}: {first['msg']}") from None


def _resolve(spec: AttackSpec, threat: ThreatModel) -> AttackSpec:
    attack = get_attack(spec.attack)
    if threat.norm not in attack.norms:
        raise BadInput(f"attack {attack.name!r} works in {', '.join(sorted(attack.norms))}, not in {threat.norm}")
    if empty := [key for key, values in spec.grid.items() if not values]:
        raise BadInput(f"attack {spec.label!r}: the grid of {empty[0]!r} has no values")
    if attack.whole and spec.restarts > 1:
        raise BadInput(f"attack {attack.name!r} brings its own restarts; leave restarts at 1, not {spec.restarts}")
    for point in spec.combinations():
        attack.configure({**spec.parameters, **point})
    fixed = attack.configure({key: value for key, value in spec.parameters.items() if key not in spec.grid})
    kept = {key: value for key, value in fixed.items() if key not in spec.grid}
    return spec.model_copy(update={"name": spec.label, "parameters": kept})


_STEPS: Mapping[str, list[Any]] = {"step": [0.025, 0.05, 0.1, 0.25, 0.5, 1.0]}
"""Steps as fractions of eps; smaller ones cannot cross the ball in 50 iterations (methods of Liu et al. 2020, review 1)."""


def _spec(attack: str, name: str = "", **rest: Any) -> AttackSpec:
    fields = {key: rest.pop(key) for key in ("grid", "restarts", "on", "samples", "probe") if key in rest}
    return AttackSpec(attack=attack, name=name, parameters=rest, **fields)


PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan(
            name="smoke",
            about="seconds: a margin PGD-20 and 200 queries of Square; for continuous integration and first looks",
            attacks=(
                _spec("pgd", "pgd-20", steps=20, loss="margin", on="all"),
                _spec("square", queries=200),
            ),
        ),
        Plan(
            name="fast",
            about="minutes: PGD-50 with searched steps and 10 restarts, then margin PGD and Square on what is left",
            attacks=(
                _spec("pgd", "pgd-50x10", steps=50, grid=dict(_STEPS), restarts=10, on="all"),
                _spec("pgd", "pgd-margin", steps=50, loss="margin", grid=dict(_STEPS), restarts=5),
                _spec("square", queries=500),
            ),
        ),
        Plan(
            name="standard",
            about="the leaderboard's: PGD-100 x 10 with searched steps, margin PGD, Square, SimBA and reference AutoAttack",
            attacks=(
                _spec("pgd", "pgd-100x10", steps=100, grid=dict(_STEPS), restarts=10, on="all"),
                _spec("pgd", "pgd-margin", steps=100, loss="margin", grid=dict(_STEPS), restarts=5),
                _spec("autoattack", on="all"),
                _spec("square", queries=5000),
                _spec("simba", queries=1000, samples=1000),
            ),
        ),
        Plan(
            name="full",
            about="standard with 100 restarts and a DLR run",
            attacks=(
                _spec("pgd", "pgd-100x100", steps=100, grid=dict(_STEPS), restarts=100, on="all"),
                _spec("pgd", "pgd-margin", steps=100, loss="margin", grid=dict(_STEPS), restarts=20),
                _spec("pgd", "pgd-dlr", steps=100, loss="dlr", grid=dict(_STEPS), restarts=20),
                _spec("autoattack", on="all"),
                _spec("square", queries=10000),
                _spec("simba", queries=5000, samples=1000),
            ),
        ),
        Plan(
            name="autoattack",
            about="the reference AutoAttack, standard version, alone",
            attacks=(_spec("autoattack", on="all"),),
        ),
    )
}
