"""Plans: which attacks are run, in what order, with which parameters, on which samples."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from bench.core import Name, ThreatModel, check_name
from bench.errors import BadInput
from bench.plugins import Attack, attack_names, get_attack

MOST_POINTS = 10_000
"""Of a grid: each is run on the probe."""
Many = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""A count in a plan."""


def _column(text: str) -> str:
    return text and check_name(text)


Column = Annotated[str, AfterValidator(_column)]
"""A safe name, or none."""


class Arm(BaseModel):
    """An attack with its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: Name
    """The registered attack."""
    name: Column = ""
    """The column it fills; the attack's own name unless told."""
    parameters: dict[str, Any] = {}

    @property
    def label(self) -> str:
        """The column's name."""
        return self.name or self.attack

    def stronger(self, effort: int, classes: int) -> dict[str, Any]:
        """Its parameters with so many times the targets, but no more than there are wrong classes, else queries, else steps."""
        grows = "targets" if self.parameters.get("targets") else "queries" if "queries" in self.parameters else "steps"
        found = {key: value * effort if key == grows else value for key, value in self.parameters.items()}
        return {**found, "targets": min(found["targets"], classes - 1)} if grows == "targets" else found


class AttackSpec(Arm):
    """One attack of a plan."""

    grid: dict[str, list[Any]] = {}
    """Values to try on the probe; the best combination is used for the restarts."""
    probe: Many = 256
    """How many of its samples the grid is searched on."""
    restarts: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    samples: Many | None = None
    """Attack only the first so many samples of the evaluation."""
    on: Literal["all", "survivors"] = "survivors"
    """Every correctly classified sample, or those that no earlier attack has broken."""
    optional: bool = False
    """Left out where the attack does not exist in the norm; and where it cannot use the model (too few classes) or a file,
    that is a note on the card, and the evaluation goes on."""

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every point of the grid, in order; a single empty one without a grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


LATER = ("adaptive", "frontier", "escalation", "closing")
"""Groups of arms that earlier releases had not; a portfolio without them is the same plan."""


class Portfolio(BaseModel):
    """Attacks that compete for the survivors, and go on only as long as they break any (bench/evaluation/portfolio.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: Literal["portfolio"]
    name: Column = ""
    opening: Annotated[tuple[Arm, ...], Field(min_length=1)]
    """Run on every sample, in this order, before anything is chosen."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    """Ranked by the pilot."""
    blind: tuple[Arm, ...] = ()
    """Searches without gradients that join those among the arms once the gradient is masked."""
    adaptive: tuple[Arm, ...] = ()
    """Attacks on a reading of the network (bench/core/adaptations.py) that join the pilot where there is such a reading."""
    frontier: tuple[Arm, ...] = ()
    """Run on samples at random where nothing fell in the pilot, to tell a frontier from a mask."""
    escalation: tuple[Arm, ...] = ()
    """Run on all survivors once the number is in doubt."""
    closing: tuple[Arm, ...] = ()
    """Run at the end on the closest survivors, whatever the pilot thought of them."""
    pilot: Annotated[Many, Field(ge=2)] = 64
    """How many samples every arm is tried on, at most."""
    budget: Many = 1500
    """Forward-equivalents per sample that survives the opening, on average, and of 256 samples at least, after which no round
    is begun; where the gradient is masked, nine times as many more for each that survived."""
    rough: bool = True
    """Whether gradients may come from a faster precision, where the device and the network have one."""

    @property
    def label(self) -> str:
        """The column's name."""
        return self.name or self.attack

    @property
    def every(self) -> tuple[Arm, ...]:
        """All attacks that it may run."""
        return (*self.opening, *self.arms, *self.blind, *self.adaptive, *self.frontier, *self.escalation, *self.closing)


def _kind(value: Any) -> str:
    attack = value.get("attack") if isinstance(value, dict) else getattr(value, "attack", None)
    return "portfolio" if attack == "portfolio" else "attack"


Entry = Annotated[Annotated[AttackSpec, Tag("attack")] | Annotated[Portfolio, Tag("portfolio")], Discriminator(_kind)]


class Plan(BaseModel):
    """An ordered list of attacks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    about: str = ""
    diagnose: bool = False
    """Whether its evaluations say if the number can be trusted."""
    attacks: Annotated[tuple[Entry, ...], Field(min_length=1)]

    @cached_property
    def digest(self) -> str:
        """sha256 of the attacks as they will run; names and descriptions do not count."""
        content = [
            {key: value for key, value in spec.model_dump(exclude={"name", "optional"}).items() if value or key not in LATER}
            for spec in self.attacks
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same with other fields, and a digest of its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    def extended(self, specs: Sequence[Mapping[str, Any]]) -> Plan:
        """The plan followed by further attacks, such as those a defense declares for its own fair attacker."""
        return self.model_copy(update={"attacks": (*self.attacks, *(AttackSpec.model_validate(spec) for spec in specs))})

    def resolved(self, threat: ThreatModel) -> Plan:
        """The same plan with every parameter written out, checked against the attacks and the threat model."""
        there = [spec for spec in self.attacks if not (isinstance(spec, AttackSpec) and _absent(spec, threat))]
        # An empty plan would call every model robust.
        return self.model_copy(update={"attacks": tuple(_resolve(spec, threat) for spec in there or self.attacks)})


def _absent(spec: AttackSpec, threat: ThreatModel) -> bool:
    return spec.optional and threat.norm not in get_attack(spec.attack).norms


def _resolve(spec: AttackSpec | Portfolio, threat: ThreatModel) -> AttackSpec | Portfolio:
    if isinstance(spec, Portfolio):
        groups = ("opening", "arms", "blind", *LATER)
        arms = {key: _fitting(getattr(spec, key), threat, needed=key in groups[:2]) for key in groups}
        return spec.model_copy(update={"name": spec.label, **arms})
    attack = _attack(spec, threat)
    if spec.name != spec.attack and spec.name in attack_names():
        raise BadInput(
            f"attack {spec.attack!r} fills a column called {spec.name!r}, which is another attack; rename the column"
        )
    if empty := [key for key, values in spec.grid.items() if not values]:
        raise BadInput(f"attack {spec.label!r}: the grid of {empty[0]!r} has no values")
    if attack.whole and spec.restarts > 1:
        raise BadInput(f"attack {attack.name!r} brings its own restarts; leave restarts at 1, not {spec.restarts}")
    if not attack.seeded and spec.restarts > 1:
        raise BadInput(f"attack {attack.name!r} makes the same run every time; leave restarts at 1, not {spec.restarts}")
    if (points := math.prod(map(len, spec.grid.values()))) > MOST_POINTS:
        raise BadInput(f"attack {spec.label!r}: its grid has {points} points; give at most {MOST_POINTS}")
    for point in spec.combinations():
        attack.configure({**spec.parameters, **point})
    fixed = attack.configure({key: value for key, value in spec.parameters.items() if key not in spec.grid})
    kept = {key: value for key, value in fixed.items() if key not in spec.grid}
    return spec.model_copy(update={"name": spec.label, "parameters": kept})


def _fitting(arms: Sequence[Arm], threat: ThreatModel, *, needed: bool) -> tuple[Arm, ...]:
    """The arms that exist in this norm; where none of needed ones does, the error of the first."""
    chosen = [arm for arm in arms if threat.norm in get_attack(arm.attack).norms] or [*(arms if needed else ())]
    ready = [
        arm.model_copy(update={"name": arm.label, "parameters": _attack(arm, threat).configure(arm.parameters)})
        for arm in chosen
    ]
    if twice := [label for label, count in Counter(arm.name for arm in ready).items() if count > 1]:
        raise BadInput(f"two arms of a portfolio are called {twice[0]!r}; give each a name of its own")
    return tuple(ready)


def _attack(arm: Arm, threat: ThreatModel) -> Attack:
    attack = get_attack(arm.attack)
    if threat.norm not in attack.norms:
        raise BadInput(f"attack {attack.name!r} works in {', '.join(sorted(attack.norms))}, not in {threat.norm}")
    return attack
