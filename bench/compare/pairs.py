"""Who wins, by how much and with what certainty: two models on the same samples, or two trainings over several seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, inf, isfinite
from pathlib import Path

import numpy as np
from scipy.stats import norm

from bench.compare.comparable import require_attacked, require_same, without_additions
from bench.compare.seeds import over_seeds
from bench.errors import BadInput, UnknownName
from bench.escape import line
from bench.results import METRICS, Card, Flags, Outcomes, find_cards, outcomes_of, read_card
from bench.statistics import mcnemar, paired_interval, samples_to_settle
from bench.wording import count_of

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Side:
    """One of the two: what it is called, and its accuracy with each of its seeds."""

    name: str
    cards: tuple[str, ...]
    seeds: tuple[str, ...]
    accuracies: tuple[float, ...]
    mean: float
    sd: float | None
    """Between its seeds; None for a single one."""
    lowest: float


@dataclass(frozen=True)
class Comparison:
    """B against A; differences are B's accuracy less A's, as shares of the samples."""

    metric: str
    n: int
    a: Side
    b: Side
    difference: float
    interval: tuple[float, float]
    """95 %: Tango's score interval, or with several seeds that of the difference of their means."""
    p: float | None
    """Exact McNemar, or with several seeds Welch's t test between their accuracies; None where one side has a single seed."""
    only_a: int | None
    """Samples that only A gets right; None with several seeds."""
    only_b: int | None
    winner: str | None
    """"A" or "B"; None where it is not settled."""
    needed: float | None
    """Samples, or with several seeds seeds on either side, that would settle it; None where it is or nothing would."""
    notes: tuple[str, ...]
    doubted: bool = False
    """Whether one would win whose number is doubted more than the other's."""

    def to_json(self) -> str:
        """As `gauntlet compare --json` prints it."""
        return json.dumps(asdict(self), indent=2)


def compare_rows(a: str | Path, b: str | Path, metric: str = "robust") -> Comparison:
    """Compare two cards, or two folders whose cards differ in nothing but the seed."""
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    return compare_outcomes(_read(a, "A"), _read(b, "B"), metric)


def compare_outcomes(first: Sequence[Outcomes], second: Sequence[Outcomes], metric: str = "robust") -> Comparison:
    """The same of outcomes that were read already; those of a side differ in nothing but the seed."""
    notes: dict[str, None] = {}
    for other in (*first[1:], *second):
        names = ("A", "B") if any(other is one for one in second) else ("A", "A")
        notes |= dict.fromkeys(require_same(first[0], other, names, adaptive=names[1] == "B"))
    for name, side in (("A", first), ("B", second)):
        notes |= dict.fromkeys(without_additions(side, name))
        if metric == "robust":
            for outcomes in side:
                require_attacked(outcomes.card, name)
    flags = [[outcomes.of(metric) for outcomes in side] for side in (first, second)]
    sides = _side(first, flags[0]), _side(second, flags[1])
    found = _compared(metric, sides, flags, first, second, notes)
    if metric == "robust" and found.winner:
        won, lost = (first, second) if found.winner == "A" else (second, first)
        # What hides from attacks beats nobody by that.
        if max(one.card.doubt for one in won) > max(one.card.doubt for one in lost):
            return replace(found, winner=None, needed=None, doubted=True)
    return found


def _compared(
    metric: str, sides: tuple[Side, Side], flags: list[list[Flags]], first: Sequence[Outcomes], second: Sequence[Outcomes],
    notes: Mapping[str, None],
) -> Comparison:  # fmt: skip
    if len(first) == len(second) == 1:
        return _models(metric, sides, flags[0][0], flags[1][0], [*notes, *_same_weights(first[0], second[0])])
    both = len({one.card.identity for one in first} & {one.card.identity for one in second})
    told = [f"A and B share {count_of(both, 'model')}, and the test takes all of theirs for independent"] if both else []
    return _trainings(metric, sides, np.stack(flags[0]), np.stack(flags[1]), [*notes, *told])


def _read(place: str | Path, name: str) -> list[Outcomes]:
    """The outcomes of one side; BadInput where its cards are not the same thing with other seeds."""
    cards = [(read_card(path), path) for path in find_cards(place)]
    for what, value in _SAME.items():
        values = sorted({str(value(card)) for card, _ in cards})
        if len(values) > 1:
            told = "" if what == "settings" else f": {', '.join(values)}"
            raise BadInput(
                f"{name}: the {len(cards)} cards at {place} differ in more than the seed, in their {what}{told}; "
                f'name one, or a pattern that fits the same thing only, such as "{_pattern(cards[0][1])}"'
            )
    if len({card.identity for card, _ in cards}) < len(cards):
        raise BadInput(
            f"{name}: two cards at {place} are of the same model, and attacked again it is no other training; name one"
        )
    return [outcomes_of(card, path) for card, path in cards]


def _pattern(card: Path) -> str:
    """A pattern of this card's run with any seed, under its plan."""
    folder = card.parent if card.parent.parent.name else card.parent.resolve()
    run, plan = folder.parent, folder.name.rpartition("-")[0]
    seeds = re.sub(r"-s\d+-[0-9a-f]{8}$", "-s*", run.name)
    return str(run.parent / seeds / f"{plan}-*")


_SAME: dict[str, Callable[[Card], object]] = {
    "names": lambda card: card.name,
    "data sets": lambda card: Path(card.dataset).stem,
    "threat models": lambda card: f"{card.threat.norm} {card.threat.eps}",
    "plans": lambda card: f"{card.plan.name} ({card.plan.digest[:8]})",
    "numbers of samples": lambda card: card.n,
    "architectures": lambda card: card.model.arch,
    "test-time defenses": lambda card: card.model.test_time or "none",
    "seeds of the evaluation": lambda card: card.seed,
    "answers averaged for attacks": lambda card: card.eot,
    "settings": lambda card: json.dumps([card.model.defense, card.model.settings], sort_keys=True),
}


def _side(side: Sequence[Outcomes], flags: Sequence[Flags]) -> Side:
    accuracies = tuple(float(flag.mean()) for flag in flags)
    return Side(
        name=side[0].card.name,
        cards=tuple(str(outcomes.path) for outcomes in side),
        seeds=tuple(str(outcomes.card.model.training.get("seed", outcomes.card.seed)) for outcomes in side),
        accuracies=accuracies,
        mean=float(np.mean(accuracies)),
        sd=float(np.std(accuracies, ddof=1)) if len(side) > 1 else None,
        lowest=min(accuracies),
    )


def _same_weights(first: Outcomes, second: Outcomes) -> list[str]:
    if first.card.identity == second.card.identity:
        return ["A and B are the same model"]
    return ["this is about two models; what another seed of their trainings gives is another question (give several cards)"]


def _models(metric: str, sides: tuple[Side, Side], a: Flags, b: Flags, notes: list[str]) -> Comparison:
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p, difference = mcnemar(only_a, only_b), (only_b - only_a) / n
    settled = p < ALPHA
    needed = None if settled else samples_to_settle(difference, (only_a + only_b) / n, ALPHA, POWER)
    return Comparison(
        metric, n, *sides, difference, paired_interval(only_b, only_a, n), p, only_a, only_b, _winner(settled, difference),
        needed if needed is None or isfinite(needed) else None, tuple(notes),
    )  # fmt: skip


def _trainings(metric: str, sides: tuple[Side, Side], a: Flags, b: Flags, notes: list[str]) -> Comparison:
    first, second = sides
    difference, interval, p = over_seeds(a, b)
    needed = None
    if first.sd is None or second.sd is None:
        notes = [*notes, f"{'A' if first.sd is None else 'B'} has one seed, so how much its seeds vary is not known"]
    else:
        variance = first.sd**2 + second.sd**2
        needed = seeds_to_settle(difference, variance)
    settled = p is not None and p < ALPHA and not interval[0] <= 0 <= interval[1]
    if min(len(first.seeds), len(second.seeds)) < 3:
        notes = [*notes, "fewer than three seeds on a side: how much they vary is barely known"]
    return Comparison(
        metric, a.shape[1], *sides, difference, interval, p, None, None, _winner(settled, difference),
        None if settled or needed is None or not isfinite(needed) else needed, tuple(notes),
    )  # fmt: skip


def seeds_to_settle(difference: float, variance: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Seeds on either side that a t test needs; variance: the sum of both sides' variances between seeds. Infinite for none.

    The normal approximation, and a quarter of its squared quantile for what the t distribution costs (Guenther 1981).
    """
    if not difference:
        return inf
    quantile = norm.isf(alpha / 2)
    needed = ceil((quantile + norm.isf(1 - power)) ** 2 * variance / difference**2 + quantile**2 / 4)
    return float(max(needed, 2))


def _winner(settled: bool, difference: float) -> str | None:
    return ("B" if difference > 0 else "A") if settled else None


def render(found: Comparison) -> str:
    """A comparison in sentences."""
    measure = f"{found.metric} accuracy"
    lines = [_line("A", found.a), _line("B", found.b), ""]
    low, high = (100 * end for end in found.interval)
    gap = 100 * found.difference
    if found.winner:
        best, worst = (found.b, found.a) if found.winner == "B" else (found.a, found.b)
        loser = "A" if found.winner == "B" else "B"
        if found.winner == "A":
            low, high = -high, -low
        lines.append(
            f"{found.winner} ({line(best.name)}) beats {loser} ({line(worst.name)}) by {abs(gap):.1f} points of {measure} "
            f"(95 % interval {low:.1f} to {high:.1f}), on the same {found.n} samples."
        )
    else:
        lines.append(
            f"Not settled: B less A is {gap:+z.1f} points of {measure} (95 % interval {low:+z.1f} to {high:+z.1f}), "
            f"on the same {found.n} samples."
        )
    lines += _certainty(found) + ([_DOUBTED] if found.doubted else [] if found.winner else _settle(found))
    return "\n".join([*lines, *(f"note: {line(note)}" for note in found.notes)])


def _line(letter: str, side: Side) -> str:
    if side.sd is None:
        return f"{letter}: {line(side.name)} {side.mean:.1%}, {line(side.cards[0])}"
    each = ", ".join(f"{accuracy:.1%}" for accuracy in side.accuracies)
    seeds = f"{len(side.seeds)} seeds: {each}; mean {side.mean:.1%}, sd {100 * side.sd:.1f} points, lowest {side.lowest:.1%}"
    return f"{letter}: {line(side.name)} {seeds}"


def _certainty(found: Comparison) -> list[str]:
    if found.only_a is not None and found.p is not None:
        if not found.only_a and not found.only_b:
            return ["Both are right on exactly the same samples."]
        told = f"only A is right on {found.only_a} samples, only B on {found.only_b}"
        return [f"Certainty: exact McNemar p = {found.p:.2g}; {told}."]
    if found.p is None:
        return ["Certainty: none; seeds are a source of variance of their own, and a single one does not show it."]
    return [f"Certainty: Welch's t test between the seeds, p = {found.p:.2g}; the interval adds what the samples leave open."]


_DOUBTED = "The higher number is the one that is doubted, and what hides from attacks beats nobody: see the notes."


def _settle(found: Comparison) -> list[str]:
    """How much more would settle it, and what that takes for granted."""
    if found.only_a is None or found.only_b is None:
        if found.p is not None and found.p < ALPHA:
            return [
                "The seeds agree; what is open is the samples, so more seeds would not settle it: evaluate on more samples."
            ]
        if found.needed is None:
            return ["At least two seeds on either side, better five, would tell how far chance goes."]
        told = f"About {found.needed:.0f} seeds on either side would settle it at p < {ALPHA} with power {POWER}"
        return [f"{told}, if the means and the spread seen here are the true ones."]
    differ = (found.only_a + found.only_b) / found.n
    if found.needed is not None:
        told = f"About {found.needed:,.0f} samples would settle it at p < {ALPHA} with power {POWER}"
        return [f"{told}, if B less A is {100 * found.difference:+.2f} points and they differ on {differ:.1%} of all samples."]
    if not differ:
        return []
    share = max(differ, 0.01)
    return [
        "No difference was seen, so no number of samples is known to settle it; one of 1 point, with "
        f"{share:.1%} of the samples differing, would take about {samples_to_settle(0.01, share, ALPHA, POWER):,.0f}."
    ]
