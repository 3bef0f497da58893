"""SimBA (Guo et al. 2019) for linf and l2: one pixel or one cosine wave at a time, no gradients."""

from math import pi
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.attack import BadInput, Live, Rng, Score, ThreatModel, attack


@attack("simba", access="score", norms={"linf", "l2"})
def simba(
    model: Score,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 1000,
    basis: Literal["pixel", "dct"] = "pixel",
    step: Annotated[float, Field(gt=0)] | None = None,
    freq_dims: Annotated[int, Field(ge=1)] | None = None,
) -> Tensor:
    """Step along basis vectors in random order, first down, then up, whenever the true class loses probability.

    Basis vectors have length 1 in the norm of the threat model; step defaults to eps for linf and to 0.2 for l2.
    freq_dims keeps the lowest frequencies of the dct.
    """
    if freq_dims is not None and basis == "pixel":
        raise BadInput(f"freq_dims = {freq_dims} says how many frequencies to use; give basis = 'dct' with it")
    if step is None:
        step = threat.radius if threat.norm == "linf" else 0.2
    rows, columns = (_axis(basis, size, freq_dims, threat.norm).to(x) for size in x.shape[2:])
    count = x.shape[1] * len(rows) * len(columns)
    live, z, spent = Live(x), x.clone(), torch.ones_like(y)
    logits = model.logits(x)
    loss, fooled = _odds_against(logits, y), logits.argmax(1) != y
    for trial in range(queries):
        if trial % count == 0:
            order = rng.at("order", trial // count).permutation(count)
        # A sample out of queries is as finished as a fooled one.
        live.keep(z, loss, fooled | (spent >= queries))
        model, x, y, z, loss, fooled, spent, rng, order = live.drop(model, x, y, z, loss, fooled, spent, rng, order)
        if not len(live):
            break
        move = step * _waves(order[:, trial % count], x.shape[1], rows, columns)
        going = ~fooled
        for change in (-move, move):
            going = going & (spent < queries)
            if not going.any():
                break
            candidate = threat.project(z[going] + change[going], x[going])
            logits = model[going].logits(candidate)
            spent = spent + going
            against, wrong = _odds_against(logits, y[going]), logits.argmax(1) != y[going]
            better = wrong | (against > loss[going])
            moved = going.masked_scatter(going, better)
            z[moved], loss[moved] = candidate[better], against[better]
            fooled = fooled.masked_scatter(going, wrong)
            going = going & ~moved
    return live.result


def _odds_against(logits: Tensor, y: Tensor) -> Tensor:
    """The log-odds against the true class, [N]: falls as its probability rises, and has digits left where that is 1."""
    true = y.unsqueeze(1)
    return logits.scatter(1, true, -torch.inf).logsumexp(1) - logits.gather(1, true).squeeze(1)


def _axis(basis: str, size: int, freq_dims: int | None, norm: str) -> Tensor:
    """The vectors of the basis along one side of the image, each of length 1, float64 [F, size]."""
    position = torch.arange(size, dtype=torch.float64)
    if basis == "pixel":
        return torch.eye(size, dtype=torch.float64)
    waves = torch.cos(pi / size * (position + 0.5) * position[:freq_dims].unsqueeze(1))
    return F.normalize(waves, p=torch.inf if norm == "linf" else 2, dim=1)


def _waves(which: Tensor, channels: int, rows: Tensor, columns: Tensor) -> Tensor:
    """The basis vectors with these numbers, [N, C, H, W]."""
    place, column = which // len(columns), which % len(columns)
    channel = F.one_hot(place // len(rows), channels).to(rows)
    wave: Tensor = torch.einsum("nc,nh,nw->nchw", channel, rows[place % len(rows)], columns[column])
    return wave
