"""A network as an adaptive attacker takes it: by the networks inside of it, past what denies its gradient, without its noise.

A forward pass is a program. Every tensor that it computes is seen (TorchFunctionMode), wherever the code keeps its networks:
those with a number for each class may be answers of networks inside, the last one shaped as the images is what the last of
them sees. Attacks climb what is read there; what counts is judged by the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
DRAWS = 8
"""Points that the smoothed network is averaged over."""
WIDTH = 0.5
"""Their distance from the image, as a fraction of eps."""

_ROUNDING: set[Any] = {
    getattr(place, name) for place in (torch, Tensor) for name in ("round", "floor", "ceil", "trunc", "fix", "sign")
}
_DETACHING: set[Any] = {torch.detach, Tensor.detach, Tensor.data.__get__}  # type: ignore[attr-defined]
_LEAVING: set[Any] = {Tensor.numpy, Tensor.__array__, Tensor.tolist}
Seen = Callable[[Tensor], Tensor]


class _Reading(TorchFunctionMode):
    """Shows every tensor that a forward pass computes to `seen`, which may give another one in its place.

    gently: with detach, no_grad and rounding undone in the backward pass, and in it alone; no value changes.
    """

    def __init__(self, seen: Seen, *, gently: bool, second: bool = False) -> None:
        super().__init__()
        self.gently, self.second = gently, second
        self.took_gradients = False
        """Whether the pass takes gradients itself."""
        self._seen, self._known = seen, dict[int, tuple[Tensor, object]]()

    def seen(self, value: Tensor) -> Tensor:
        """What is to be used in place of a tensor, which is shown once, and again once it came of something else."""
        if value.dim() not in (2, 4):
            return value
        if self._known.get(id(value), (None, None))[1] is not (value.grad_fn or value):
            found = self._seen(value)
            self._known |= {id(kept): (kept, kept.grad_fn or kept) for kept in (value, found)}
            return found
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.took_gradients |= func is torch.autograd.grad
        if func is torch.autograd.grad and len(args) < 4:
            # What was computed on the way is asked for a gradient once more.
            kwargs = {**kwargs, "retain_graph": True, **({"create_graph": True} if self.second else {})}
        if self.gently and func is torch._C._set_grad_enabled:
            return func(True)
        if self.gently and func in _DETACHING:
            return args[0]
        if args and isinstance(args[0], Tensor):
            # Programs and functions that torch does not show appear by what is done with their results.
            first = args[0].detach() if self.gently and func in _LEAVING else self.seen(args[0])
            args = (first, *args[1:])
        found = func(*args, **kwargs)
        if not isinstance(found, Tensor):
            return found
        if self.gently and func in _ROUNDING and isinstance(args[0], Tensor):
            found = found.detach() + (args[0] - args[0].detach())
        return self.seen(found)


class Adapted(nn.Module):
    """A network read otherwise: float32 logits [N, K] in the end, as from any network."""

    def __init__(self, net: nn.Module, *, gently: bool = True, second: bool = False) -> None:
        super().__init__()
        self.net, self.gently, self.second = net, gently, second

    def _read(self, x: Tensor, seen: Seen) -> Tensor:
        with _Reading(seen, gently=self.gently, second=self.second):
            return ask(self.net, x)

    def forward(self, x: Tensor) -> Tensor:
        """The whole, its gradient past detach, no_grad and rounding (Bengio et al. 2013); second: past loops of its own."""
        return self._read(x, lambda found: found)


class Inner(Adapted):
    """What the whole computes on its way as the answer of a network inside; of several, the mean at one scale."""

    def __init__(self, net: nn.Module, places: Mapping[int, float], *, gently: bool = True) -> None:
        super().__init__(net, gently=gently)
        self.places = places
        """The place of each among the tensors [N, K] of a pass, and what its logits are divided by."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]; the whole's where a pass takes another way."""
        count, kept = 0, []

        def seen(found: Tensor) -> Tensor:
            nonlocal count
            if _answers(found, len(x)):
                if count in self.places:
                    kept.append(found / self.places[count])
                count += 1
            return found

        whole = self._read(x, seen)
        return torch.stack(kept).mean(0).float() if kept and kept[0].shape == whole.shape else whole


class Passed(Adapted):
    """The whole, where everything before one image on its way has the gradient of the identity (BPDA, Athalye et al. 2018)."""

    def __init__(self, net: nn.Module, place: int, *, gently: bool = True) -> None:
        super().__init__(net, gently=gently)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of x."""
        count = 0

        def seen(found: Tensor) -> Tensor:
            nonlocal count
            if found.shape == x.shape and found.is_floating_point():
                count += 1
                if count - 1 == self.place:
                    return found.detach() + (x - x.detach())
            return found

        return self._read(x, seen)


class Smoothed(nn.Module):
    """The mean over points around the image, the same ones for every image: a gradient without what is finer than they lie."""

    def __init__(self, net: nn.Module, shape: Sequence[int], threat: ThreatModel, seed: int) -> None:
        super().__init__()
        self.net = net
        noise = torch.randn(DRAWS // 2, *shape, generator=torch.Generator().manual_seed(seed % 2**63))
        length = threat.distance(noise, torch.zeros_like(noise)).clamp_min(1e-12).view(-1, 1, 1, 1)
        if threat.norm == "linf":
            noise, length = noise.sign(), torch.ones(1)
        noise = WIDTH * threat.radius * noise / length
        self.points = torch.cat([noise, -noise])

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of x."""
        return torch.stack([ask(self.net, x + point) for point in self.points.to(x)]).mean(0)


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
                found = dict(_found(net, x, y, gently))
        except Exception:  # whatever the network raises when it is read otherwise: its number does not depend on it
            continue
        break
    found["noise"] = Smoothed(net, x.shape[1:], threat, seed)
    return {name: Expectation(other, draws) for name, other in found.items()} if draws > 1 else found


def _found(net: nn.Module, x: Tensor, y: Tensor, gently: bool) -> Iterator[tuple[str, nn.Module]]:
    answers: list[Tensor] = []
    images: list[Tensor] = []

    def seen(value: Tensor) -> Tensor:
        if _answers(value, len(x)):
            answers.append(value.detach().float())
        elif value.shape == x.shape and value.is_floating_point():
            images.append(value.detach())
        return value

    z = x.detach().requires_grad_()
    with torch.enable_grad(), _Reading(seen, gently=gently) as reading:
        whole = ask(net, z)
    whole = whole.detach()
    answers = [value if value.shape == whole.shape else torch.zeros_like(whole) for value in answers]
    inner = _inner(answers, whole, y, lambda place: _gradient(Inner(net, {place: 1.0}, gently=gently), x, y))
    for number, place in enumerate(inner, 1):
        yield f"inner {number}", Inner(net, {place: 1.0}, gently=gently)
    if len(inner) > 1:
        yield "inner all", Inner(net, {place: float(answers[place].std()) for place in inner}, gently=gently)
    own = _gradient(net, x, y)
    changed = [place for place, value in enumerate(images) if not torch.equal(value, x)]
    others: dict[str, nn.Module] = {"rounding": Adapted(net, gently=gently)}
    if reading.took_gradients:
        others["loops"] = Adapted(net, gently=gently, second=True)
    if changed:
        others["images"] = Passed(net, changed[-1], gently=gently)
    for name, other in others.items():
        if _turned(own, _gradient(other, x, y)):
            yield name, other


def _answers(value: Tensor, rows: int) -> bool:
    return value.dim() == 2 and len(value) == rows and value.is_floating_point()


def _inner(answers: Sequence[Tensor], whole: Tensor, y: Tensor, gradient: Callable[[int], Tensor]) -> list[int]:
    """The places of answers that are about the labels, have a gradient, and are neither the whole's nor one another's up to
    shift and scale.
    """
    right = [float((answer.argmax(1) == y).double().mean()) for answer in answers]
    least = max(WORTH * float((whole.argmax(1) == y).double().mean()), 1.5 / whole.shape[1])
    kept: list[int] = []
    for place in sorted(range(len(answers)), key=lambda place: (-right[place], place)):
        others = [whole, *(answers[other] for other in kept)]
        if len(kept) == MOST or right[place] <= least:
            break
        if not any(_alike(answers[place], other) for other in others) and _leads(gradient(place)):
            kept.append(place)
    return kept


def _alike(one: Tensor, other: Tensor) -> bool:
    """Up to a shift of each image's and a scale of all; or the probabilities of such logits."""
    return any(_cosine(given, other) > ALIKE for given in (one, one.clamp_min(1e-30).log()))


def _cosine(one: Tensor, other: Tensor) -> float:
    first, second = ((part - part.mean(1, keepdim=True)).flatten() for part in (one, other))
    return float(torch.cosine_similarity(first, second, dim=0).nan_to_num(0.0))


def _gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the margin at the images, [N, C * H * W]; 0 where there is none."""
    return slopes(net, x, y, margin).nan_to_num(0.0).flatten(1)


def _turned(own: Tensor, other: Tensor) -> bool:
    """Whether another reading has a gradient, and leads elsewhere."""
    return _leads(other) and float(torch.cosine_similarity(own, other)[other.abs().amax(1) > 0].median()) < TURNED


def _leads(grad: Tensor) -> bool:
    """Whether most images have a gradient."""
    return float((grad.abs().amax(1) > 0).double().mean()) >= WORTH
