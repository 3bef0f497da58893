"""Better adversarial examples for a card that is there: checked, attributed and written beside it. A row can only go down."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.core import check_name, device
from bench.errors import BadInput
from bench.escape import line
from bench.files import Reporter, alone
from bench.results import ADDED, MOST, SCHEMA, Addition, Card, read_card, read_examples, write_archive
from bench.statistics import wilson
from bench.verify import measured
from bench.verify.cards import FIRST, Case, Verified, cards_of, judged, to_json
from bench.verify.cards import render as show
from bench.verify.consistency import ATTEMPTS, UNLISTED, Proof
from bench.verify.loading import Given
from bench.verify.recheck import Examined

FEWEST = 100_000
"""Examples that a file may hold, whatever the number of samples."""


class Added(NamedTuple):
    """What came of handing in examples."""

    before: Verified
    """The card as it was."""
    card: Card | None
    """The card as it is now; None where it stayed."""
    told: list[str]


def add(place: Path, file: Path, by: str, given: Given, *, quiet: bool = False) -> Added:
    """Lower a row by the examples of a file that break samples which still stood."""
    try:
        check_name(by)
    except ValueError as error:
        raise BadInput(f"--by {by!r}: {error}") from None
    paths = cards_of([place])
    if len(paths) > 1:
        raise BadInput(f"there are {len(paths)} cards below {place}; examples are added to one, such as {paths[0]}")
    path = paths[0]
    with Reporter("verify", 1, quiet=quiet) as report, alone(path.parent, report.say), device.exact_float32():
        card = read_card(path)
        before, case = judged(card, path, given)
        # What the card does not list is no hindrance: handing it in is how that is put right.
        # Nor that nothing fell so far, nor measures, on which its number does not rest.
        if case is None or not all(found.ok or found.name in (UNLISTED, ATTEMPTS, measured.NAME) for found in before.checks):
            return Added(before, None, ["the card has to hold before anything is added to it"])
        shape = case.jury.data.shape
        proof = Proof(str(file), *read_examples(file, shape, min(max(FEWEST, card.n), MOST)))
        found = case.jury.examine(proof, strict=True)
        lowered, told = _lowered(case, path, proof, found, by)
    return Added(before, lowered, told)


def _lowered(case: Case, path: Path, proof: Proof, found: Examined, by: str) -> tuple[Card | None, list[str]]:
    """Write what breaks a sample that stood, and the card with it; why not where nothing does."""
    card, samples = case.card, case.evidence.samples
    assert samples is not None
    fallen = torch.cat([samples.ids[~samples.clean], *(old.ids for old in case.evidence.proofs)])
    new = found.holds & ~torch.isin(proof.ids, fallen)
    idle = {int(sample): "has fallen already" for sample in proof.ids[found.holds & ~new]}
    told = _reasons({**found.problems, **idle})
    if not bool(new.any()):
        return None, [f"none of {len(proof.ids)} examples lowers the row; nothing was written", *told]
    about = {
        "dataset": card.dataset, "split": card.data.split, "data_digest": card.data.digest, "model_digest": card.model.digest,
        "norm": card.threat.norm, "eps": card.threat.eps, "by": by,
    }  # fmt: skip
    kept = write_archive(_place(case, path.parent, torch.cat([fallen, proof.ids[new]])), proof.ids[new], proof.z[new], about)
    stood, broken = round(card.robust_accuracy * card.n), int(new.sum())
    eight = card.eight_bit_accuracy
    lowered = card.model_copy(
        update={
            "schema_version": SCHEMA,
            "robust_accuracy": (stood - broken) / card.n,
            "interval": wilson(stood - broken, card.n),
            "eight_bit_accuracy": eight and (round(eight * card.n) - int(found.survives[new].sum())) / card.n,
            **_by_class(card, samples.ids, samples.labels, proof.ids[new]),
            "additions": (*card.additions, Addition(by=by, broken=broken, archive=kept)),
        }
    )
    lowered.save(path)
    now = f"{card.robust_accuracy:.2%} -> {lowered.robust_accuracy:.2%}"
    return lowered, [f"robust accuracy {now}: {broken} more broken, by {by}, in {kept.file}", *told]


def _place(case: Case, folder: Path, fallen: Tensor) -> Path:
    """The first name that is free, or whose examples are all of samples that have fallen otherwise."""
    idle = {old.file for old in case.evidence.unlisted if bool(torch.isin(old.ids, fallen).all())}
    names = (f"{ADDED}{number:03d}.safetensors" for number in count(len(case.card.additions) + 1))
    return folder / next(name for name in names if name in idle or not os.path.lexists(folder / name))


def _by_class(card: Card, ids: Tensor, labels: Tensor, broken: Tensor) -> dict[str, Any]:
    """What a card says of single classes, once these samples are broken too."""
    if not card.classes:
        return {}
    lost = labels[torch.isin(ids, broken)].tolist()
    classes = tuple(
        row.model_copy(update={"robust_accuracy": (round(row.robust_accuracy * row.n) - lost.count(row.label)) / row.n})
        for row in card.classes
    )
    return {"classes": classes, "balanced_robust_accuracy": sum(row.robust_accuracy for row in classes) / len(classes)}


def _reasons(problems: dict[int, str]) -> list[str]:
    told = [f"sample {sample}: {reason}" for sample, reason in list(problems.items())[:FIRST]]
    return told + ([f"and {len(problems) - FIRST} more"] if len(problems) > FIRST else [])


def render(added: Added, *, as_json: bool = False) -> str:
    """What was added; of a card that does not hold by itself, why."""
    if as_json:
        row = json.loads(to_json([added.before]))[0]
        now = added.card.robust_accuracy if added.card else None
        return json.dumps({**row, "lowered_to": now, "told": added.told}, indent=2)
    lines = [] if added.before.verdict == "holds" else [show([added.before]), ""]
    return "\n".join([*lines, *map(line, added.told)])
