"""Whether what a card says is so: its files, its arithmetic and, with the model and the data, every example; no attack is run.

A row that cannot be checked, because its weights or its data are not here, is told and is no failure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from bench import escape
from bench.core import ThreatModel, device
from bench.errors import BadInput, out_of_memory
from bench.files import Reporter, below
from bench.results import Card, read_card
from bench.verify.consistency import UNLISTED, Check, Evidence, check, read_evidence
from bench.verify.loading import Given, NotHere, load_data, load_model
from bench.verify.plan_names import plan_note
from bench.verify.recheck import Examined, Jury

FIRST = 5
"""Samples that are named where more than that fail."""
NEAR = 0.75
"""Share of the ball that attacks usually reach; examples that all lie deeper were perhaps made for a smaller one."""


class Verified(NamedTuple):
    """What holds of one card."""

    path: Path
    card: Card | None
    checks: list[Check]
    robust: float | None = None
    """Robust accuracy as the examples that hold prove it."""
    examples: int = 0
    holding: int | None = None
    surviving: int | None = None
    """Examples that hold as images of 8 bits too."""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """holds, fails or not checked."""
        if any(found.ok is False for found in self.checks):
            return "fails"
        return "not checked" if any(found.ok is None and not found.apart for found in self.checks) else "holds"


class Case(NamedTuple):
    """A card with everything that judges it."""

    card: Card
    evidence: Evidence
    jury: Jury


def cards_of(places: Sequence[Path]) -> list[Path]:
    """The cards that these files and folders name."""
    paths = [path for place in places for path in (below(place, "card.json") if place.is_dir() else [place])]
    if missing := [path for path in paths if not os.path.lexists(path)]:
        raise BadInput(f"there is no card at {missing[0]}; give a card.json or a folder that holds some")
    if not paths:
        raise BadInput(f"no card.json below {', '.join(map(str, places))}; `gauntlet evaluate` writes them")
    return list(dict.fromkeys(paths))


def verify_cards(places: Sequence[Path], given: Given, *, quiet: bool = False) -> list[Verified]:
    """Check every card that these files and folders name."""
    paths = cards_of(places)
    with Reporter("verify", len(paths), quiet=quiet) as report, device.exact_float32():
        rows = []
        for path in paths:
            rows.append(verify_card(path, given))
            report.advance(1, f"{path}: {rows[-1].verdict}")
    return rows


def verify_card(path: Path, given: Given) -> Verified:
    """Check one card."""
    try:
        card = read_card(path)
    except BadInput as error:
        return Verified(path, None, [Check("card", False, (str(error),))])
    return judged(card, path, given)[0]


def judged(card: Card, path: Path, given: Given) -> tuple[Verified, Case | None]:
    """What holds of a card, and what is needed to judge more examples; None where it could not be checked."""
    evidence = read_evidence(card, path.parent)
    checks, robust = [*evidence.checks], None
    found: list[Examined] = []
    case = None
    try:
        samples = load_data(card, path, evidence, given, checks)
        under = load_model(card, path, samples, given, checks) if samples else None
        there = len(evidence.proofs) == 1 + len(card.additions)
        if samples and under and evidence.samples and there:
            threat = ThreatModel.parse(card.threat.norm, card.threat.eps)
            batch_size = given.batch_size or (256 if samples.x.device.type == "cpu" else 1024)
            case = Case(card, evidence, Jury(under, samples, threat, card.archive.sha256, batch_size))
            robust, found = _in_memory(case, checks)
    except NotHere as error:
        checks.append(Check("not checked", None, (str(error),)))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        case = None
        checks.append(Check("not checked", None, ("there is not memory enough for its model and its data",)))
    notes = _notes(card, found)
    if not found:
        return Verified(path, card, checks, examples=sum(len(proof.ids) for proof in evidence.proofs), notes=notes), None
    holding, surviving = (torch.cat([getattr(one, key) for one in found]) for key in ("holds", "survives"))
    return Verified(path, card, checks, robust, len(holding), int(holding.sum()), int(surviving.sum()), notes), case


def _in_memory(case: Case, checks: list[Check]) -> tuple[float, list[Examined]]:
    """Judge in batches that the memory holds."""
    while True:
        found: list[Check] = []
        try:
            judgement = _examples(case, found)
        except (RuntimeError, MemoryError) as error:
            if case.jury.batch_size == 1 or not out_of_memory(error):
                raise
            case.jury.batch_size //= 2
            continue
        checks += found
        return judgement


def _examples(case: Case, checks: list[Check]) -> tuple[float, list[Examined]]:
    """Judge the clean images and every example; robust accuracy as they prove it."""
    card, evidence, jury = case.card, case.evidence, case.jury
    assert evidence.samples is not None
    shape = jury.data.shape
    unlike = [
        f"{proof.file} holds images of {tuple(proof.z.shape[1:])}, the data {shape}"
        for proof in evidence.proofs
        if proof.z.shape[1:] != shape
    ]
    if unlike:
        checks.append(check("examples", unlike, ""))
        return card.robust_accuracy, []
    clean = jury.clean(evidence.samples)
    found = [jury.examine(proof) for proof in evidence.proofs]
    standing, faults = clean.right.clone(), list[str]()
    for proof, one in zip(evidence.proofs, found, strict=True):
        faults += [f"sample {sample}: {fault}" for sample, fault in one.problems.items()]
        standing[torch.isin(evidence.samples.ids, proof.ids[one.holds])] = False
    why = [told] if (clean.problems or faults) and (told := jury.unsteady(evidence.samples, clean)) else []
    otherwise = [] if jury.noisy else [f"the card says {card.clean_accuracy:.2%}, and it is {clean.now / card.n:.2%} now"]
    wrong = [*why, *otherwise, *_first(clean.problems)] if clean.problems else []
    checks.append(check("clean accuracy", wrong, clean.seen))
    checks.append(check("examples", [*why, *_first(faults)] if faults else [], _seen(found, jury.noisy)))
    robust = int(standing.sum()) / card.n
    less = f"the card says {card.robust_accuracy:.2%}, the examples that hold prove {robust:.2%}"
    holds = int(standing.sum()) == round(card.robust_accuracy * card.n)
    checks.append(check("robust accuracy", [] if holds else [less], f"{robust:.2%}, as the examples prove it"))
    if evidence.unlisted:
        robust = _lowered(case, standing, checks)
    if card.eight_bit_accuracy is not None and not jury.noisy:
        checks.append(_eight_bits(card, card.eight_bit_accuracy, clean.right, found))
    return robust, found


def _lowered(case: Case, standing: torch.Tensor, checks: list[Check]) -> float:
    """Robust accuracy once the examples count that the card does not list."""
    samples, shape = case.evidence.samples, case.jury.data.shape
    assert samples is not None
    before = int(standing.sum())
    for proof in (proof for proof in case.evidence.unlisted if tuple(proof.z.shape[1:]) == tuple(shape)):
        holds = case.jury.examine(proof, strict=True).holds
        standing = standing & ~torch.isin(samples.ids, proof.ids[holds])
    count, now = before - int(standing.sum()), int(standing.sum()) / case.card.n
    told = f"examples that the card does not list break {count} samples that it counts as standing: {now:.2%} at most"
    checks.append(Check(UNLISTED, False, (told if count else "what the card does not list breaks nothing that stands",)))
    return now


def _eight_bits(card: Card, said: float, right: torch.Tensor, found: Sequence[Examined]) -> Check:
    """Whether so many examples survive as images of 8 bits as the card says, up to ties."""
    left = int(right.sum()) - sum(int(one.survives.sum()) for one in found)
    wrong = abs(left - round(said * card.n)) > sum(one.ties + one.eight_ties for one in found)
    told = f"the card says {said:.2%}, and it is {left / card.n:.2%} now"
    return check("8-bit accuracy", [told] if wrong else [], f"{left / card.n:.2%}")


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - FIRST
    return problems[:FIRST] + ([f"and {more} more"] if more > 0 else [])


def _seen(found: Sequence[Examined], noisy: bool) -> str:
    held, sure, ties = (sum(part) for part in zip(*((int(o.holds.sum()), o.confirmed, o.ties) for o in found), strict=True))
    told = f"{held} lie in the ball and the box and fool the network"
    if noisy:
        return f"{told}, {sure} of them confirmed by a majority of fresh answers"
    return told + (f", {ties} of them by no more than rounding decides" if ties else "")


def _notes(card: Card, found: Sequence[Examined]) -> tuple[str, ...]:
    """What a reader should know though nothing contradicts it."""
    notes = [plan_note(card)]
    if sum(len(one.holds) for one in found) >= 20 and (reach := max(one.reach for one in found)) < NEAR:
        notes.append(f"no example goes further than {reach:.0%} of the ball; was it made for a smaller one?")
    return tuple(note for note in notes if note)


def exit_code(rows: Sequence[Verified], *, strict: bool = False) -> int:
    """1 where anything fails, 2 where nothing could be checked, else 0; strict: 1 where anything could not be checked."""
    verdicts = {row.verdict for row in rows}
    if strict:
        return int(verdicts != {"holds"} or not all(found.ok for row in rows for found in row.checks))
    return 1 if "fails" in verdicts else 2 if verdicts == {"not checked"} else 0


def render(rows: Sequence[Verified]) -> str:
    """A row per card; below it what was checked of a single card, and of many what does not hold."""
    table = [
        [
            str(row.path),
            _percent(row.card.robust_accuracy if row.card else None),
            _percent(row.robust),
            _of(row.holding, row.examples),
            _of(row.surviving, row.examples),
            row.verdict,
        ]
        for row in rows
    ]
    headers = ["card", "robust", "verified", "examples hold", "8-bit", "verdict"]
    lines = [str(tabulate(table, headers=headers, tablefmt="simple", disable_numparse=True))]
    for row in rows:
        shown = [found for found in row.checks if len(rows) == 1 or not found.ok]
        if shown or row.notes:
            lines += ["", str(row.path)] if len(rows) > 1 else [""]
        width = max((len(found.name) for found in shown), default=0)
        for found in shown:
            state = {True: "holds", False: "FAILS", None: "-"}[found.ok]
            lines += [f"  {found.name:{width}}  {state:5}  {told}" for told in found.told]
        lines += [f"  note: {note}" for note in row.notes]
    return "\n".join(map(escape.lines, lines))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _of(part: int | None, whole: int) -> str:
    return "-" if part is None else f"{part} of {whole}"


def to_json(rows: Sequence[Verified]) -> str:
    """The same for a machine; accuracies as fractions."""
    content: list[dict[str, Any]] = [
        {
            "card": str(row.path), "verdict": row.verdict, "robust_accuracy": row.card.robust_accuracy if row.card else None,
            "verified_accuracy": row.robust, "examples": row.examples, "holding": row.holding, "surviving_8_bit": row.surviving,
            "checks": [found._asdict() for found in row.checks], "notes": row.notes,
        }
        for row in rows
    ]  # fmt: skip
    return json.dumps(content, indent=2)
