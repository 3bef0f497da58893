"""The recipe: everything about a training that is not the defense."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from bench import data
from bench.errors import BadInput, PluginWarning, UnknownName, nearest
from bench.plugins import Defense, budget_factor, check_numbers, get_defense, learning_rate, make_defense, read_value

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _schedule(text: str) -> str:
    learning_rate(text)
    return text


def _budget(text: str) -> str:
    budget_factor(text)
    return text


def _rising(ends: tuple[float, ...]) -> tuple[float, ...]:
    if list(ends) != sorted(set(ends)):
        raise ValueError("write rising shares of the training, as in [0.5, 0.75, 1.0]")
    return ends


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """Optimiser, schedule, precision and bookkeeping of one training."""

    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per update; a last batch of a single image is left out, because batch norms cannot be trained on one."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd with momentum, or adam."""
    lr: Positive = 0.1
    """The peak of the schedule."""
    schedule: Annotated[str, AfterValidator(_schedule)] = "cosine"
    """Of the learning rate: constant, cosine, triangular:PEAK, piecewise:DROPS (a tenth after each), periodic:ENDS; points are
    shares of the training."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """So much of the weights is added to their gradient."""
    augment: Literal["none", "crop", "crop_flip"] = "none"
    """Random crops after padding by 4 pixels, and mirror images."""
    craft: Literal["train", "eval"] = "train"
    """The network's mode while training examples are crafted; in train mode batch-norm buffers follow them."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 where the device multiplies it natively, else float32. Weights stay in float32 either way."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of an average of the weights that is then what is validated and kept; None for none."""
    ema_buffers: bool = False
    """Average the statistics of batch norms as well; otherwise they are copied."""
    swa: Annotated[float, Field(ge=0, lt=1)] | None = None
    """From this share of the training on, the plain mean of the weights at the ends of epochs is what is validated and kept,
    with batch statistics recomputed on adversarial images."""
    awp: Positive | None = None
    """Perturb the weights too, by so much of their norm (adversarial weight perturbation); costs a pass."""
    awp_warmup: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training without that."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the targets that the weights are trained on; examples that have a pass of their own are crafted on plain labels."""
    clean_first: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training that is on clean images, before the defense begins."""
    eps_schedule: Annotated[str, AfterValidator(_budget)] = ""
    """Budget over the training, KIND:MIN,MAX as fractions of eps and clipped at it, and after a second colon the ends of
    periods: "linear:0,3" reaches eps after a third, "cosine:0,2:0.5,1" does so twice. Empty for what the defense says."""
    snapshots: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], AfterValidator(_rising)] = ()
    """When the weights are kept as members of an ensemble, as shares of the training; () for what the defense says."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Keep the weights of every so many epochs and of the last, as epoch-N.safetensors, for measures of their course; 0 for
    none."""
    craft_updates: bool = True
    """Whether crafting in train mode moves the kept statistics of batch norms."""
    separate_norms: bool = False
    """Batch norms of their own for clean images; the others are the ones kept."""
    biased_norms: bool = False
    """Keep the variance that training normalises with, instead of torch's unbiased estimate."""
    statistics: Literal["running", "clean", "adversarial", "batch"] = "running"
    """What batch norms answer with: kept statistics as they ran along; recomputed after each epoch, on clean training images
    or (adversarial) on what the defense makes of them; or those of the batch at hand, which makes samples depend on each other
    and numbers not comparable."""
    validation: Count = 1000
    """Training images held out to select the epoch; at most a tenth of them."""

    def settings(self) -> dict[str, Any]:
        """All of them as a training's key and record have them: an option of a later release only where it is set, so that
        trainings without it keep their key."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}

    def of_norms(self) -> str:
        """An option that is set and concerns batch norms alone; empty for none."""
        chosen = {
            "separate_norms": self.separate_norms,
            "biased_norms": self.biased_norms,
            "statistics": self.statistics != "running",
            "craft_updates": not self.craft_updates,
        }
        return next((name for name, on in chosen.items() if on), "")

    def __post_init__(self) -> None:
        if self.ema is not None and self.swa is not None:
            raise ValueError("ema and swa are both set; the network that is kept can be only one of the two averages")
        if self.ema_buffers and self.ema is None:
            raise ValueError("ema_buffers does nothing without an average; set ema, or leave it out")
        if self.awp_warmup and self.awp is None:
            raise ValueError("awp_warmup does nothing without awp; set awp, or leave it out")
        if self.separate_norms and self.statistics == "clean":
            raise ValueError("with separate_norms the layers that are kept never see clean images; leave statistics=clean out")
        if self.separate_norms and self.clean_first:
            raise ValueError("with separate_norms the layers that are kept would see nothing at first; leave clean_first out")


_LATER = {"keep_every": 0}
"""Options that came after the first release, and what they are where nobody sets them."""
_ADAM = {"optimizer": "adam", "lr": 5e-3, "weight_decay": 0.0}
_CIFAR = {"epochs": 30, "batch_size": 128, "lr": 0.2, "schedule": "triangular:0.5", "augment": "crop_flip"}
BASE: Mapping[str, Mapping[str, Any]] = {
    "digits": {**_ADAM, "epochs": 30, "batch_size": 64, "schedule": "cosine"},
    "mnist": {**_ADAM, "epochs": 10, "batch_size": 100, "schedule": "triangular:0.4"},
    "cifar": _CIFAR,
    # Plain descent, as in the theory that the data are from.
    "structured": {"epochs": 30, "batch_size": 32, "lr": 2.0, "schedule": "constant", "weight_decay": 0.0, "momentum": 0.9},
    # Numbers seen in a mirror are no numbers.
    "svhn": {**_CIFAR, "augment": "crop"},
}
"""What a defense without a preset of its own is trained with, per data set or family of data sets."""


def family_of(key: str) -> str:
    """The family whose defaults serve what presets call by this key, a data set or a family."""
    return key if key in ("digits", "mnist", "structured") else "cifar"


def _served() -> set[str]:
    """What presets are looked up by: data sets, families of them, and what serves the rest."""
    return {*data.CLASSES, *BASE, "default"}


def misplaced(cls: type[Defense]) -> dict[str, str]:
    """Names in the presets of a defense under which no data set looks, and the one that is meant, if any is like it."""
    known = _served()
    others = [key for key in cls.presets if key not in known and not (set("/.\\") & set(key) or Path(key).exists())]
    return {key: nearest(key, known) for key in others}


def _check_presets(cls: type[Defense], settings: set[str]) -> None:
    """Refuse presets that would be left unused for how they are spelt, and tell of those that look so."""
    for key, meant in misplaced(cls).items():
        if meant and _letters(key) == _letters(meant):
            raise UnknownName(f"data set in the presets of {cls.name!r}", key, _served())
        if meant:
            told = f"the presets of {cls.name!r} for {key!r} are used for a data set of just that name; did you mean {meant!r}?"
            warnings.warn(told, PluginWarning, stacklevel=3)
    for preset in cls.presets.values():
        for key in preset:
            if key not in settings | {"model"}:
                raise UnknownName(f"setting of {cls.name!r} in its presets", key, settings)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def defaults(cls: type[Defense], dataset: str, family: str) -> dict[str, Any]:
    """What a defense is trained with on a data set where nothing else is asked for, as far as a field's own default differs."""
    preset = next((cls.presets[key] for key in (dataset, family, "default") if key in cls.presets), {})
    return {**BASE.get(dataset, BASE[family]), **preset}


def configure(
    name: str, dataset: str, family: str, given: Mapping[str, str], classes: int = 10
) -> tuple[Defense, Recipe, str | None]:
    """The defense, its recipe and the architecture its source uses: base, then preset, then what the user gave.

    given: texts from the command line; numbers, booleans and lists are read as JSON, anything else stays text.
    """
    cls = get_defense(name)
    of_defense = cls.hyper_parameters()
    of_recipe = {field.name for field in fields(Recipe)}
    _check_presets(cls, of_defense | of_recipe)
    chosen = {**defaults(cls, dataset, family), **{key: read_value(text) for key, text in given.items()}}
    model = chosen.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise BadInput(f"setting model = {model!r} is no architecture; name one, as in --model preact_resnet18")
    if both := of_defense & of_recipe:
        raise BadInput(f"defense {name!r} has a hyper-parameter {min(both)!r}, as the recipe has; give it another name")
    for key in chosen:
        if key not in of_defense | of_recipe:
            raise UnknownName(f"setting of {name!r}", key, of_defense | of_recipe)
    own = {key: value for key, value in chosen.items() if key in of_recipe}
    check_numbers("settings", own)
    try:
        recipe = Recipe(**own)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"setting {first['loc'][0]} = {first['input']!r}" if first["loc"] else "settings"
        raise BadInput(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    check_numbers("settings", asdict(recipe))
    made = make_defense(name, {key: value for key, value in chosen.items() if key in of_defense})
    return made.for_classes(classes), recipe, model
