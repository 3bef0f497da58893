"""The one way a network is called: on a copy of the images, and its answer taken as float32 logits.

Some networks take gradients in their forward: an anti-adversary, an energy that is walked down. Where they do not turn them
on by themselves, a call that wants none from them raises; it is made again as they need it, and so is every later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from weakref import finalize

import torch
from torch import Tensor, nn

from bench.errors import BadInput, out_of_memory

Network = Callable[[Tensor], object]
"""Whatever answers images [N, C, H, W]."""
_NEEDS: dict[int, int] = {}
"""What networks, by their id, were found to need where nobody wants a gradient of them: 1, that gradients are on; 2, that the
images require one as well."""


def ask(net: Network, x: Tensor) -> Tensor:
    """What a network answers to images x [N, C, H, W], as float32 logits [N, K]; float64 where the images are.

    The network gets a copy: preprocessing that works in place changes no image of ours, nor a leaf that wants its gradient.
    One that cannot answer a single image, as where it squeezes the batch away, is given that image twice. BadInput for an
    answer that holds no logits.
    """
    if isinstance(net, Classifier | Double):
        return net(x)  # type: ignore[no-any-return]
    if len(x) != 1:
        return _asked(net, x)
    try:
        logits = _asked(net, x)
        if logits.dim() == 2 and len(logits) == 1:
            return logits
    except Exception as error:  # whatever the network raises; it says so again below, if company does not help
        if out_of_memory(error):
            raise
    return _asked(net, torch.cat([x, x]))[:1]


def _asked(net: Network, x: Tensor) -> Tensor:
    """The logits of x, with a graph only where gradients are on."""
    refused: RuntimeError | None = None
    for need in range(_NEEDS.get(id(net), 0), 3):
        try:
            logits = _answer(net, x, need)
        except RuntimeError as error:
            if "grad" not in str(error) or (torch.is_grad_enabled() and x.requires_grad):
                raise
            # Of a network that runs into this with all that it could need, the first error is the one to tell.
            refused = refused or error
        else:
            if need:
                _remember(net, need)
            return logits
    assert refused is not None
    raise refused


def _answer(net: Network, x: Tensor, need: int) -> Tensor:
    wanted = torch.is_grad_enabled()
    with torch.enable_grad() if need else nullcontext():
        given = x.clone()
        if given.requires_grad:
            # The network may call `backward` and read the gradient of what it is given, as it could of a leaf.
            given.retain_grad()
        logits = logits_in(net(given.requires_grad_() if need == 2 else given), _precision(x))
    return logits if wanted else logits.detach()


def _precision(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _remember(net: Network, need: int) -> None:
    if id(net) not in _NEEDS:
        with suppress(TypeError):  # of what cannot be referred to weakly, nothing is remembered
            finalize(net, _NEEDS.pop, id(net), None)
            _NEEDS[id(net)] = need


class Classifier(nn.Module):
    """A network from elsewhere behind the boundary, for whoever calls what he is given by himself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of x."""
        return ask(self.net, x)


class Double(nn.Module):
    """A copy of a network in float64; its logits stay so."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = deepcopy(net).double()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of x, float64."""
        return ask(self.net, x.double())


def logits_in(answer: object, dtype: torch.dtype = torch.float32) -> Tensor:
    """The logits in what a network returned, in this precision; BadInput where there are none to be told."""
    named = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    found = answer if isinstance(answer, Tensor) else named
    if not isinstance(found, Tensor):
        raise BadInput(_unreadable(answer))
    if found.is_quantized:
        found = found.dequantize()
    if found.is_inference() and not torch.is_inference_mode_enabled():
        found = found.clone()
    return found.to(dtype) if found.is_floating_point() else found


def _unreadable(answer: object) -> str:
    """What a network returned instead of logits, and what it should."""
    told = f"returns a {type(answer).__name__}, not a tensor of logits"
    if isinstance(answer, Mapping):
        keys = ", ".join(map(repr, list(answer)[:5]))
        return f"{told}: its keys are {keys or 'none'}; return the logits alone, or under the key 'logits'"
    if isinstance(answer, list | tuple):
        parts = [f"{type(part).__name__} {list(part.shape) if isinstance(part, Tensor) else ''}".strip() for part in answer[:5]]
        return f"{told}, of {', '.join(parts) or 'nothing'}; return the logits alone, such as `return answer[0]`"
    return f"{told}; return the logits alone, or an object that has them as `.logits`"


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The network in eval mode for as long as this lasts; then every part of it is in the mode that it was in."""
    modes = {part: part.training for part in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
