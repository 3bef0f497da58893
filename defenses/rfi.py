"""Robust feature inference (Singh, Sabanayagam, Muandet, Ghoshdastidar, TMLR 2024): a last layer that sees fewer features.

It needs no training of its own; the base is PGD training. The centred covariance is our reading of the paper, and so is the
bias that goes with it: the source leaves the bias alone. Each member of an ensemble is projected by itself.
"""

import copy
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import BadInput, Dataset, defense
from bench.models.ensemble import SnapshotEnsemble

from .pgd_at import PGDTraining


@defense("rfi")
class RFI(PGDTraining):
    """PGD training, and a last layer projected onto the directions of high variance that its classes rely on."""

    k: Annotated[int, Field(ge=1)] | None = None
    """Directions for each class, or in all where the variance ranks them; the number of classes if not given."""
    ranking: Literal["class", "class_squared", "variance"] = "class"
    """How a direction v of variance s counts for a class of weights w: s (w v)^2, (s w v)^2, or s (the "hard" variant)."""
    centred: bool = True
    """Take the covariance, and project about the mean features; False takes second moments and leaves the bias alone, as the
    source does, and costs more clean accuracy."""

    paper = "Singh et al. 2024"

    @torch.no_grad()
    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        """A copy of the network whose last linear layer sees its features in the chosen directions only."""
        if isinstance(net, SnapshotEnsemble):
            return SnapshotEnsemble(self.fit(member, train) for member in net.members)
        net = copy.deepcopy(net).eval()
        layer = last_linear(net, train)
        mean, moments = feature_moments(net, layer, train)
        if self.centred:
            moments = moments - mean.outer(mean)
        weight = layer.weight.double()
        projected = weight @ self.projector(moments, weight)
        layer.weight.copy_(projected)
        if self.centred:
            bias = 0 if layer.bias is None else layer.bias
            layer.bias = nn.Parameter((bias + (weight - projected) @ mean).float(), requires_grad=False)
        return net

    def projector(self, covariance: Tensor, weight: Tensor) -> Tensor:
        """Onto the chosen eigenvectors of the features' covariance [d, d], for a layer of weight [K, d]; [d, d]."""
        variances, vectors = torch.linalg.eigh(covariance)
        use = (weight @ vectors) ** 2 if self.ranking != "variance" else torch.ones_like(variances)[None]
        scores = variances ** (2 if self.ranking == "class_squared" else 1) * use
        kept = vectors[:, scores.topk(min(self.k or len(weight), len(variances))).indices.unique()]
        projector: Tensor = kept @ kept.T
        return projector


def last_linear(net: nn.Module, train: Dataset) -> nn.Linear:
    """The linear layer whose output the logits are."""
    called: list[tuple[nn.Linear, Tensor]] = []
    layers = [part for part in net.modules() if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_hook(lambda part, _, output: called.append((part, output))) for part in layers]
    logits = net(next(_batches(net, train)))
    for hook in hooks:
        hook.remove()
    if not called or not torch.equal(called[-1][1], logits):
        raise BadInput(
            f"rfi projects the last linear layer, and the logits of {type(net).__name__} are not the output of one; "
            "give a single network that ends in an nn.Linear"
        )
    return called[-1][0]


def feature_moments(net: nn.Module, layer: nn.Linear, train: Dataset) -> tuple[Tensor, Tensor]:
    """Mean [d] and second moments [d, d] of what enters the layer, over the training images, in float64."""
    total = layer.weight.new_zeros(layer.in_features, dtype=torch.float64)
    squares = total.new_zeros(layer.in_features, layer.in_features)

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        features = args[0].double()
        total.add_(features.sum(0))
        squares.addmm_(features.T, features)

    hook = layer.register_forward_pre_hook(gather)
    for x in _batches(net, train):
        net(x)
    hook.remove()
    return total / len(train), squares / len(train)


def _batches(net: nn.Module, train: Dataset) -> Iterator[Tensor]:
    where = next(net.parameters()).device
    for index in torch.arange(len(train)).split(500):
        yield train.batch(index)[0].to(where)
