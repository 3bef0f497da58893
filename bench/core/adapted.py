"""A network as an adaptive attacker takes it: by the networks inside of it, past what denies its gradient, without its noise.

A forward pass is a program. Every tensor that it computes is seen (TorchFunctionMode), wherever the code keeps its networks:
attacks climb what is read there, and what counts is judged by the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.core.boundary import Classifier, ask
from bench.core.threat import ThreatModel

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


class Reading(TorchFunctionMode):
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
        with Reading(seen, gently=self.gently, second=self.second):
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
        count, kept, weights = 0, [], storages(self.net)

        def seen(found: Tensor) -> Tensor:
            nonlocal count
            if answers(found, len(x), weights):
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
        around = (x + point for point in self.points.to(x))
        # A network from elsewhere is promised images.
        inside = (z.clamp(0, 1) for z in around) if isinstance(self.net, Classifier) else around
        return torch.stack([ask(self.net, z) for z in inside]).mean(0)


def answers(value: Tensor, rows: int, weights: Set[int]) -> bool:
    """Whether a tensor holds numbers for each of so many images, and is none of the weights, which may have as many rows."""
    return value.dim() == 2 and len(value) == rows and value.is_floating_point() and _storage(value) not in weights


def storages(net: nn.Module) -> Set[int]:
    """Where the weights of a network lie, by which they are known however they are transposed or cut."""
    return {_storage(part) for part in (*net.parameters(), *net.buffers())} - {0}


def _storage(value: Tensor) -> int:
    """Where it begins; 0 for a tensor that has no memory of its own, as transformations of torch.func make them."""
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
