"""What a defense is: how one batch is turned into a training loss, and what goes with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import Rng, ThreatModel

if TYPE_CHECKING:
    from bench.data import Dataset


class InputGradient(Protocol):
    """The gradient of a scalar of the logits at z, [N, C, H, W]; with create_graph it can itself be differentiated."""

    def __call__(self, z: Tensor, loss: Callable[[Tensor], Tensor], *, create_graph: bool = False) -> Tensor:
        """Costs a forward and a backward pass."""

    def answers(self, x: Tensor) -> Tensor:
        """Logits [N, K] as constants, in the mode that gradients are taken in; no kept statistics follow. Costs a forward."""


class TrainedNet(Protocol):
    """The network as `loss` is given it: besides answering images, it counts what that costs."""

    net: nn.Module
    """The network itself."""
    forwards: int
    """Rows that passed through it."""
    backwards: int

    def gradient(self, mode: Literal["train", "eval"], *, follow: bool = True) -> InputGradient:
        """Its input gradient in one mode; follow: whether kept statistics follow what passes in train mode."""


@dataclass
class Context:
    """What a defense may know about the batch at hand besides the images.

    Where the weights are perturbed too (AWP), the loss of a batch is taken twice: gradients that were already asked for, and
    what `once` computed, come back as they were, and what is remembered is what the last of the two says.
    """

    threat: ThreatModel
    """The budget of this update; schedules may hold it below the target."""
    target: ThreatModel
    """The budget the model will be judged at."""
    rng: Rng
    """Noise of this batch in this epoch, keyed by sample."""
    progress: float
    """How much of the training is done, in [0, 1)."""
    epoch: int
    gradient: InputGradient
    """The network's input gradient in the recipe's mode and precision; counts its cost."""
    images: Tensor
    """The training images, uint8 [M, C, H, W], for statistics of the data."""
    labels: Tensor
    """Their labels, [M]."""
    index: Tensor
    """Which of the training images this batch holds, [N]."""
    memory: MutableMapping[str, Tensor] = field(default_factory=dict)
    """Tensors a defense carries from batch to batch; saved with every checkpoint."""
    label_smoothing: float = 0.0
    replay: int = 0
    """Which update on the same batch this is."""
    ema_decay: float | Tensor | None = None
    """Of the weights' moving average in this update; the recipe's, unless a defense sets another."""
    smoothed: bool = False
    """Whether the smoothing of labels was asked for by the defense, through `cross_entropy`."""

    def __post_init__(self) -> None:
        self._pending: dict[str, tuple[Tensor | None, Tensor]] = {}
        self._once: dict[str, Any] = {}
        self._taken: list[Tensor] = []
        self._next = 0

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy that the weights are trained on, with the recipe's label smoothing."""
        self.smoothed = True
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def grad(self, z: Tensor, y: Tensor) -> Tensor:
        """The gradient of the cross-entropy at z, [N, C, H, W]."""
        return self.ascent(z, lambda logits: F.cross_entropy(logits, y, reduction="sum"))

    def ascent(self, z: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient of a scalar of the logits at z, [N, C, H, W], for crafting."""
        if self._next == len(self._taken):
            self._taken.append(self.gradient(z, loss))
        self._next += 1
        return self._taken[self._next - 1]

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives when the loss of this batch is first taken."""
        if name not in self._once:
            self._once[name] = compute()
        return self._once[name]

    def rows(self, name: str, shape: Sequence[int], fill: float = 0.0) -> Tensor:
        """This batch's rows, [N, *shape], of a tensor that holds a row for every training image."""
        if name not in self.memory:
            self.memory[name] = torch.full((len(self.images), *shape), fill, device=self.images.device)
        return self.memory[name][self.index]

    def remember_rows(self, name: str, value: Tensor) -> None:
        """Put these rows where `rows` will find them, once the weights are updated; those of other images start from 0."""
        self.rows(name, value.shape[1:])
        self._pending[name] = (self.index, value.detach())

    def remember(self, name: str, value: Tensor) -> None:
        """Put this tensor into the memory, once the weights are updated."""
        self._pending[name] = (None, value.detach())

    def again(self) -> None:
        """The loss of the same batch is about to be taken once more."""
        self._next = 0

    def commit(self) -> None:
        """The weights are updated."""
        for name, (index, value) in self._pending.items():
            if index is None:
                self.memory[name] = value
            else:
                self.memory[name][index] = value
        self._pending.clear()


class Defense:
    """A way to train a robust classifier. Subclass it, decorate with `@defense("name")`, write `loss`.

    Fields are hyper-parameters with defaults. `presets` names, for a data set or a family of data sets ("mnist",
    "cifar"), the published values of fields and of the training recipe (bench/training/recipe.py); "default" serves the
    rest.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    passes: ClassVar[str] = ""
    """Forward-backward passes per training sample and epoch, as text for the table of defenses."""
    certifies: ClassVar[int | None] = None
    """How many samples of an evaluation `certify` is tried on, at most; None for all."""
    selects: ClassVar[str] = "pgd"
    """The validation accuracy that picks the epoch: "pgd", or "clean" for a method that does not aim at robustness; "epoch"
    for the last one."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def hyper_parameters(cls) -> set[str]:
        """The names of its fields."""
        return {field.name for field in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def can_collapse(cls) -> bool:
        """Whether it is a collapse when PGD breaks what FGSM does not: not where a training aims at withstanding neither."""
        return cls.selects != "clean"

    def for_classes(self, classes: int) -> Self:
        """The same with what the number of classes decides written out, as the record of the training will have it."""
        del classes
        return self

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """The scalar to minimise on a batch: x [N, C, H, W] in [0, 1], y [N]."""
        raise NotImplementedError("write def loss(self, net, x, y, ctx) -> the scalar to minimise")

    def budget(self, threat: ThreatModel, progress: float) -> ThreatModel:
        """The threat model of the inner maximisation when `progress` of the training is done."""
        del progress
        return threat

    def updates(self) -> int:
        """How many times the weights are updated on each batch."""
        return 1

    def snapshots(self) -> Sequence[float]:
        """At which progress the weights are kept as members of a final ensemble; none for a single model."""
        return ()

    def report(self, memory: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """What the training found out on its way and its record should say, from the memory: values that JSON has."""
        del memory
        return {}

    @classmethod
    def answers_otherwise(cls) -> bool:
        """Whether a network answers otherwise at test time than its weights alone do."""
        return cls.wrap is not Defense.wrap or cls.fit is not Defense.fit

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network as it answers at test time."""
        return net

    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        """The network as it answers at test time, where that takes the training images; called before `wrap`."""
        del train
        return net

    def certify(self, net: nn.Module, x: Tensor, threat: ThreatModel, rng: Rng) -> tuple[Tensor, Tensor] | None:
        """What can be proved about these images: labels [N], and the radii [N] around them in which they are certain.

        net: what `wrap` made. A radius of -1 stands for no answer. None for a defense that proves nothing in this norm;
        BadInput, which the card repeats, where nothing can be proved of this network.
        """
        del net, x, threat, rng
        return None

    @classmethod
    def has_certificates(cls) -> bool:
        """Whether it has certificates at all."""
        return cls.certify is not Defense.certify

    def certifies_up_to(self, threat: ThreatModel) -> float:
        """The radius that no certificate of it exceeds with these hyper-parameters, whatever the network."""
        del threat
        return math.inf

    def adaptive(self) -> Sequence[Mapping[str, Any]]:
        """Attack specifications that a fair attacker of this defense would add to the plan."""
        return ()

    def skip(self, dataset: str, threat: ThreatModel) -> str | None:
        """Why this defense cannot be trained here, or None."""
        del dataset, threat
        return None


def out_of_reach(defense: Defense, threat: ThreatModel) -> str:
    """Why no certificate of a defense holds in a ball, whatever the network; empty where one may, and where it has none."""
    reach = defense.certifies_up_to(threat) if defense.has_certificates() else math.inf
    if reach >= threat.radius:
        return ""
    return (
        f"{defense.name}: with these settings a certificate reaches {max(reach, 0):.3g} at most, whatever the network, so that "
        f"certified accuracy in {threat} is 0 and says nothing of it; choose settings that reach further, or a smaller eps"
    )


def adversarial_step(z: Tensor, x: Tensor, y: Tensor, step: float, ctx: Context) -> Tensor:
    """One projected steepest-ascent step on the cross-entropy from z; step is a fraction of the budget's eps."""
    return projected_step(z, x, ctx.grad(z, y), step, ctx.threat)


def projected_step(z: Tensor, x: Tensor, grad: Tensor, step: float, threat: ThreatModel) -> Tensor:
    """From z along a gradient, and back into ball and box; step is a fraction of eps."""
    with torch.no_grad():
        return threat.project(z + step * threat.radius * threat.steepest(grad, z), x)
