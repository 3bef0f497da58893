"""The tangent kernel of a network, clean and attacked, and its course over the epochs that a training kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from bench.errors import BadInput
from bench.measures.registry import Found, Positive, Probe, Samples, Whole, measure
from bench.science import ntk
from bench.science.ascent import Ascent

Images = Callable[[], Tensor]
"""Made when they are needed: what an interruption left needs none."""


@measure("kernel")
def kernel(
    probe: Probe,
    *,
    n: Samples = 250,
    outputs: Literal["sum", "trace", "full"] = "sum",
    specialisation: bool = True,
    steps: Whole = 10,
    step: Positive = 0.25,
    checkpoints: bool = False,
) -> Found:
    """Tangent kernel, clean and attacked: distance, specialisation, effective rank; over kept epochs, its polar dynamics.

    outputs: the kernel of the sum of logits, the mean over logits, or the full one of nK x nK, which specialisation is then
    read from. against: the distance to another network's kernels on the same images.
    """
    ascent = Ascent(steps, step)
    images = cache(partial(_attacked, probe, probe.net, ascent))
    clean, attacked = _pair(probe, probe.net, outputs, images, "own")
    values = _of(clean, "clean") | _of(attacked, "attacked")
    values["distance, clean to attacked"] = ntk.distance(clean, attacked)
    curves, arrays = {}, {"clean": clean, "attacked": attacked}
    if specialisation:
        for name, of, whole in (("clean", lambda: probe.x, clean), ("attacked", images, attacked)):
            matrix = _specialisation(probe, of, whole if outputs == "full" else None, name)
            arrays[f"{name} specialisation"] = matrix
            values[f"{name} specialisation"] = matrix.diagonal().mean()
    if probe.against:
        theirs = _pair(probe, probe.against.net, outputs, partial(_attacked, probe, probe.against.net, ascent), "against")
        for name, mine, other in zip(("clean", "attacked"), (clean, attacked), theirs, strict=True):
            values[f"distance to {probe.against.name}, {name}"] = ntk.distance(mine, other)
    if checkpoints:
        curves["over epochs"], moved = _course(probe, outputs, ascent, specialisation=specialisation)
        arrays["distances between epochs"] = moved
    notes = ("distance: 1 - the cosine between kernels; effective rank: exp of the entropy of the eigenvalues' shares",)
    return Found({k: float(v) for k, v in values.items()}, curves, arrays, notes)


def _attacked(probe: Probe, net: nn.Module, ascent: Ascent) -> Tensor:
    return torch.cat([ascent.end(net, x, y, probe.threat, rng.at("kernel")) for x, y, rng in probe.batches()])


def _pair(probe: Probe, net: nn.Module, outputs: ntk.Outputs, attacked: Images, name: str) -> tuple[Tensor, Tensor]:
    """The kernels on clean images and on the same ones attacked."""
    found = [
        probe.part(f"{name}-{kind}", lambda x=x: ntk.kernel(net, x(), outputs))  # type: ignore[misc]
        for kind, x in (("clean", lambda: probe.x), ("attacked", attacked))
    ]
    return found[0], found[1]


def _of(k: Tensor, name: str) -> dict[str, Tensor]:
    """What is read from one kernel."""
    return {
        f"{name} effective rank": ntk.effective_rank(k), f"{name} participation ratio": ntk.participation_ratio(k),
        f"{name} top-10 mass": ntk.top_mass(k),
    }  # fmt: skip


def _specialisation(probe: Probe, images: Images, full: Tensor | None, name: str) -> Tensor:
    """[K, K], of classes that are all among the labels."""
    if len(seen := probe.y.unique()) < probe.classes:
        raise BadInput(
            f"specialisation needs an image of every class, and {len(probe)} images hold {len(seen)} of {probe.classes}: "
            f"give --n {4 * probe.classes}, or leave it out with --set specialisation=false"
        )
    if full is not None:
        return ntk.specialisation(ntk.of_classes(full, probe.classes), probe.y.cpu())
    kernels = probe.part(f"{name}-classes", lambda: ntk.kernel(probe.net, images(), "classes"))
    return ntk.specialisation(kernels, probe.y.cpu())


def _course(probe: Probe, outputs: ntk.Outputs, ascent: Ascent, *, specialisation: bool) -> tuple[dict[str, Tensor], Tensor]:
    """A row for each kept epoch, and the distances of the clean kernels of all pairs of them."""
    kept, pairs, special = probe.kept(), [], []
    for epoch, net in kept:
        images = cache(partial(_attacked, probe, net, ascent))
        pair = _pair(probe, net, outputs, images, f"epoch-{epoch}")
        pairs.append(pair)
        if specialisation:
            at = replace(probe, net=net)
            kinds: tuple[tuple[str, Images], ...] = (("clean", lambda: probe.x), ("attacked", images))
            found = [
                _specialisation(at, of, whole if outputs == "full" else None, f"epoch-{epoch}-{name}").diagonal().mean()
                for (name, of), whole in zip(kinds, pair, strict=True)
            ]
            special.append(torch.stack(found))
    clean, attacked = (torch.stack(kernels) for kernels in zip(*pairs, strict=True))
    curve, moved = course([epoch for epoch, _ in kept], clean, attacked)
    if special:
        curve |= dict(zip(("specialisation", "attacked specialisation"), torch.stack(special).T, strict=True))
    return curve, moved


def course(epochs: list[int], clean: Tensor, attacked: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What is read from the kernels [T, n, n] of a training, and the distances of the clean ones of all pairs of epochs."""
    radius, angle = ntk.polar(clean)
    top_radius, top_angle = ntk.polar(ntk.leading(clean))
    none = clean.new_full((1,), torch.nan)
    curve = {
        "epoch": torch.tensor(epochs), "velocity": torch.cat([none, ntk.distance(clean[1:], clean[:-1])]),
        "clean to attacked": ntk.distance(clean, attacked), "effective rank": ntk.effective_rank(clean),
        "attacked effective rank": ntk.effective_rank(attacked), "radius": radius, "angle": angle,
        "top-20 radius": top_radius, "top-20 angle": top_angle,
    }  # fmt: skip
    return curve, ntk.distance(clean[:, None], clean[None])
