"""The data and the model that a card is about, as they are here, and whether they are those it was made with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import data
from bench.core import device
from bench.data import Dataset
from bench.errors import BadInput, GauntletError, UnknownName
from bench.models import (
    Answers,
    Subject,
    learns_from,
    load_subject,
    require_the_images,
    same_answers,
    samples_of,
    spelt,
    training_beside,
    training_record,
)
from bench.plugins import registry
from bench.results import Card
from bench.verify.consistency import Check, Evidence, check

LEAST = 2**28
"""Bytes of data beside a card that are always read."""
SPLIT = 100
"""Times the samples of a card that the split they were taken from holds, at most."""

OUTCOME = ("seed", "epochs", "best_epoch", "collapse_epoch", "samples", "validation")
"""What of the outcome of a training is the same on every machine."""


class Given(NamedTuple):
    """What the user says beside the card."""

    model: str | None = None
    dataset: str | None = None
    device: str = "auto"
    batch_size: int | None = None


class NotHere(GauntletError):
    """What a card needs in order to be checked and what this machine has not; nothing is wrong with the card."""


def load_data(card: Card, path: Path, evidence: Evidence, given: Given, checks: list[Check]) -> Dataset | None:
    """The samples of a card, where they are those that it was made on."""
    try:
        named = data_of(card, path, given)
        if named not in data.CLASSES and not (Path(named).is_dir() or Path(named).is_file()):
            raise NotHere(f"data {named!r} is not here; name it with --dataset")
        whole = data.load(named, card.data.split, None if given.dataset else _needed(card, evidence))
    except (GauntletError, OSError, ValueError, MemoryError) as error:
        raise NotHere(str(error) or f"the memory does not hold the data {named!r}") from None
    samples, problems = _taken(whole, card, evidence, named)
    if samples.digest != card.data.digest:
        which = f"the {card.n} samples that it took" if card.data.taken else f"the first {card.n} samples"
        problems.append(
            f"{which} of {named} {card.data.split} have the digest {samples.digest[:12]}, "
            f"the card says {card.data.digest[:12]}: it is of other data than it names"
        )
    if evidence.samples and not problems:
        for key, own in (("ids", samples.ids), ("labels", samples.y)):
            if not torch.equal(getattr(evidence.samples, key), own):
                problems.append(f"the {key} of the records are not those of the first {card.n} samples of {named}")
    checks.append(check("data", problems, f"{named} {card.data.split}, {samples.source}"))
    return None if problems else samples.to(device.pick(given.device))


def _taken(whole: Dataset, card: Card, evidence: Evidence, named: str) -> tuple[Dataset, list[str]]:
    """The samples that a card took out of a split, as far as they are there."""
    if len(whole) < card.n:
        return whole, [f"{named} {card.data.split} holds {len(whole)} samples, the card says {card.n}"]
    if not card.data.taken:
        return whole.first(card.n), []
    prescribed = whole.take(card.n)
    if prescribed.taken == card.data.taken or evidence.samples is None:
        return prescribed, []
    # A choice that depends on what the model was trained on; the digest says whether these are its samples.
    ids = evidence.samples.ids
    order = whole.ids.argsort()
    at = torch.searchsorted(whole.ids[order], ids).clamp_max(len(whole) - 1)
    if not torch.equal(whole.ids[order][at], ids):
        return prescribed, [f"the records hold ids that {named} {card.data.split} has not"]
    return whole.select(order[at]), []


def load_model(card: Card, path: Path, samples: Dataset, given: Given, checks: list[Check]) -> Subject | None:
    """The model of a card, where it is the one that was evaluated."""
    reference = given.model or _reference(card, path)
    problems, under, named = [], None, data_of(card, path, given)
    try:
        trained = training_record(reference)
        problems += [
            f"{reference} is another model than the one evaluated: other {what} in its train.json"
            for what in (_otherwise(card, trained) if trained else ())
        ]
        if not isinstance(trained.get("name", ""), str):
            problems.append("its name in train.json is no text")
        # What train.json says is carried out only as far as the card says it too.
        if not problems:
            if trained:
                require_the_images(trained)
            if source := learns_from(trained, card.model.test_time, named):
                _check_named(source, named)
            under = load_subject(reference, samples.to("cpu"), named, card.seed, card.model.test_time, trained)
    except NotHere:
        raise
    except UnknownName as error:
        raise NotHere(f"{error}; a file of your own is loaded with --plugin") from None
    except GauntletError as error:
        if given.model or reference.startswith("robustbench:"):
            raise NotHere(str(error)) from None
        problems.append(str(error))
    if under:
        problems += _differences(card, under, reference, named_here=bool(given.model))
        if not problems and not _explained(card, samples, trained or training_beside(reference), named):
            problems.append("the samples are a choice that neither a seed nor what the model was trained on explains")
    checks.append(check("model", problems, f"{reference}, {card.model.digest[:12]}"))
    return None if problems else under


def _otherwise(card: Card, trained: dict[str, Any]) -> Iterator[str]:
    """What the record of a training says otherwise than a card, but for the time and the machine that it took."""
    for key in ("defense", "settings", "arch"):
        if key in trained and trained[key] != getattr(card.model, key):
            yield key
    for key in OUTCOME:
        if trained["training"].get(key) != card.model.training.get(key):
            yield f"{key} of the training"


def _differences(card: Card, under: Subject, reference: str, *, named_here: bool) -> Iterator[str]:
    """The first thing in which a model is not the one of a card."""
    if under.model.digest != card.model.digest:
        yield (
            f"the weights have the digest {under.model.digest[:12]}, the card says {card.model.digest[:12]}: "
            f"{reference} is another model than the one evaluated"
        )
    elif card.model.answers and not under.answers.digest:
        yield f"the card tells {reference} apart by its answers, which its weights settle: it poses as another model"
    elif card.model.test_time != spelt(card.model.test_time):
        yield f"its test-time defense is written {card.model.test_time[:80]!r}, which is {spelt(card.model.test_time)!r}"
    elif card.wrapper != (around := _wrapper(under)):
        yield f"the card says that {card.wrapper or 'nothing'} stands around the network, and it is {around or 'nothing'}"
    elif not same_answers(under.answers, Answers(card.model.answers, card.model.leads)):
        yield (
            f"{reference} answers otherwise than the model evaluated, with the same weights and code: something else that its "
            "code reads has changed"
        )
    elif other := _other_code(card, under):
        yield f"the code of defense {other!r} is another than the one evaluated; check out the plug-in as it was"
    elif under.batch_dependent and not card.batch_dependent:
        yield "its answer to an image depends on the others in the batch, and the card does not say so"
    elif not named_here and under.model.arch != card.model.arch:
        yield f"the network is {under.model.arch}, the card says {card.model.arch[:80]}"


def _wrapper(under: Subject) -> str:
    """The defense of ours that a model was trained with, where it answers otherwise with it."""
    name = under.trained.get("defense", "")
    return name if name and not registry.code("defense", name) and registry.get_defense(name).answers_otherwise() else ""


def _explained(card: Card, samples: Dataset, trained: dict[str, Any], named: str) -> bool:
    """Whether the samples of a card are those that an evaluation of this model takes, where they are not plainly the first."""
    if not card.data.taken or samples.taken == card.data.taken:
        return True
    _check_opened(trained, named)
    try:
        found = samples_of(named, [trained], card.n)
    except BadInput:
        return False
    return (found.digest, found.taken) == (card.data.digest, card.data.taken)


def _other_code(card: Card, under: Subject) -> str:
    """The name of a defense whose plug-in has changed since the evaluation; empty where none has, or the card does not say."""
    codes = {
        defense.name: (card.code.get(f"defense {defense.name}"), registry.code("defense", defense.name))
        for defense in under.defenses
    }
    return next((name for name, (then, now) in codes.items() if then and then != now), "")


def data_of(card: Card, path: Path, given: Given) -> str:
    """The data of a card: what the user names, else a named set, or what lies below the card's folder."""
    if given.dataset:
        return given.dataset
    if card.dataset in data.CLASSES:
        return card.dataset
    if (found := _below(path, card.dataset)) is None:
        raise NotHere(
            f"its data are not here: {card.dataset[:200]!r} is neither a named set nor below the card's folder, and a card "
            f"opens none elsewhere; name them if they are yours: {_option('dataset', card.dataset)}"
        )
    return str(found)


def _needed(card: Card, evidence: Evidence) -> int:
    """Bytes that the split of a card can take, by the number of its samples and the shape of its examples."""
    shape = next((proof.z.shape[1:] for proof in evidence.proofs if len(proof.ids)), torch.Size([3, 224, 224]))
    return max(LEAST, SPLIT * card.n * shape.numel() * 4)


def _below(card: Path, text: str) -> Path | None:
    """What a card names, by the path from its folder or from here, where that lies below its folder, links followed."""
    home = card.resolve().parent
    for place in (home / text, Path(text)):
        try:
            found = place.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # absent, no path at all, a circle of links
            continue
        if home in found.parents:
            return found
    return None


def _option(name: str, value: str) -> str:
    """What to add to the command."""
    return f"--{name} {shlex.quote(value[:200])}"


def _check_opened(trained: dict[str, Any], named: str) -> None:
    """NotHere where telling what a training saw would open data that only its record names."""
    if trained and data.remembered(trained["folder"]) is None:
        _check_named(str(trained.get("dataset", "")), named)


def _check_named(dataset: str, named: str) -> None:
    """NotHere where data would be opened that nobody but a record names."""
    if dataset not in (*data.CLASSES, named) and Path(dataset).absolute() != Path(named).absolute():
        raise NotHere(f"its model was trained on {dataset[:200]!r}, which is opened only when you name it, with --dataset")


def weights_of(card: Card) -> list[str]:
    """The files of a run folder that its weights may be in, the one that counts first."""
    query = card.model.reference.partition("?")[2]
    named = dict(part.partition("=")[::2] for part in query.split("&")).get("weights")
    return [f"{named}.safetensors"] if named else ["ensemble.safetensors", "best.safetensors"]


def _reference(card: Card, path: Path) -> str:
    """Where the model of a card is: a run is the folder that the card lies below, and code runs only when it is named."""
    kind, _, rest = card.model.reference.partition(":")
    if kind == "py":
        raise NotHere(f"its model is code, which runs only when you name it: {_option('model', card.model.reference)}")
    if kind == "robustbench":
        raise NotHere(f"its model is downloaded, which is done only when you name it: {_option('model', card.model.reference)}")
    if kind != "run":
        text, mark, query = card.model.reference.removeprefix("ckpt:").partition("?")
        if (file := _below(path, text)) is None or not file.is_file():
            raise NotHere(
                f"its weights are not here: {text[:200]!r} is no file below the card's folder, and a card opens none "
                f"elsewhere; name it if it is yours: {_option('model', card.model.reference)}"
            )
        return f"ckpt:{file}{mark}{query}"
    folder = path.resolve().parent.parent
    query, wanted = rest.partition("?")[2], weights_of(card)
    if not (folder / "train.json").is_file() or not any((folder / file).is_file() for file in wanted):
        raise NotHere(
            f"its weights are not here: no train.json with {wanted[-1]} in {folder}; train it, or name it with --model"
        )
    return f"run:{folder}" + (f"?{query}" if query else "")
