"""What gradient attacks pass by, leave unfinished, or find on what they are shown alone (Pintor et al. 2022, 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from bench.diagnose.finding import Inapplicable, Measured, check
from bench.diagnose.probe import Probe
from bench.diagnose.watch import Watch
from bench.plugins import get_attack

SHORT = 2
"""Points of a path that has no last tenth: it ends as it begins."""
OURS: Mapping[str, Any] = {"steps": 100, "step": 0.05, "loss": "margin", "start": "clean", "cycles": False}
"""PGD whose steps stay the same, so that its path shows whether it has arrived."""
WATCHED = 3
"""The plan's own attacks that are watched, at most."""


class Path(NamedTuple):
    """What became of a watched attack; shares of the samples, with the attack they are of."""

    silent: float
    unfinished: float
    seeming: float
    points: int
    name: str


@check(
    "silent success", (0.0, 0.05), part=4,
    fine="no attack passes an adversarial example by",
    wrong="on {value:.1%} of the right images {name} met an adversarial example and returned another point: "
    "it should keep the best iterate (bench.attack.Live does)",
)  # fmt: skip
def silent(probe: Probe) -> Measured:
    """Indicator 3: how often an attack does not return what it found."""
    return _worst(probe, "silent")


@check(
    "path ends too early", (0.3, 0.6), part=4,
    fine="hardly a path still climbs at its end",
    wrong="{value:.1%} of the paths of {name} were still climbing at their end, after {points} gradients: what it leaves would "
    "fall to a longer attack; give it more or larger steps",
)  # fmt: skip
def unfinished(probe: Probe) -> Measured:
    """Indicator 4: how many paths had not arrived. A single step counts where it is all that the plan has."""
    if probe.threat.radius == 0:
        raise Inapplicable("the ball is a single point")
    return _worst(probe, "unfinished", short=not _goes_on(probe))


@check(
    "same model for attack and judge", (0.05, 0.2), part=4,
    fine="attacks see the model that is judged",
    wrong="{value:.1%} of the right images fall to {name} only on the model that it sees, which differs "
    "from the one judged: attack that one, or take the mean over its answers",
)  # fmt: skip
def seeming(probe: Probe) -> Measured:
    """Indicator 5: how often an attack succeeds only on what it is shown."""
    return _worst(probe, "seeming")


def _worst(probe: Probe, what: str, *, short: bool = True) -> Measured:
    """The watched attack that is worst in something; every attack is watched once. short: paths of hardly a point count."""
    path = max((path for path in _watched(probe) if short or path.points > SHORT), key=lambda path: float(getattr(path, what)))
    return Measured(getattr(path, what), {"name": path.name, "points": path.points})


def _watched(probe: Probe) -> list[Path]:
    return probe.once("paths", lambda: [_watch(probe, *attack) for attack in _attacks(probe)])


def _goes_on(probe: Probe) -> bool:
    """Whether the plan has attacks that go on where its single steps stop."""
    own = _watched(probe)[1:]
    unwatched = [result for result in probe.own if result.attack == "portfolio" or get_attack(result.attack).access == "module"]
    return bool(unwatched) or len(own) == WATCHED or any(path.points > SHORT for path in own)


def _attacks(probe: Probe) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Names, attacks and parameters: ours, and what the plan has besides a portfolio."""
    yield "pgd", "pgd", OURS
    own = [result for result in probe.own if result.attack != "portfolio" and get_attack(result.attack).access == "gradient"]
    for result in own[:WATCHED]:
        yield result.name, result.attack, result.parameters


def _watch(probe: Probe, name: str, attack: str, parameters: Mapping[str, Any]) -> Path:
    watch = Watch(probe.x, probe.y, probe.threat)
    fooled = probe.attack(attack, watch=watch, stream=f"path {name}", **parameters)
    passed = watch.hit & ~fooled
    true = probe.judge.verdict(watch.first, probe.x, probe.y).fooled
    silent, seeming = (float(part.double().mean()) for part in (passed & true, passed & ~true))
    points = max((len(path) for _, path in watch.paths), default=0)
    return Path(silent, _unfinished(watch, fooled), seeming, points, name)


def _unfinished(watch: Watch, fooled: Tensor) -> float:
    """The share of samples that stand and whose highest margin rose by over 5 % of its way in the last tenth of the steps.

    All of them where a path has hardly a point: no attack is less finished.
    """
    left, climbing = ~fooled & ~watch.hit, 0
    if not bool(left.any()):
        return 0.0
    for batch, path in watch.paths:
        if not bool(left[batch].any()):
            continue
        if len(path) <= SHORT:
            return 1.0
        last = max(len(path) // 10, 1)
        start, before, end = (path[place][left[batch]] for place in (0, -1 - last, -1))
        climbing += int(((end - before) > 0.05 * (end - start).clamp_min(1e-12)).sum())
    return climbing / len(left)
