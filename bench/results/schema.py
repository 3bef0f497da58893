"""What attacks, proofs and checks measured: the parts of a card."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from bench.core import LONGEST, Label, Name, ThreatModel
from bench.errors import GauntletError

MOST = 10_000_000
"""Samples of an evaluation."""
CONSTANT = 0.9
"""Share of the images of other classes from which a network that answers one class to them is said to answer it always."""
Verdict = Literal["ok", "suspicious", "broken"]
ORDER: tuple[Verdict, ...] = ("ok", "suspicious", "broken")
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MOST)]


def _radius(text: str) -> str:
    """However it is spelt, a radius is one value."""
    try:
        return ThreatModel.parse("l1", text).eps_text
    except GauntletError as error:
        raise ValueError(str(error)) from None


Eps = Annotated[str, Field(max_length=LONGEST), AfterValidator(_radius)]


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a sentence is one line of printable characters")
    return text


Sentence = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]


class Record(BaseModel):
    """A typed part of a card; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GridPoint(Record):
    """One point of a step-size grid, measured on the probe."""

    parameters: dict[str, Any]
    robust_accuracy: float
    """On the probe, by this point alone; what fell in a smaller ball of a sweep has fallen."""
    mean_margin: float
    """Mean over the probe of the best wrong logit minus the true one at this point's results, 0 for a fooled sample."""


class Grid(Record):
    """The whole search, not only its winner. In a sweep all radii show the probe of the smallest; the winner is the best on as
    many samples that still stood, which these are a part of."""

    probe: int
    points: tuple[GridPoint, ...]
    best: dict[str, Any]


class RestartPoint(Record):
    """Robust accuracy after so many restarts on the same samples; what only the grid broke stands here."""

    restarts: int
    robust_accuracy: float


TOGETHER = ("pilot", "adaptive", "inside")
"""Stages of a portfolio whose arms all begin where the opening ended."""
STAGES = ("opening", *TOGETHER, "frontier", "escalation", "sweep", "closing")


class Round(Record):
    """One round of a portfolio."""

    stage: str
    """opening: on everything; pilot and adaptive: every arm on the same few samples; inside: an arm for each reading of the
    network on others, and the pilot's on what falls to those; frontier: on others at random, where none fell so far; sweep: the
    arms in the pilot's order; escalation: on all that stands, where the number is in doubt; closing: on the closest of what
    stands at the end."""
    arm: str
    effort: int
    """Times the arm's own steps, queries and targets."""
    rough: bool
    """Whether gradients, or scores, came from the faster precision."""
    samples: int
    """The survivors it took on, closest first."""
    broken: int
    progress: float
    """Samples broken, plus up to one half for each whose margin came nearer to 0."""
    cost: float
    """Forward-equivalents per sample; a backward pass counts two."""
    reach: int
    """How many of the closest survivors the next round may take on."""


class CurvePoint(Record):
    """Robust accuracy in a ball of this radius."""

    eps: Eps
    robust_accuracy: Share
    interval: tuple[Share, Share]
    """95 % Wilson interval."""


class AttackResult(Record):
    """What one attack of the plan did."""

    name: Label
    attack: Name
    parameters: dict[str, Any]
    """As they ran: the grid's winner is written in."""
    on: Literal["all", "survivors"]
    n: Annotated[Count, Field(ge=1)]
    """Samples its accuracy is over."""
    attempted: Count
    """Samples it was run on."""
    broken: Count
    """Samples it fooled."""
    robust_accuracy: Share
    """Share of its n samples that it leaves standing. A sample that it was never run on, because the clean image or (on
    survivors) an earlier attack had already failed, counts as broken."""
    interval: tuple[float, float]
    """95 % Wilson interval."""
    grid: Grid | None
    restarts: tuple[RestartPoint, ...]
    rounds: tuple[Round, ...] = ()
    """What a portfolio did, in order; same seed, same rounds."""
    masked: str = ""
    """Why a portfolio believes that the gradient is masked; empty where it does not."""
    forwards: float
    """Mean forward passes per attempted sample, all restarts and the grid included."""
    backwards: float
    seconds: float
    notes: tuple[str, ...]
    curve: tuple[CurvePoint, ...] = ()
    """Of an attack that looked for the closest example anywhere: what the distances it found leave standing at other radii,
    smallest first. A sample that it was not run on counts as broken from 0 on where the clean image failed, and from this eps
    on where an earlier attack had broken it."""


class Certified(Record):
    """What a defense proved about its network; a lower bound to what any attack can leave."""

    defense: str
    n: Annotated[Count, Field(ge=1)]
    """The first so many samples, which the proof was tried on."""
    accuracy: Share
    """Share of them whose right answer is certain in the ball of the card."""
    interval: tuple[Share, Share]
    """95 % Wilson interval."""
    curve: tuple[CurvePoint, ...]
    """The same at other radii, smallest first."""
    contradicted: Count
    """Samples whose answer is said to be certain and that an attack broke."""


class ClassResult(Record):
    """One class of the samples."""

    label: Count
    n: Annotated[Count, Field(ge=1)]
    clean_accuracy: Share
    robust_accuracy: Share


class Answers(Record):
    """The class that a network answers clean images with most often."""

    label: Count
    share: Share
    """Of all samples."""
    elsewhere: Share
    """Of the samples that have another label; of few, what is sure."""


class Finding(Record):
    """One check of a diagnosis."""

    check: str
    value: float | None
    """What was measured; None where the check does not apply."""
    threshold: float | None
    """Up to which the value is sound."""
    verdict: Verdict
    told: str
    """What it means, and what to do next."""


class Diagnosis(Record):
    """Whether the card's number can be trusted."""

    verdict: Verdict
    """The worst of the findings."""
    n: int
    """Samples that the checks were made on."""
    findings: tuple[Finding, ...]
    seconds: float


ASKED = 300
"""Characters of how something was measured, on a card."""
Printable = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_one_line)]


class Measured(Record):
    """A measure of the card's network in short."""

    measure: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    asked: Annotated[Sentence, Field(max_length=ASKED)]
    """On what it was taken, and how."""
    values: Annotated[dict[Printable, FiniteFloat], Field(min_length=1, max_length=16)]
    """Its headline, as the document has it."""
    file: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*\.json$", max_length=128)]
    """The document, in the folder of measures beside that of the card."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
