"""The built-in plans, and plans from TOML files."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from bench.errors import UnknownName
from bench.files import read_toml, refusal
from bench.plans.plan import Arm, AttackSpec, Plan, Portfolio

_STEPS: Mapping[str, list[Any]] = {"step": [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]}
"""Steps as fractions of eps; smaller ones cannot cross the ball in 100 iterations (methods of Liu et al. 2020, review 1)."""


def load(name_or_path: str | Path | Plan) -> Plan:
    """A built-in plan by name, or a TOML file; a plan is one already."""
    if isinstance(name_or_path, Plan):
        return name_or_path
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _read(path)
    name = str(name_or_path)
    if name not in PLANS:
        raise UnknownName("plan", name, [*PLANS, "or a .toml file"])
    return PLANS[name]


def show(plan: Plan) -> str:
    """A plan as the TOML file that `load` reads back; what is left at its default is left out."""
    return tomli_w.dumps(plan.model_dump(mode="json", exclude_defaults=True))


def _read(path: Path) -> Plan:
    content = read_toml(path, "plan", "`gauntlet plan show fast` prints one to begin with")
    try:
        return Plan.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise refusal(error, f"plan {path}", _record) from None


def _record(where: list[str]) -> type[BaseModel]:
    """What kind of table this place of a plan is in."""
    if {"opening", "arms", "blind", "adaptive", "frontier", "escalation", "closing"} & {*where}:
        return Arm
    if "portfolio" in where:
        return Portfolio
    return AttackSpec if "attacks" in where else Plan


def _spec(attack: str, name: str = "", **rest: Any) -> AttackSpec:
    fields = {key: rest.pop(key) for key in ("grid", "restarts", "on", "samples", "probe", "optional") if key in rest}
    return AttackSpec(attack=attack, name=name, parameters=rest, **fields)


def _arm(name: str, attack: str, **parameters: Any) -> Arm:
    return Arm(attack=attack, name=name, parameters=parameters)


_FAST = Portfolio(
    attack="portfolio",
    name="fast",
    opening=(
        _arm("margin-20", "pgd", steps=20, step=1.0, decay="cosine", loss="margin"),
        _arm("ce-40", "pgd", steps=40, step=2.0, decay="cosine", loss="ce"),
        _arm("targeted-10", "apgd", steps=10, targets=3, order="malt"),
    ),
    arms=(
        _arm("ce", "pgd", steps=50, step=2.0, decay="cosine", loss="ce"),
        _arm("margin", "pgd", steps=50, step=2.0, decay="cosine", loss="margin"),
        _arm("pm", "pgd", steps=50, step=1.0, decay="cosine", loss="pm"),
        _arm("margin-known", "pgd", steps=30, step=0.5, decay="cosine", loss="margin", start="known"),
        _arm("ce-corner-small", "pgd", steps=50, step=0.05, loss="ce", start="corner"),
        _arm("apgd-ce", "apgd", steps=50),
        _arm("malt-targeted", "apgd", steps=40, targets=2, order="malt"),
        _arm("square", "square", queries=300),
        _arm("square-known", "square", queries=300, start="known", first=2000),
    ),
    blind=(_arm("rays", "rays", queries=200), _arm("hop-skip-jump", "hop_skip_jump", queries=200)),
    adaptive=(
        *(_arm(f"inner-{which}", "inner", reading=f"inner {which}", steps=50) for which in ("all", 1, 2, 3, 4)),
        *(_arm(f"inner-{which}-ce", "inner", reading=f"inner {which}", steps=40, step=2.0, loss="ce") for which in ("all", 1)),
        *(_arm(f"inner-{which}-targeted", "inner", reading=f"inner {which}", steps=40, targets=3) for which in ("all", 1)),
        *(_arm(f"bpda-{past}", "bpda", past=past, steps=50) for past in ("images", "rounding", "loops", "noise")),
    ),
    frontier=(_arm("dlr-targeted", "apgd", steps=50, targets=3), _arm("rays-far", "rays", queries=300)),
    escalation=(
        _arm("apgd-100", "apgd", steps=100),
        _arm("apgd-targeted-100", "apgd", steps=100, targets=9),
        _arm("fab-targeted", "fab", steps=100, targets=9),
        _arm("square-5000", "square", queries=5000),
    ),
    closing=(
        _arm("targeted-50", "apgd", steps=50, targets=9),
        _arm("margin-known-100", "pgd", steps=100, step=0.25, decay="cosine", loss="margin", start="known"),
    ),
)  # fmt: skip

PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan(
            name="smoke",
            about="seconds: a margin PGD-20 and 200 queries of Square; for continuous integration and first looks",
            attacks=(
                _spec("pgd", "pgd-20", steps=20, loss="margin", on="all"),
                _spec("square", queries=200, optional=True),
            ),
        ),
        Plan(
            name="fast",
            about="minutes: a portfolio that finds out what hurts this model, and spends its time on the closest samples",
            attacks=(_FAST,),
        ),
        Plan(
            name="standard",
            about="the leaderboard's: fast, PGD-100 x 10 with searched steps, Square, SimBA and RayS, and reference AutoAttack",
            diagnose=True,
            attacks=(
                _FAST,
                _spec("pgd", "pgd-100x10", steps=100, grid=dict(_STEPS), restarts=10, on="all"),
                _spec("square", queries=5000, optional=True),
                _spec("simba", queries=1000, samples=1000, optional=True),
                _spec("rays", queries=1000, samples=1000, optional=True),
                _spec("autoattack", on="all"),
            ),
        ),
        Plan(
            name="full",
            about="standard with 100 restarts, PGD on the margin and the DLR, longer searches, examples of every archive below "
            "results/, and the distances of FMN and FAB",
            diagnose=True,
            attacks=(
                _FAST,
                _spec("pgd", "pgd-100x100", steps=100, grid=dict(_STEPS), restarts=100, on="all"),
                _spec("pgd", "pgd-margin", steps=100, loss="margin", grid=dict(_STEPS), restarts=20),
                _spec("pgd", "pgd-dlr", steps=100, loss="dlr", grid=dict(_STEPS), restarts=20, optional=True),
                _spec("autoattack", on="all"),
                _spec("square", queries=10000, optional=True),
                _spec("simba", queries=5000, samples=1000, optional=True),
                _spec("rays", queries=5000, samples=1000, optional=True),
                _spec("transfer", sources=["results"], optional=True),
                _spec("fmn", beyond=True, on="all"),
                _spec("fab", beyond=True, targets=9, on="all", samples=1000, optional=True),
            ),
        ),
        Plan(
            name="autoattack",
            about="the reference AutoAttack, standard version, alone",
            attacks=(_spec("autoattack", on="all"),),
        ),
    )
}


def reads_like(name: str) -> str:
    """The built-in plan that a name is, or is taken for by whoever reads it; empty for none."""
    folded = unicodedata.normalize("NFKC", name).casefold().strip()
    return folded if folded in PLANS else ""
