"""What a defense says of itself, each point a check of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from bench.core import ThreatModel
from bench.doctor.conformance import expect
from bench.plans import PLANS
from bench.plugins import get_defense, make_defense
from bench.training import configure, family_of, misplaced


def _texts(name: str) -> None:
    cls = get_defense(name)
    own = cls.__doc__ or ""
    expect(
        own.strip() and not own.startswith(f"{cls.__name__}("),
        "give the class a docstring; `gauntlet list` shows its first line",
    )
    expect(cls.passes, 'say what it costs: passes = "2", the forward-backward passes per training sample and epoch')


def _settings(name: str) -> None:
    # Defaults are not validated when they are used.
    make_defense(name, asdict(make_defense(name, {})))  # type: ignore[call-overload]
    for key, meant in misplaced(get_defense(name)).items():
        known = f"did you mean {meant!r}?" if meant else "a data set of your own must lie there under that name"
        expect(False, f"presets: there is no data set {key!r}; {known}")
    for key in {"digits", *get_defense(name).presets}:
        configure(name, key, family_of(key), {})


def _schedules(name: str) -> None:
    defense = make_defense(name, {})
    updates, ends = defense.updates(), list(defense.snapshots())
    expect(isinstance(updates, int) and updates >= 1, f"updates() is {updates!r}; return a number of updates from 1 on")
    expect(
        ends == sorted({end for end in ends if 0 < end <= 1}),
        f"snapshots() is {ends}; return rising shares of the training, up to 1",
    )


def _adaptive(name: str) -> None:
    # Resolving looks up every attack and checks every parameter.
    PLANS["smoke"].extended(make_defense(name, {}).adaptive()).resolved(ThreatModel.parse("linf", "0.1"))


CHECKS: Mapping[str, Callable[[str], None]] = {
    "texts": _texts, "defaults and presets": _settings, "updates and snapshots": _schedules, "adaptive attacks": _adaptive,
}  # fmt: skip
