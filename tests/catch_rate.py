"""The catch rate: which of the deliberately broken defenses a diagnosis exposes, by what, and which sound ones it wrongs.

    python tests/catch_rate.py --list
    python tests/catch_rate.py --only broken_jpeg pgd_at

Beside the number of `fast` stands what an adaptive attack leaves (tests/adaptive.py), with --autoattack also
what AutoAttack does.
A broken defense is caught where the verdict warns, or where the number is that of the strongest of them, up to two points.

Trainings and evaluations that are there already are read, so it can be interrupted. With GAUNTLET_DATA some sound defenses on
MNIST belong to it; --mnist adds the broken ones there. Exit code 1 unless every broken defense is caught without a false alarm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import adaptive
import sound
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import ThreatModel, evaluate, train
from bench.compat.autoattack import run_autoattack
from bench.core import Judge
from bench.core.rng import isolated
from bench.errors import BadInput, GauntletError
from bench.evaluation.request import DEFAULT_EPS
from bench.models import load_subject, samples_of, training_record
from bench.plugins.registry import broken_names, defense_names, make_defense
from bench.results.card import Card

VARIANTS: Mapping[str, Mapping[str, str]] = {"broken_quantiser": {"bits": "3"}, "broken_ripples": {"moving": "true"}}
"""Broken defenses that are tried with these settings too."""
ON_MNIST = {"standard": "3", "fast_at": "5"}
"""Sound ones that are tried on MNIST, and their epochs."""
Known = TypeVar("Known")
"""A number, or None where there is none."""
COLUMNS = "{:<34} {:>6} {:>9} {:>6} {:>6} {:>10} {:<10} {:>7}  {}"
HEADS = ("", "clean", "plain PGD", "robust", "truth", "AutoAttack", "verdict", "seconds", "told by")
CLOSE = 0.02
"""How far above the lowest that is known a number may lie and still count as the true one."""


@dataclass(frozen=True)
class Case:
    """One network to diagnose."""

    defense: str
    broken: bool
    dataset: str = "digits"
    settings: Mapping[str, str] = field(default_factory=dict)
    factory: str = ""
    """In tests/sound.py, of a network that no defense trained."""

    @property
    def label(self) -> str:
        """As --only takes it."""
        place = "" if self.factory or self.dataset == "digits" else f"{self.dataset}:"
        query = "&".join(f"{key}={value}" for key, value in self.settings.items() if key != "epochs")
        return f"{place}{self.defense}{query and '?'}{query}"


@dataclass(frozen=True)
class Row:
    """What became of a case."""

    case: Case
    plain: float
    """Accuracy under plain PGD."""
    card: Card
    truth: float = 1.0
    """Under the adaptive attack."""
    autoattack: float | None = None

    @property
    def told(self) -> bool:
        """Whether the diagnosis warns of the number."""
        assert self.card.diagnosis is not None
        return self.card.diagnosis.verdict != "ok"

    @property
    def true(self) -> bool:
        """Whether no attack that is known leaves much less."""
        known = [self.truth, *([] if self.autoattack is None else [self.autoattack])]
        return self.card.robust_accuracy <= min(known) + CLOSE + 1e-9

    def __str__(self) -> str:
        card, found = self.card, self.card.diagnosis
        assert found is not None
        told = ", ".join(finding.check for finding in found.findings if finding.verdict != "ok")
        seconds = card.model.training.get("seconds", 0) + card.seconds + found.seconds
        known = (card.clean_accuracy, self.plain, card.robust_accuracy, self.truth, self.autoattack)
        accuracies = ("-" if value is None else f"{value:.1%}" for value in known)
        return COLUMNS.format(self.case.label, *accuracies, found.verdict, f"{seconds:.0f}", told).rstrip()


@dataclass(frozen=True)
class Refused:
    """A case that could not be evaluated, which counts against the harness."""

    case: Case
    reason: str
    told: bool = False
    true: bool = False

    def __str__(self) -> str:
        return f"{self.case.label:<34} refused: {self.reason}"


def cases(*, mnist: bool) -> list[Case]:
    """Every network there is to diagnose; mnist: the broken ones on MNIST too."""
    threat = ThreatModel.parse("linf", DEFAULT_EPS["digits"])
    places = ["digits"] + ["mnist"] * mnist
    found = [Case(name, True, place) for place in places for name in broken_names()]
    found += [Case(name, True, place, settings) for place in places for name, settings in VARIANTS.items()]
    found += [Case(name, False) for name in defense_names() if not make_defense(name, {}).skip("digits", threat)]
    found += [Case(f"sound_{name}", False, dataset(), factory=name) for name, dataset in sound.NETWORKS.items()]
    if mnist or os.environ.get("GAUNTLET_DATA"):
        found += [Case(name, False, "mnist", {"epochs": epochs}) for name, epochs in ON_MNIST.items()]
    return found


def plain_pgd(net: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int = 20) -> Tensor:
    """What PGD finds as a script without care has it: bare cross-entropy, plain autograd; a missing gradient is 0."""
    z = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        z = z.detach().requires_grad_()
        logits = net(z)
        grad = None
        if logits.requires_grad:
            (grad,) = torch.autograd.grad(F.cross_entropy(logits, y), z, allow_unused=True)
        step = 0 if grad is None else 2.5 * eps / steps * grad.nan_to_num(0.0).sign()
        z = (x + (z.detach() + step - x).clamp(-eps, eps)).clamp(0, 1)
    return z.detach()


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images whose label is right, all in one batch."""
    return float((net(x).argmax(1) == y).double().mean())


def examined(case: Case, results: Path, *, epochs: str | None, n: int | None, autoattack: bool = False) -> Row | Refused:
    """Train, evaluate and diagnose, as far as that is not done yet."""
    settings = {**case.settings, **({"epochs": epochs} if epochs else {})}
    if case.factory:
        reference = sound.reference(case.factory)
    else:
        reference = str(train(case.defense, dataset=case.dataset, settings=settings, results=results, quiet=True))
    try:
        card, _ = evaluate(reference, dataset=case.dataset, n=n, diagnosed=True, results=results, quiet=True)
    except GauntletError as error:
        return Refused(case, str(error))
    samples = samples_of(case.dataset, [{} if case.factory else training_record(reference)], card.n)
    net = load_subject(reference, samples, case.dataset, 0).model.net
    x, y = samples.batch(torch.arange(len(samples)))
    threat = ThreatModel.parse("linf", card.threat.eps)
    with isolated(0):
        plain = accuracy(net, plain_pgd(net, x, y, threat.radius), y)

    def known(kind: str, code: Path, compute: Callable[[], Known]) -> Known:
        key = hashlib.sha256(f"{reference} {card.n} {threat} {code.read_text()}".encode()).hexdigest()[:16]
        return kept(results / kind / f"{case.label.replace(':', '-')}-{key}.json", compute)

    def by_autoattack() -> float | None:
        try:
            z, _ = run_autoattack(net, x, y, threat, version="standard", seed=0, batch_size=200)
        except BadInput:
            # It cannot attack what has no gradient at all.
            return None
        return float(Judge(net, threat).correct(threat.project(z, x), y)[0].double().mean())

    truth = known(
        "truth", Path(adaptive.__file__), lambda: float(adaptive.standing(case.defense, net, x, y, threat).double().mean())
    )
    return Row(case, plain, card, truth, known("autoattack", Path(__file__), by_autoattack) if autoattack else None)


def kept(file: Path, compute: Callable[[], Known]) -> Known:
    """A number that is worked out once."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(compute()))
    found: Known = json.loads(file.read_text())
    return found


def summary(rows: Iterable[Row | Refused]) -> tuple[list[str], int]:
    """The last lines, and the exit code."""
    rows = list(rows)
    broken = [row for row in rows if row.case.broken]
    honest = [row for row in rows if not row.case.broken]
    missed = [row.case.label for row in broken if not (row.told or row.true)]
    alarms = [row.case.label for row in honest if row.told or isinstance(row, Refused)]
    untold = sum(row.true and not row.told for row in broken)
    lines = [
        f"caught {len(broken) - len(missed)} of {len(broken)} broken{named('missed', missed)}",
        f"of these {untold} by a number that is true, without a warning",
        f"false alarms {len(alarms)} of {len(honest)} sound{named('wronged', alarms)}",
    ]
    return lines, int(bool(missed or alarms))


def room(rows: Iterable[Row | Refused]) -> list[str]:
    """For every check the most that a sound network shows, beside its limit: what the limits stand on."""
    values: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        if isinstance(row, Row) and not row.case.broken and row.card.diagnosis:
            for finding in row.card.diagnosis.findings:
                if finding.value is not None and finding.threshold is not None:
                    values.setdefault(finding.check, []).append((finding.value, finding.threshold, row.case.label))
    shown = [(check, len(found), *max(found)) for check, found in values.items()]
    return [
        f"{check:<34} {count:>3} sound ones: {value:.4f} at most ({label}), limit {limit:.4f}"
        for check, count, value, limit, label in shown
    ]


def named(what: str, labels: list[str]) -> str:
    """The labels in brackets, if there are any."""
    return f" ({what}: {', '.join(labels)})" if labels else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each case, then the two counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the cases and do nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases alone")
    parser.add_argument("--mnist", action="store_true", help="the broken ones on MNIST too")
    parser.add_argument("--autoattack", action="store_true", help="what AutoAttack leaves too, which takes minutes each")
    parser.add_argument("--epochs", help="of every training; as the defenses say unless given")
    parser.add_argument("--n", type=int, help="test images of each evaluation, at most 1000 unless given")
    parser.add_argument("--results", type=Path, help="folder to keep and to go on from; a temporary one unless given")
    chosen = parser.parse_args(arguments)
    known = {case.label: case for case in cases(mnist=chosen.mnist or any(":" in name for name in chosen.only or ()))}
    if unknown := set(chosen.only or ()) - set(known):
        parser.error(f"unknown {', '.join(sorted(unknown))}; --list names the cases")
    if chosen.list:
        show(*(f"{'broken' if case.broken else 'sound':<7} {label}" for label, case in known.items()))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        show(COLUMNS.format(*HEADS))
        for label in chosen.only or known:
            home = chosen.results or Path(scratch)
            rows.append(examined(known[label], home, epochs=chosen.epochs, n=chosen.n, autoattack=chosen.autoattack))
            show(str(rows[-1]))
    lines, code = summary(rows)
    show(*lines, *room(rows))
    return code


def show(*lines: str) -> None:
    """Print at once, whoever reads."""
    print(*lines, sep="\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
