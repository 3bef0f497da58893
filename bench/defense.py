"""What a defense is: how one batch is turned into a training loss, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rng import Rng
from bench.threat import ThreatModel


@dataclass
class Context:
    """What a defense may know about the batch at hand besides the images."""

    threat: ThreatModel
    """The budget of this step; schedules may hold it below the target."""
    target: ThreatModel
    """The budget the model will be judged at."""
    rng: Rng
    """Noise of this batch in this epoch."""
    progress: float
    """How much of the training is done, in [0, 1)."""
    epoch: int
    gradient: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    """The network's input gradient in the recipe's mode and precision; counts its cost."""
    images: Tensor
    """The training images, uint8 [M, C, H, W], for statistics of the data."""
    memory: MutableMapping[str, Tensor] = field(default_factory=dict)
    """Tensors a defense carries from batch to batch; saved with every checkpoint."""

    def grad(self, z: Tensor, y: Tensor) -> Tensor:
        """The gradient of the cross-entropy at z, [N, C, H, W]."""
        return self.gradient(z, lambda logits: F.cross_entropy(logits, y, reduction="sum"))


class Defense:
    """A way to train a robust classifier. Subclass it, decorate with `@defense("name")`, write `loss`.

    Fields are hyper-parameters with defaults. `presets` names, for a data set or a family of data sets ("mnist",
    "cifar"), the published values of fields and of the training recipe (see bench.recipe.Recipe); "default" serves the rest.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    passes: ClassVar[str] = ""
    """Forward-backward passes per training sample and epoch, as text for the table of defenses."""
    selects: ClassVar[str] = "pgd"
    """The validation accuracy that picks the epoch: "pgd", or "clean" for a method that does not aim at robustness."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def hyper_parameters(cls) -> set[str]:
        """The names of its fields."""
        return {field.name for field in fields(cls)}  # type: ignore[arg-type]

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """The scalar to minimise on a batch: x [N, C, H, W] in [0, 1], y [N]."""
        raise NotImplementedError

    def budget(self, threat: ThreatModel, progress: float) -> ThreatModel:
        """The threat model of the inner maximisation when `progress` of the training is done."""
        del progress
        return threat

    def snapshots(self) -> Sequence[float]:
        """At which progress the weights are kept as members of a final ensemble; none for a single model."""
        return ()

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network as it answers at test time."""
        return net

    def adaptive(self) -> Sequence[Mapping[str, Any]]:
        """Attack specifications that a fair attacker of this defense would add to the plan."""
        return ()

    def skip(self, dataset: str, threat: ThreatModel) -> str | None:
        """Why this defense cannot be trained here, or None."""
        del dataset, threat
        return None


def adversarial_step(z: Tensor, x: Tensor, y: Tensor, step: float, ctx: Context) -> Tensor:
    """One projected steepest-ascent step on the cross-entropy from z; step is a fraction of the budget's eps."""
    with torch.no_grad():
        direction = ctx.threat.steepest(ctx.grad(z, y))
        return ctx.threat.project(z + step * ctx.threat.radius * direction, x)
