"""The card: everything a reader needs to judge and to repeat one evaluation."""

from __future__ import annotations

import json
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from bench.core import Name, ThreatModel
from bench.errors import BadInput, GauntletError, UnknownName
from bench.files import levels, read_json, regular, write_text
from bench.plans import Plan
from bench.plugins import get_defense
from bench.results.schema import (
    CONSTANT,
    ORDER,
    Answers,
    AttackResult,
    Certified,
    ClassResult,
    Count,
    CurvePoint,
    Diagnosis,
    Eps,
    Finding,
    Measured,
    Record,
    Sentence,
    Share,
    Verdict,
)

SCHEMA = 3
READS = (1, 2, 3)
"""Version 1 had no rounds, curves, distances or search precision, version 2 no diagnosis, additions or 8-bit accuracy; they
read as absent."""

CLASSES = 1000
"""Classes that a card tells apart at most."""
MOST_MEASURED = 64
"""Measures that a card has at most."""
CARD_BYTES, DEEPEST, VALUES = 2**22, 32, 50_000
"""What a card has at most: bytes, tables in one another, and values in all of them."""


class Threat(Record):
    """The threat model of the numbers."""

    norm: Annotated[str, Field(max_length=16)]
    eps: Eps
    """An exact fraction in input units, such as "8/255"."""


LONGEST = 1e9
"""Seconds of an evaluation at most, thirty years."""
_COUNTS = ("seed", "epochs", "best_epoch", "collapse_epoch", "samples", "validation", "peak_memory_mib")
LONGEST_TEXT = 4096
"""Characters of a text among settings."""
_NUMBERS = (*_COUNTS, "forwards_per_sample", "backwards_per_sample", "seconds", "single_step_gap")


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as a table can show them: no text in them is longer than one that somebody typed."""
    for key, value in values.items():
        if len(key) > 100 or any(map(_too_long, chain(*levels(value)))):
            raise ValueError(f"{key[:100]!r} is no setting: it holds {str(value)[:60]!r}")
    return values


def _too_long(part: Any) -> bool:
    return isinstance(part, str) and len(part) > LONGEST_TEXT


def _training(values: dict[str, Any]) -> dict[str, Any]:
    """The same of a training, whose numbers are numbers."""
    for key in _NUMBERS:
        value = values.get(key)
        whole = isinstance(value, int) or (isinstance(value, float) and key not in _COUNTS)
        low = -1 if key == "single_step_gap" else 0
        if value is not None and (isinstance(value, bool) or not whole or not low <= value <= 2**63):
            raise ValueError(f"{key} = {str(value)[:60]!r} is no number of a training")
    return _settings(values)


class ModelInfo(Record):
    """What was attacked."""

    reference: Annotated[str, Field(max_length=LONGEST_TEXT)]
    arch: Annotated[str, Field(max_length=LONGEST_TEXT)]
    digest: str
    """sha256 of names, shapes and values of all parameters and buffers."""
    defense: str | None
    settings: Annotated[dict[str, Any], AfterValidator(_settings)]
    """The defense's hyper-parameters and the training recipe, when the product trained it."""
    training: Annotated[dict[str, Any], AfterValidator(_training)]
    """Cost and history of the training in short, when the product trained it."""
    test_time: str = ""
    """A defense that was added without training."""
    answers: str = ""
    """sha256 of its float32 logits on the first samples, for a network that code builds and weights do not settle; empty for
    others, and where answers are random."""
    leads: tuple[float, ...] = ()
    """How far the first answer leads the second on these samples, which tells another network from another rounding."""


class DataInfo(Record):
    """Which samples."""

    split: str
    digest: str
    """sha256 of the images and labels of the samples evaluated."""
    source: str
    whole: str = ""
    """The same of the whole split, where the source is a user's own, whose name says nothing; empty for a named set."""
    taken: Sentence = ""
    """How the samples were taken, where they are not the first n of the split."""
    labels: dict[str, Count] = {}  # noqa: RUF012
    """Of every class by its name, where the data names them."""


class FileInfo(Record):
    """A file that belongs to the card and lies beside it."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=128)]
    """A plain name: a card from elsewhere must not lead a reader out of its folder."""
    sha256: str
    rows: Annotated[int, Field(ge=0, le=2**31)]


class Addition(Record):
    """Adversarial examples that somebody handed in later, each checked, which lowered the row."""

    by: Name
    broken: Annotated[Count, Field(ge=1)]
    """Samples that had stood until then."""
    archive: FileInfo


def _once(measures: tuple[Measured, ...]) -> tuple[Measured, ...]:
    """A document is of one measure."""
    files = [short.file for short in measures]
    if twice := [file for file in files if files.count(file) > 1]:
        raise ValueError(f"{twice[0]!r} is listed more than once; a document is of one measure")
    return measures


class Card(Record):
    """One evaluation."""

    schema_version: int = SCHEMA
    name: str
    dataset: Annotated[str, Field(max_length=LONGEST_TEXT)]
    threat: Threat
    n: Annotated[Count, Field(ge=1)]
    clean_accuracy: Share
    clean_interval: tuple[Share, Share]
    robust_accuracy: Share
    """Share of the n samples that are classified correctly and that no attack broke: the worst case per sample."""
    interval: tuple[Share, Share]
    """95 % Wilson interval of the robust accuracy."""
    attacks: tuple[AttackResult, ...]
    curve: tuple[CurvePoint, ...] = ()
    """Of a sweep over eps, smallest first; a sample that fell in a smaller ball counts as broken in every larger one."""
    certified: Certified | None = None
    plan: Plan
    plan_digest: str
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    search: str = ""
    """The precision of the search, and why; what counts is always confirmed in float32."""
    eot: Annotated[Count, Field(ge=1)] = 1
    """Answers of a randomised network that attacks saw the mean of; 1 for a network that answers the same every time."""
    batch_dependent: bool = False
    """Whether the answer to an image depends on the others in its batch; such a row has no rank and no certificate."""
    model: ModelInfo
    data: DataInfo
    records: FileInfo
    archive: FileInfo
    balanced_accuracy: Share | None = None
    """The mean over classes of the share of their samples that are right: a frequent class counts no more than a rare one."""
    balanced_robust_accuracy: Share | None = None
    classes: tuple[ClassResult, ...] = ()
    """Of every label among the samples, smallest first; none where there are more than CLASSES of them."""
    answers: Answers | None = None
    warnings: tuple[Sentence, ...] = ()
    """What was noticed about the samples, the labels and the answers that may make the numbers mean something else."""
    additions: tuple[Addition, ...] = ()
    """Their samples count as broken in robust_accuracy; the attacks of the plan keep their own numbers."""
    eight_bit_accuracy: Share | None = None
    """Robust accuracy if adversarial examples had to be images of 8 bits: those that rounding undoes do not count."""
    diagnosis: Diagnosis | None = None
    noticed: tuple[Finding, ...] = ()
    """What the evaluation itself looked at: whether there is a gradient, and whether it is that of the answers."""
    measures: Annotated[tuple[Measured, ...], Field(max_length=MOST_MEASURED), AfterValidator(_once)] = ()
    """What else was measured on the network, in short; a card without any is stored as it always was."""
    seconds: Annotated[float, Field(ge=0, le=LONGEST)]
    device: str
    versions: dict[str, str]
    code: dict[str, str] = {}  # noqa: RUF012
    """Digests of the code of the defenses and attacks that came as plug-ins, by "defense NAME" and "attack NAME"."""
    files: dict[str, str] = {}  # noqa: RUF012
    """Digests of the files that settings name, by whose setting it is and its name: "defense hat helper"."""
    notes: tuple[str, ...]

    @property
    def constant(self) -> bool:
        """Whether the network answers (almost) one class always; such a row has no rank."""
        return self.answers is not None and self.answers.elsewhere >= CONSTANT

    @property
    def wrapper(self) -> str:
        """The defense of ours that it was trained with, where a network answers otherwise with it; weights do not tell it."""
        name = self.model.defense or ""
        try:
            return name if name and f"defense {name}" not in self.code and get_defense(name).answers_otherwise() else ""
        except UnknownName:  # of another release
            return ""

    @property
    def identity(self) -> tuple[object, ...]:
        """What answered: equal for two evaluations of one model, whatever it is called and wherever it lies."""
        others = tuple(sorted((name, digest) for name, digest in self.code.items() if name.startswith("defense ")))
        around = json.dumps([self.wrapper, self.model.settings], sort_keys=True) if self.wrapper or others else ""
        return self.model.digest, self.model.answers, self.model.test_time, around, others

    @property
    def tools(self) -> dict[str, str]:
        """Digests of the code and the files that attacks came with, by whose they are; plans name them and do not hold them."""
        return {name: digest for name, digest in {**self.code, **self.files}.items() if name.startswith("attack ")}

    @property
    def doubt(self) -> int:
        """How much is known against it; nothing is, where nobody looked."""
        return ORDER.index(self.verdict) if self.verdict else 0

    @property
    def verdict(self) -> Verdict | None:
        """Of the diagnosis; without one, "suspicious" where the evaluation itself noticed that gradients mislead."""
        if self.diagnosis:
            return self.diagnosis.verdict
        doubtful = any(finding.verdict != "ok" for finding in self.noticed) or any(attack.masked for attack in self.attacks)
        return "suspicious" if doubtful else None

    def to_json(self) -> str:
        """The card as it is stored."""
        content = self.model_dump(mode="json", exclude=None if self.measures else {"measures"})
        return json.dumps(content, indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Write the card atomically."""
        write_text(path, self.to_json())


def read_card(path: Path) -> Card:
    """A stored card; BadInput where it is missing, damaged, absurd or of another schema version. It may be a stranger's."""
    regular(path, CARD_BYTES)
    try:
        content = read_json(path, CARD_BYTES)
        # Half a character can be neither written to a file nor printed.
        json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise BadInput(f"cannot read card {path}: {error.strerror}; give a card.json, or a folder that holds one") from None
    except UnicodeEncodeError as error:
        raise BadInput(f"card {path} holds {error.object[error.start]!a}, half a character; it was not written by us") from None
    except ValueError as error:
        raise BadInput(f"card {path} is not JSON ({error}); give the card.json that an evaluation wrote") from None
    if not _modest(content):
        raise BadInput(f"card {path} is nested more than {DEEPEST} deep or holds more than {VALUES} values; no card does")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version not in READS:
        known, told = " and ".join(map(str, READS)), repr(version)[:80]
        raise BadInput(f"card {path} has schema version {told}, this release reads {known}; evaluate the model again")
    try:
        card = Card.model_validate(content)
        ThreatModel.parse(card.threat.norm, card.threat.eps)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BadInput(f"card {path}: {where}: {first['msg'][:200]}") from None
    except GauntletError as error:
        raise BadInput(f"card {path}: threat: {error}") from None
    return card


def _modest(content: Any) -> bool:
    """Whether its tables lie in one another no deeper, and hold no more values, than those of a card."""
    sizes = [len(level) for level in islice(levels(content), DEEPEST + 1)]
    return len(sizes) <= DEEPEST and sum(sizes) - 1 <= VALUES
