"""What a card and the files beside it say of one another; for that neither the model nor the data are needed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.errors import BadInput
from bench.files import regular, sha256
from bench.results import (
    LARGEST,
    Card,
    FileInfo,
    Outcomes,
    check_outcomes,
    check_samples,
    clean_rows,
    read_archive,
    read_records,
    suffix,
    unlisted,
)
from bench.statistics import wilson
from bench.verify import by_class, carried_out, measured

UNLISTED = "unlisted"
"""The check of files that were handed in and that the card does not list."""
JUDGED = 16
"""How many of them are judged at most; one makes a row fail."""


FALLS = "fall here that the records say stood"
"""What an audit says of samples, and what whoever accepts the row is told."""
ATTEMPTS = "attempts"
"""The check of a row in which nothing fell."""
_UNTOUCHED = "no attack broke a single sample, so nothing here proves that one was run; attack some again with --rerun"


class Check(NamedTuple):
    """One thing that was checked."""

    name: str
    ok: bool | None
    """None where it could not be checked."""
    told: tuple[str, ...]
    """What is wrong, or what was seen."""

    @property
    def apart(self) -> bool:
        """Whether it could not be made, and is of nothing that the number of the row rests on."""
        return self.ok is None and self.name == measured.NAME


def check(name: str, problems: Sequence[str], seen: str) -> Check:
    """Held where there are no problems."""
    return Check(name, not problems, tuple(problems) or (seen,))


class Proof(NamedTuple):
    """Examples that are to break samples."""

    file: str
    ids: Tensor
    z: Tensor


class Samples(NamedTuple):
    """The samples of the records, in order."""

    ids: Tensor
    labels: Tensor
    clean: Tensor
    """Which are right on the clean image, bool [n]."""


class Evidence(NamedTuple):
    """What the files of a card say, as far as they can be read."""

    checks: list[Check]
    samples: Samples | None
    proofs: list[Proof]
    """The archive, then the additions."""
    unlisted: list[Proof]
    """What was handed in, lies beside the card and is not listed by it, as far as it can be read."""
    contradictions: tuple[str, ...] = ()
    """Where the card contradicts itself or records that are its own, as `contradictions` tells."""
    outcomes: Outcomes | None = None
    """As `outcomes_of` reads them; None where the records or additions are missing or not the card's."""
    records: pd.DataFrame | None = None
    """Whatever lies in their place and can be read."""

    @property
    def proved(self) -> bool:
        """Whether the examples are the card's own, and one for each sample that its records count as broken."""
        about = [found for found in self.checks if found.name.partition(" ")[0] in ("archive", "archives", "header")]
        return bool(about) and all(found.ok for found in about)


def read_evidence(card: Card, folder: Path) -> Evidence:
    """Read everything beside a card, and check all that can be checked without the model and the data."""
    told = [*_arithmetic(card)]
    checks = [check("card", told, f"its numbers fit each other, n = {card.n}")]
    samples, fallen, rows = None, None, None
    problems = _whole(folder, card.records)
    own = not problems
    # A file that is not here proves nothing; another one in its place is a sign.
    harmed = [*problems] if (folder / card.records.file).exists() else []
    at_odds: list[str] = []
    try:
        rows = read_records(folder / card.records.file)
        problems += (at_odds := [*check_samples(card, rows)])
        first = clean_rows(rows)
        if len(first) == card.n and first["id"].is_unique:
            ids, labels, wrong = (first[key].to_numpy() for key in ("id", "label", "broken"))
            follows, fallen = check_outcomes(card, rows, ids, ~wrong)
            checks.append(check("outcomes", follows, "every number of the card follows from the records"))
            planned = [*carried_out.problems(card, rows, ids, ~wrong)]
            at_odds = at_odds or [*follows, *planned]
            checks.append(check("attacks", planned, "every run that the plan asks for is in the records"))
            if not card.archive.rows and not card.additions and bool((~wrong).any()):
                checks.append(Check(ATTEMPTS, None, (_UNTOUCHED,)))
            samples = Samples(*(torch.tensor(part) for part in (ids, labels, ~wrong)))
    except BadInput as error:
        problems.append(str(error))
        at_odds = [str(error)]
    checks.insert(1, check("records", problems, f"{card.records.rows} rows, as they were written"))
    proofs, archives = _archives(card, folder, None if samples is None else samples.ids[torch.from_numpy(fallen)])
    checks += archives
    if samples is not None and card.additions:
        standing = samples.ids[samples.clean & ~torch.from_numpy(fallen)]
        checks += [_additions(card, proofs[1:], standing)] if len(proofs) == 1 + len(card.additions) else []
    there = not card.additions or len(proofs) == 1 + len(card.additions)
    if samples is not None and fallen is not None and there and by_class.told(card):
        lost = torch.isin(samples.ids, torch.cat([samples.ids[:0], *(proof.ids for proof in proofs[1:])]))
        stands = samples.clean & ~torch.from_numpy(fallen) & ~lost
        problems = by_class.problems(card, samples.labels.numpy(), samples.clean.numpy(), stands.numpy())
        checks.append(check("classes", problems, "accuracies per class follow from the records"))
    checks += [_measures(card, folder)] if card.measures else []
    undone, sentence = _undone(card, folder)
    checks += [Check(UNLISTED, False, (sentence,))] if sentence else []
    told = told + ([sentence] if sentence else []) or (at_odds if own else harmed)
    whole = own and not at_odds and samples is not None and there and all(found.ok for found in archives[2:])
    outcomes = _outcomes(card, folder, samples, fallen, proofs) if whole else None
    return Evidence(checks, samples, proofs, undone, tuple(told), outcomes, rows)


def _outcomes(card: Card, folder: Path, samples: Samples | None, fallen: Any, proofs: Sequence[Proof]) -> Outcomes:
    """What happened to every sample, in the order of their ids."""
    assert samples is not None
    ids, labels, clean = (part.numpy() for part in samples)
    order = np.argsort(ids, kind="stable")
    planned = clean & ~fallen
    lost = np.concatenate([ids[:0], *(proof.ids.numpy() for proof in proofs[1:])])
    robust = planned & ~np.isin(ids, lost)
    return Outcomes(card, folder / "card.json", ids[order], labels[order], clean[order], planned[order], robust[order])


def proved(outcomes: Outcomes) -> bool:
    """Whether the examples beside a card are its own, and one for each sample that its records count as broken; whether they
    fool the model, only the model can say."""
    broken = torch.from_numpy(outcomes.ids[outcomes.clean & ~outcomes.planned])
    return all(found.ok for found in _archives(outcomes.card, outcomes.path.parent, broken)[1])


def contradictions(card: Card, folder: Path) -> list[str]:
    """Where a card contradicts itself, or the files beside it that are its own; archives are not opened."""
    if told := [*_arithmetic(card), *_present(card, folder)]:
        return told
    if not _whole(folder, card.records):
        try:
            rows = read_records(folder / card.records.file)
            told += check_samples(card, rows)
            first = clean_rows(rows)
            if not told:
                ids, wrong = first["id"].to_numpy(), first["broken"].to_numpy()
                told += [*check_outcomes(card, rows, ids, ~wrong)[0], *carried_out.problems(card, rows, ids, ~wrong)]
        except BadInput as error:
            told.append(str(error))
    return told


def _arithmetic(card: Card) -> Iterator[str]:
    """Where the numbers of a card contradict each other."""
    n, added = card.n, sum(addition.broken for addition in card.additions)
    yield from _share("clean accuracy", card.clean_accuracy, card.clean_interval, n)
    yield from _share("robust accuracy", card.robust_accuracy, card.interval, n)
    for attack in card.attacks:
        yield from _share(attack.name, attack.robust_accuracy, attack.interval, attack.n)
    for point in card.curve:
        yield from _share(f"robust accuracy at {point.eps}", point.robust_accuracy, point.interval, n)
    if card.certified:
        yield from _share("certified accuracy", card.certified.accuracy, card.certified.interval, card.certified.n)
    broken = round(card.clean_accuracy * n) - round(card.robust_accuracy * n)
    if broken != card.archive.rows + added:
        yield f"{broken} samples are right and broken, and the archives hold {card.archive.rows + added} examples"
    eight = card.eight_bit_accuracy
    if eight is not None and not (_multiple(eight, n) and card.robust_accuracy <= eight <= card.clean_accuracy):
        yield f"the 8-bit accuracy {eight} is no share of {n} between the robust and the clean accuracy"
    if card.data.split not in ("test", "all"):
        yield f"the samples are of the split {card.data.split!r}; a row is measured on test samples"
    if card.plan.digest != card.plan_digest:
        yield f"plan: the digest of the plan is {card.plan.digest[:12]}, the card says {card.plan_digest[:12]}"
    balls = max(len(card.curve), 1)
    wanted = [spec.label + suffix(card, ball) for ball in range(balls) for spec in card.plan.attacks]
    if (found := [attack.name for attack in card.attacks]) != wanted:
        yield f"plan: the attacks are {', '.join(found) or 'none'}, and its plan has {', '.join(wanted)}"


def _share(name: str, value: float, interval: tuple[float, float], n: int) -> Iterator[str]:
    if not _multiple(value, n):
        yield f"{name}: {value} is no share of {n} samples"
    elif not np.allclose(interval, wilson(round(value * n), n), rtol=0, atol=1e-9):
        yield f"{name}: {interval[0]:.4f}-{interval[1]:.4f} is not the interval of {round(value * n)} in {n}"


def _multiple(value: float, n: int) -> bool:
    return abs(value * n - round(value * n)) < 1e-6


def _whole(folder: Path, file: FileInfo) -> list[str]:
    """Whether a file is the one that the card names."""
    try:
        regular(folder / file.file, LARGEST)
        found = sha256(folder / file.file)
    except (BadInput, OSError) as error:
        return [str(error)]
    if found == file.sha256:
        return []
    return [f"{file.file} is not the file of the card: its sha256 is {found[:12]}, the card says {file.sha256[:12]}"]


def _archives(card: Card, folder: Path, broken: Tensor | None) -> tuple[list[Proof], list[Check]]:
    """The examples beside a card, as far as they can be read; whether they are those of the samples it counts as broken."""
    proofs, checks = [], []
    files = [card.archive, *(addition.archive for addition in card.additions)]
    if twice := [name for name, count in Counter(file.file for file in files).items() if count > 1]:
        # Not read that many times: their examples would be of the same samples.
        return [], [Check("archives", False, (f"{twice[0]} is listed more than once; a file is one addition",))]
    for number, file in enumerate(files):
        name = f" of addition {number}" if number else ""
        if not os.path.lexists(folder / file.file):
            checks.append(Check(f"archive{name}", None, (f"{file.file} is not here; put it beside the card",)))
            continue
        problems, header = _whole(folder, file), []
        try:
            ids, z, about = read_archive(folder / file.file, None, card.n)
            proofs.append(Proof(file.file, ids, z))
            if len(ids) != file.rows:
                problems.append(f"{file.file} holds {len(ids)} examples, the card says {file.rows}")
            if broken is not None and number == 0:
                problems += _coverage(set(broken.tolist()), set(ids.tolist()))
            header = _header(card, about, file.file)
        except BadInput as error:
            proofs.append(Proof(file.file, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1, 1)))
            problems.append(str(error))
        checks.append(check(f"archive{name}", list(dict.fromkeys(problems)), f"{file.rows} examples, a sample each"))
        checks.append(check(f"header{name}", header, "made for the data, the model and the threat of the card"))
    return proofs, checks


def _coverage(broken: set[int], proven: set[int]) -> list[str]:
    missing, extra = sorted(broken - proven), sorted(proven - broken)
    told = []
    if missing:
        told.append(f"sample {some(missing)} counted as broken without an example")
    if extra:
        told.append(f"sample {some(extra)} in the archive, and not right and broken by the records")
    return told


def some(ids: Sequence[int]) -> str:
    """The first samples of many, with their verb."""
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(map(str, ids[:3])) + more + (" is" if len(ids) == 1 else " are")


def _header(card: Card, about: dict[str, Any], file: str) -> list[str]:
    """Where the examples were made on something else than the card says."""
    says = {
        "dataset": card.dataset, "split": card.data.split, "data_digest": card.data.digest,
        "model_digest": card.model.digest, "norm": card.threat.norm, "eps": card.threat.eps,
    }  # fmt: skip
    return [
        f"{key.replace('_', ' ')}: the card says {value[:40]}, {file} was made for {str(about.get(key))[:40]}"
        for key, value in says.items()
        if about.get(key) != value
    ]


def _present(card: Card, folder: Path) -> list[str]:
    """A sentence where examples were handed in and the card does not list them, as one that was put back would not."""
    if not (found := unlisted(card, folder)):
        return []
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"{found[0]}{more} lies beside the card, which does not list it: either the card was put back from before these "
        "examples lowered it, or they were never added; hand them in with --add, or remove what breaks nothing that stands"
    ]


def _undone(card: Card, folder: Path) -> tuple[list[Proof], str]:
    """The examples that a card does not list, and a sentence about them."""
    proofs = []
    for name in unlisted(card, folder)[:JUDGED]:
        with suppress(BadInput):
            proofs.append(Proof(name, *read_archive(folder / name, None, card.n)[:2]))
    return proofs, "".join(_present(card, folder))


def _measures(card: Card, folder: Path) -> Check:
    """Whether the measures that the card states are those of the documents here."""
    if told := [*measured.problems(card, folder)]:
        return Check(measured.NAME, False, tuple(told))
    if gone := measured.missing(card, folder):
        return Check(measured.NAME, None, tuple(gone))
    names = ", ".join(dict.fromkeys(short.measure for short in card.measures))
    return Check(measured.NAME, True, (f"{names}: as the documents beside it say",))


def _additions(card: Card, proofs: Sequence[Proof], standing: Tensor) -> Check:
    """Whether additions are of samples that stood until then, each once."""
    left, problems = set(standing.tolist()), []
    for addition, proof in zip(card.additions, proofs, strict=True):
        ids = set(proof.ids.tolist())
        if strangers := sorted(ids - left):
            problems.append(f"{proof.file}: sample {some(strangers)} not among those that stood until then")
        if addition.broken != len(ids):
            problems.append(f"{proof.file}: {len(ids)} examples, the card says {addition.broken}")
        left -= ids
    told = ", ".join(f"{addition.broken} by {addition.by}" for addition in card.additions)
    return check("additions", problems, told)
