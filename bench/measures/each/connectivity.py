"""Whether a curve of low adversarial loss joins two networks: Bezier curves, their norms' statistics made anew."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.adam import adam

from bench.core import Rng, shuffled
from bench.data import Dataset
from bench.errors import BadInput
from bench.measures.registry import Curve, Found, Positive, Probe, Samples, Whole, measure
from bench.models import batchnorm
from bench.science.ascent import Ascent
from bench.science.landscape import bernstein, height, on_curve
from bench.science.weights import gradient, moved, weights_of

# The function, as making an optimiser imports the compiler, which takes as long as forty updates on digits.
_adam = partial(adam, amsgrad=False, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, maximize=False)
_NAMES = ("clean", "adversarial", "accuracy", "robust accuracy")


@measure("connectivity")
def connectivity(
    probe: Probe,
    *,
    n: Samples = 250,
    bends: Annotated[int, Field(ge=1, le=8)] = 3,
    updates: Annotated[int, Field(ge=0)] = 300,
    lr: Positive = 0.003,
    batch: Whole = 64,
    points: Annotated[int, Field(ge=3, le=201)] = 13,
    steps: Whole = 3,
    step: Positive = 0.5,
) -> Found:
    """Loss along a Bezier curve to another network (against=), trained to be low on adversarial images, and on the line to it.

    bends: free points between the ends, which stay. updates: of these points by Adam, each on one batch attacked at one random
    point of the curve. Statistics of norms are recomputed on attacked training images at every point that is measured.
    """
    other = probe.other("connectivity")
    one, two = ([weight.shape for weight in net.parameters()] for net in (probe.net, other.net))
    if one != two:
        raise BadInput(
            f"{other.name} has weights of other shapes, and a curve joins networks of one architecture; name another"
        )
    ends = torch.stack([weights_of(probe.net), weights_of(other.net)])
    ascent, train = Ascent(steps, step), probe.train().to(probe.x.device)
    line = torch.stack([torch.lerp(ends[0], ends[1], share) for share in torch.linspace(0, 1, bends + 2).tolist()])
    bent = probe.part("points", lambda: _bent(probe, line, train, ascent, (updates, lr, batch))).to(line)
    at = torch.linspace(0, 1, points, dtype=torch.float64)
    outer = probe.part("ends", lambda: _along(probe, line, at[[0, -1]], train, ascent, batch))
    curves: dict[str, Curve] = {}
    values: dict[str, Tensor] = {}
    for name, course in (("line", line), ("curve", bent)):
        inside = probe.part(f"along-{name}", lambda c=course: _along(probe, c, at[1:-1], train, ascent, batch))  # type: ignore[misc]
        table = torch.cat([outer[:1], inside, outer[1:]])
        curves[name] = {"t": at, **{column: table[:, i] for i, column in enumerate(_NAMES)}}
        values |= {f"{name}: adversarial at most": table[:, 1].max(), f"{name}: barrier": table[:, 1].max() - outer[:, 1].max()}
    values["adversarial at the ends"] = outer[:, 1].max()
    notes = (
        "the barrier is the highest adversarial loss on the way less that of the worse end; 0 for networks that are joined",
    )
    return Found({k: float(v) for k, v in values.items()}, curves, notes=notes)


def _bent(probe: Probe, line: Tensor, train: Dataset, ascent: Ascent, how: tuple[int, float, int]) -> Tensor:
    """The points of the curve after its training, [bends + 2, P]."""
    updates, lr, size = how
    net, inner = deepcopy(probe.net), line[1:-1].clone()
    mean, square, count = torch.zeros_like(inner), torch.zeros_like(inner), torch.tensor(0.0)
    for number, (x, y, rng) in enumerate(_drawn(train, probe.seed, updates, size)):
        t = float(Rng(probe.seed, torch.zeros(1, dtype=torch.int64)).at("t", number).uniform((1,)))
        points = torch.cat([line[:1], inner, line[-1:]])
        with moved(net, on_curve(points, t)):
            # In eval mode the statistics are those of an end, which are none of the curve's.
            net.eval()
            _restate(net, [(x, y, rng)], probe, ascent=None)
            z = ascent.end(net, x, y, probe.threat, rng)
            slope = gradient(net, [(z, y)])
        pull = bernstein(len(line) - 1, t).to(line)[1:-1, None] * slope
        _adam([inner], [pull], [mean], [square], [], [count], lr=lr)
    return torch.cat([line[:1], inner, line[-1:]])


def _drawn(train: Dataset, seed: int, updates: int, size: int) -> Iterator[tuple[Tensor, Tensor, Rng]]:
    """So many batches of training images, epoch after epoch in another order."""
    number = 0
    for epoch in range(updates):
        for rows in shuffled(len(train), seed, "curve", epoch).split(size):
            if number == updates:
                return
            x, y = train.batch(rows)
            yield x, y, Rng(seed, train.ids[rows.to(train.ids.device)]).at("curve", epoch)
            number += 1


def _along(probe: Probe, points: Tensor, at: Tensor, train: Dataset, ascent: Ascent, size: int) -> Tensor:
    """Losses and accuracies at every t, [len(at), 4]."""
    net, parts = deepcopy(probe.net), [(x, y, rng.at("connectivity")) for x, y, rng in probe.batches()]
    some = list(_drawn(train, probe.seed, 4, size))
    rows = []
    for t in at.tolist():
        with moved(net, on_curve(points, t)):
            _restate(net, some, probe, ascent)
            rows.append(torch.stack(height(net, parts, probe.threat, ascent)))
    return torch.stack(rows)


def _restate(net: nn.Module, batches: list[tuple[Tensor, Tensor, Rng]], probe: Probe, ascent: Ascent | None) -> None:
    """Make the statistics of norms anew, on attacked images where there is an ascent, made with those of clean ones."""
    if not batchnorm.layers(net):
        return
    images = [x for x, _, _ in batches]
    for attacked in (False, True) if ascent else (False,):
        if attacked and ascent:
            images = [ascent.end(net, x, y, probe.threat, rng) for x, y, rng in batches]
        with torch.no_grad(), batchnorm.recomputed(net.train()):
            for x in images:
                net(x)
        net.eval()
