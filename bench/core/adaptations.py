"""Which readings of a network (bench/core/adapted.py) an adaptive attacker would attack in its place.

Of what a forward pass computes on its way, numbers for each class may be the answers of networks inside, and the last tensor
shaped as the images is what the last of them sees. A defense may do nothing to clean images: so all this is looked at on
images at a boundary between two answers and on attacked ones as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.core.adapted import Adapted, Inner, Passed, Reading, Smoothed, answers, storages
from bench.core.boundary import ask
from bench.core.expectation import Expectation
from bench.core.losses import margin
from bench.core.rng import isolated
from bench.core.threat import ThreatModel
from bench.core.views import slopes

MOST = 4
"""Networks inside that are attacked one by one, at most: those that are right most often."""
ALIKE = 0.999
"""The cosine between centred logits over all images, from which two answers are one up to shift and scale."""
WORTH = 0.5
"""The share of the whole's accuracy that a network inside has at least."""
TURNED = 0.9
"""The median cosine between the network's gradient and that past a step of it, below which the step is passed."""
HALVINGS = 8
"""Of the way between two images of different answers, towards the boundary."""


class _Pass(NamedTuple):
    """What a network computes on its way, at some images."""

    x: Tensor
    whole: Tensor
    """Its answer, [N, K]."""
    answers: list[Tensor]
    """Numbers for each class, the answer among them; zeros for those of other classes."""
    images: list[Tensor]
    loops: bool
    """Whether it took gradients itself."""


def adaptations(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int, draws: int = 1) -> dict[str, nn.Module]:
    """What of a network an adaptive attacker would attack in its place, by name; x [N, C, H, W], y: images to find it on.

    `inner 1`, ...: a network inside; `inner all`: their mean. `images`: past what comes before the last network. `rounding`:
    past detach, no_grad and rounding. `loops`: past gradients that the pass takes itself. `noise`: around the image. Only
    those that are there; a network that cannot be read has the last alone.

    draws: answers of a randomised network that are averaged.
    """
    found: dict[str, nn.Module] = {}
    for gently in (True, False):
        try:
            with isolated(seed, "readings"):
                found = dict(_found(net, x, y, threat, gently))
        except Exception:  # whatever the network raises when it is read otherwise: its number does not depend on it
            continue
        break
    found["noise"] = Smoothed(net, x.shape[1:], threat, seed)
    return {name: Expectation(other, draws) for name, other in found.items()} if draws > 1 else found


def _found(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, gently: bool) -> Iterator[tuple[str, nn.Module]]:
    attacked = threat.project(x + threat.radius * threat.steepest(_gradient(net, x, y), x), x)
    passes = [_pass(net, images, gently) for images in (x, _undecided(net, x), attacked)]
    clean = passes[0]

    def gradients(other: nn.Module) -> list[Tensor]:
        return [_gradient(other, seen.x, y).flatten(1) for seen in passes]

    inner = _inner(passes, y, lambda place: gradients(Inner(net, {place: 1.0}, gently=gently)))
    for number, place in enumerate(inner, 1):
        yield f"inner {number}", Inner(net, {place: 1.0}, gently=gently)
    if len(inner) > 1:
        yield "inner all", Inner(net, {place: float(clean.answers[place].std()) for place in inner}, gently=gently)
    own = gradients(net)
    others: dict[str, nn.Module] = {"rounding": Adapted(net, gently=gently)}
    if any(seen.loops for seen in passes):
        others["loops"] = Adapted(net, gently=gently, second=True)
    if changed := [seen for seen in map(_changed, passes) if seen]:
        others["images"] = Passed(net, changed[0][-1], gently=gently)
    for name, other in others.items():
        if any(map(_turned, own, gradients(other))):
            yield name, other


def _pass(net: nn.Module, x: Tensor, gently: bool) -> _Pass:
    found: list[Tensor] = []
    images: list[Tensor] = []
    weights = storages(net)

    def seen(value: Tensor) -> Tensor:
        if answers(value, len(x), weights):
            found.append(value.detach().float())
        elif value.shape == x.shape and value.is_floating_point():
            images.append(value.detach())
        return value

    z = x.detach().requires_grad_()
    with torch.enable_grad(), Reading(seen, gently=gently) as reading:
        whole = ask(net, z)
    # Inside of the reading a detach is none.
    whole = whole.detach()
    given = [value if value.shape == whole.shape else torch.zeros_like(whole) for value in found]
    return _Pass(x, whole, given, images, reading.took_gradients)


def _undecided(net: nn.Module, x: Tensor) -> Tensor:
    """Images at a boundary between answers, each on the way from one of x to the next that is answered otherwise."""
    with torch.no_grad():
        label = ask(net, x).argmax(1)
        others = (label != label[:, None]).int()
        # The first image after each one, around the end, that has another label.
        after = torch.stack([row.roll(-place) for place, row in enumerate(others)]).argmax(1)
        other = x[(torch.arange(len(x), device=x.device) + after) % len(x)]
        low, high = torch.zeros(len(x), 1, 1, 1, device=x.device), torch.ones(len(x), 1, 1, 1, device=x.device)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            same = (ask(net, torch.lerp(x, other, middle)).argmax(1) == label).view(-1, 1, 1, 1)
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.lerp(x, other, low)


def _changed(seen: _Pass) -> list[int]:
    """The places of images that are not those of the pass."""
    return [place for place, value in enumerate(seen.images) if not torch.equal(value, seen.x)]


def _inner(passes: Sequence[_Pass], y: Tensor, gradients: Callable[[int], list[Tensor]]) -> list[int]:
    """The places of answers that are about the labels, have a gradient, and are neither the whole's nor one another's up to
    shift and scale.
    """
    clean = passes[0]
    right = [float((answer.argmax(1) == y).double().mean()) for answer in clean.answers]
    least = max(WORTH * float((clean.whole.argmax(1) == y).double().mean()), 1.5 / clean.whole.shape[1])
    # Where a pass takes another way, a place in it is another tensor.
    same = [seen for seen in passes if len(seen.answers) == len(clean.answers)]
    kept: list[int] = []
    for place in sorted(range(len(clean.answers)), key=lambda place: (-right[place], place)):
        others = [[seen.whole for seen in same], *([seen.answers[other] for seen in same] for other in kept)]
        if len(kept) == MOST or right[place] <= least:
            break
        mine = [seen.answers[place] for seen in same]
        if not any(all(map(_alike, mine, other)) for other in others) and any(map(_leads, gradients(place))):
            kept.append(place)
    return kept


def _alike(one: Tensor, other: Tensor) -> bool:
    """Up to a shift of each image's and a scale of all; or the probabilities of such logits."""
    return any(_cosine(given, other) > ALIKE for given in (one, one.clamp_min(1e-30).log()))


def _cosine(one: Tensor, other: Tensor) -> float:
    first, second = ((part - part.mean(1, keepdim=True)).flatten() for part in (one, other))
    return float(torch.cosine_similarity(first, second, dim=0).nan_to_num(0.0))


def _gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the margin at the images, [N, C, H, W]; 0 where there is none."""
    return slopes(net, x, y, margin).nan_to_num(0.0)


def _turned(own: Tensor, other: Tensor) -> bool:
    """Whether another reading has a gradient, and leads elsewhere."""
    return _leads(other) and float(torch.cosine_similarity(own, other)[other.abs().amax(1) > 0].median()) < TURNED


def _leads(grad: Tensor) -> bool:
    """Whether most images have a gradient."""
    return float((grad.abs().amax(1) > 0).double().mean()) >= WORTH
