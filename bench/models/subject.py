"""What is evaluated: a model as it answers at test time, and the samples it is judged on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor, nn

from bench import data, models
from bench.core import SMALLEST, Classifier, batch_dependence, isolated, randomised
from bench.data import Dataset
from bench.errors import BadInput, GauntletError, out_of_memory
from bench.files import read_json
from bench.models import batchnorm
from bench.models.architectures import parse_query
from bench.models.identity import Answers, answers_of, files_of, require_the_trainer
from bench.models.learning import let_learn
from bench.models.reference import Model
from bench.plugins import Defense, code, get_defense, make_defense

READS = (1, 2)
"""Versions of the record of a training; what is read of it is the same in both."""
DEPENDENT = 0.1
"""Share of images whose answers company changes, from which a network is said to depend on it; fewer may be rounding."""


class Subject(NamedTuple):
    """A model under test."""

    model: Model
    """With what its defense, or one added at test time, makes of its network."""
    label: str
    """As a leaderboard has it."""
    trained: dict[str, Any]
    """The record of its training; empty for a model from elsewhere."""
    defenses: tuple[Defense, ...]
    """The one it was trained with and the one added at test time, as far as there are any."""
    foreign: bool
    """Whether code that is not ours takes part in its answers, so that its weights do not settle them."""
    noisy: bool
    """Whether it answers the same images differently."""
    batch_dependent: bool
    """Whether the answer to an image depends on the others in its batch, so that numbers are not comparable."""
    first: tuple[Tensor, Tensor]
    """A few samples to try things on."""
    answers: Answers
    """To these samples, where code that is not ours takes part; empty for others, and where no seed makes answers repeat."""
    files: dict[str, str]
    """Digests of the files that settings of its defenses name."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What answers; equal for one model under two references."""
        codes = tuple((defense.name, code("defense", defense.name)) for defense in self.defenses)
        added = self.defenses[-1] if self.defenses else None
        return self.model.digest, self.answers.digest, codes, added, tuple(sorted(self.files.items()))


def load_subject(
    reference: str, samples: Dataset, dataset: str, seed: int, test_time: str = "", trained: dict[str, Any] | None = None
) -> Subject:
    """Load a model and check it on real images; BadInput where it does not fit them.

    test_time: a defense to add without training, such as "rfi" or "smoothing?sigma=0.25". trained: its `training_record`,
    where that has been read.
    """
    open_ended = dataset not in data.CLASSES
    trained = training_record(reference) if trained is None else trained
    with isolated(seed):
        model = models.resolve(reference, samples.shape, samples.classes, at_least=open_ended)
    net = Classifier(model.net) if model.elsewhere else model.net
    if trained.get("settings", {}).get("statistics") == "batch":
        net = batchnorm.use_batches(net)
    added = added_defense(test_time)
    found = tuple(defense for defense in (_of_training(trained), added) if defense)
    source = _learnt_from(dataset, trained) if any(map(_fits, found)) else ""
    net = _around(net, found, source)
    learns = [id(parameter) in model.learns or parameter.requires_grad for parameter in net.parameters()]
    net.requires_grad_(False)
    first, labels = samples.batch(torch.arange(min(len(samples), 64)))
    foreign = model.elsewhere or any(code("defense", defense.name) for defense in found)
    if foreign:
        let_learn(net, learns, first, seed)
    check = partial(models.check_outputs, net, classes=samples.classes, origin=reference, at_least=open_ended)
    # What was fitted on images of a user's own answers as those images have it.
    settled = not foreign and (not source or source in data.CLASSES)
    noisy, dependent, answers = _tried(net, first, seed, check, known=settled)
    label = (trained.get("name") or model.name) + (f"+{added.name}" if added else "")
    return Subject(
        replace(model, net=net), label, trained, found, foreign, noisy, dependent, (first, labels), answers, files_of(found)
    )


def trained_on(dataset: str, trained: dict[str, Any]) -> bool | None:
    """Whether the images that a network was trained on are those of this data set, by whatever path; None where it is gone."""
    try:
        now = data.digest_of_training(dataset, trained["settings"]["validation"])
    except GauntletError:  # it is gone, or holds a single sample
        return None
    return bool(now == trained["data_digest"])


def learns_from(trained: dict[str, Any], test_time: str, dataset: str) -> str:
    """The data set whose training images a model takes to answer at test time; empty where it takes none."""
    found = [defense for defense in (_of_training(trained), added_defense(test_time)) if defense]
    return _learnt_from(dataset, trained) if any(map(_fits, found)) else ""


def _fits(defense: Defense) -> bool:
    return type(defense).fit is not Defense.fit


def _learnt_from(dataset: str, trained: dict[str, Any]) -> str:
    """Whose training images a defense learns from at test time: those of the network, else those beside the ones it is judged
    on. BadInput where they would be the same."""
    if trained:
        known = trained["dataset"] == dataset or trained_on(dataset, trained)
        return dataset if known else str(trained["dataset"])
    if not data.has_own_split(dataset):
        raise BadInput(
            f"a defense that learns from training images would learn from those that it is judged on: {dataset} has none of "
            "its own; give data with x_train, y_train, x_test and y_test, or with train/ and test/"
        )
    return dataset


def answering(net: nn.Module, defenses: Sequence[Defense], dataset: str) -> nn.Module:
    """The network as these defenses let it answer at test time, one around the other, frozen."""
    net = _around(net, defenses, dataset)
    net.requires_grad_(False)
    return net


def _around(net: nn.Module, defenses: Sequence[Defense], dataset: str) -> nn.Module:
    for defense in defenses:
        if _fits(defense):
            net = _network(defense.fit(net, data.load(dataset, "train")), defense, "fit")
        net = _network(defense.wrap(net), defense, "wrap")
    # What a defense of somebody's makes of it may return nothing.
    net.eval()
    return net


def _network(made: object, defense: Defense, what: str) -> nn.Module:
    """What a defense makes of a network; BadInput where that is none."""
    if not isinstance(made, nn.Module):
        raise BadInput(f"defense {defense.name!r}: {what} returned {type(made).__name__}; return the network, an nn.Module")
    return made


def _tried(net: nn.Module, first: Tensor, seed: int, check: Callable[..., None], *, known: bool) -> tuple[bool, bool, Answers]:
    """Whether the answers to these images depend on chance and on the batch, and which they are; in parts that memory holds.

    known: the weights settle what it answers.
    """
    size = len(first)
    while True:
        try:
            part = first[:size]
            with isolated(seed):
                check(x=part)
            noisy, some = randomised(net, part, seed), part[: max(size // 2, 1)]
            dependent = not noisy and batch_dependence(net, some, 1 - some) > DEPENDENT
            return noisy, dependent, Answers() if known else _repeated(net, first, size, noisy)
        except (RuntimeError, MemoryError) as error:
            # Fewer are answered as a batch of 16 all the same.
            if size <= SMALLEST or not out_of_memory(error):
                raise
            size = max(size // 2, SMALLEST)


def _repeated(net: nn.Module, x: Tensor, rows: int, noisy: bool) -> Answers:
    """What it answers to images; of a randomised one with seeded generators, and nothing if it does not repeat itself then."""
    if not noisy:
        return answers_of(net, x, rows)
    found = []
    for _ in range(2):
        with isolated(0, "answers"):
            found.append(answers_of(net, x, rows))
    return found[0] if found[0] == found[1] else Answers()


def training_record(reference: str) -> dict[str, Any]:
    """What the training of a run folder left behind; empty for a model from elsewhere."""
    return training_in(Path(reference.removeprefix("run:").split("?")[0]))


def training_in(folder: Path) -> dict[str, Any]:
    """The record of the training that lies in a folder, whatever it is called; empty where none does."""
    path = folder / "train.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version not in READS:
            known = " and ".join(map(str, READS))
            raise BadInput(f"{path} has schema version {version!r}, this release reads {known}; train again")
        _Record.model_validate(content)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
        told = f" ({where})" if where else ""
        raise BadInput(f"{path} is not the record of a finished training{told}; train again") from None
    return {**{key: content[key] for key in _Record.model_fields if key in content}, "folder": path.parent}


class _Threat(BaseModel):
    norm: str
    eps: str


class _Training(BaseModel):
    best_epoch: Annotated[int, Field(ge=1)]


class _Settings(BaseModel):
    validation: Annotated[int, Field(ge=1)]


class _Record(BaseModel):
    """What is read of the record of a training, which may come from anybody."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    defense: str
    settings: _Settings
    dataset: str
    threat: _Threat
    training: _Training
    data_digest: str
    history: Annotated[list[dict[str, FiniteFloat]], Field(min_length=1)]
    code: str = ""
    files: dict[str, str] = {}
    fields: list[str] = []
    arch: str = ""

    @model_validator(mode="after")
    def _kept(self) -> Self:
        last = self.training.best_epoch
        if last > len(self.history) or not {"clean", "fgsm", "pgd"} <= self.history[last - 1].keys():
            raise ValueError(f"there is no epoch {last} in its history")
        return self


def _of_training(trained: dict[str, Any]) -> Defense | None:
    """The defense that trained the model; None for a model from elsewhere."""
    if "defense" not in trained:
        return None
    require_the_trainer(trained)
    known = get_defense(trained["defense"]).hyper_parameters()
    return make_defense(trained["defense"], {key: value for key, value in trained["settings"].items() if key in known})


def spelt(test_time: str) -> str:
    """A test-time defense as it is always written, such as "rfi?k=2", however somebody typed its settings."""
    if not (made := added_defense(test_time)):
        return ""
    plain = make_defense(made.name, {})
    own = {key: getattr(made, key) for key in sorted(made.hyper_parameters())}
    set_apart = [(key, value) for key, value in own.items() if value != getattr(plain, key)]
    texts = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in set_apart]
    return f"{made.name}?{'&'.join(texts)}" if texts else made.name


def added_defense(test_time: str) -> Defense | None:
    """The defense that is added without training, as text like "smoothing?sigma=0.25" says; None for none."""
    if not test_time:
        return None
    name, _, query = test_time.partition("?")
    cls = get_defense(name)
    if not cls.answers_otherwise():
        raise BadInput(f"defense {name!r} changes nothing at test time; it has to be trained")
    return make_defense(name, parse_query(query, f"test-time defense {test_time!r}"))
