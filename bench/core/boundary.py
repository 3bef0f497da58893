"""The one way a network is called: on a copy of the images, and its answer taken as float32 logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.errors import BadInput, out_of_memory

Network = Callable[[Tensor], object]
"""Whatever answers images [N, C, H, W]."""


def ask(net: Network, x: Tensor) -> Tensor:
    """What a network answers to images x [N, C, H, W], as float32 logits [N, K]; float64 where the images are.

    The network gets a copy: preprocessing that works in place changes no image of ours, nor a leaf that wants its gradient.
    One that cannot answer a single image, as where it squeezes the batch away, is given that image twice. BadInput for an
    answer that holds no logits.
    """
    if isinstance(net, Classifier | Double):
        return net(x)  # type: ignore[no-any-return]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if len(x) != 1:
        return logits_in(net(x.clone()), dtype)
    try:
        logits = logits_in(net(x.clone()), dtype)
        if logits.dim() == 2 and len(logits) == 1:
            return logits
    except Exception as error:  # whatever the network raises; it says so again below, if company does not help
        if out_of_memory(error):
            raise
    return logits_in(net(torch.cat([x, x])), dtype)[:1]


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
