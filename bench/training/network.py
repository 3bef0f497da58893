"""The network as a defense sees it while training: in the recipe's precision and layout, with its passes counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.core.device import native_bf16
from bench.models import batchnorm


class TrainingNet(nn.Module):
    """Wraps a network: autocast inside, float32 logits outside, channels_last where it is faster, rows counted."""

    clean_batch: Tensor | None = None
    """The images as they are; with layers of their own, they are recognised by identity."""

    def __init__(
        self, net: nn.Module, device: torch.device, precision: str, shape: tuple[int, int, int], *, separate: bool = False
    ) -> None:
        super().__init__()
        self.bf16 = precision == "bf16" or (precision == "auto" and native_bf16(device))
        self.device_type = device.type
        # Small grey images gain nothing from the layout, and a one-channel image has both at once.
        self.layout = torch.channels_last if shape[0] > 1 and shape[1] >= 16 else torch.contiguous_format
        self.net = net.to(device).to(memory_format=self.layout)
        norms = batchnorm.layers(self.net) if separate else {}
        # A module's name may not hold a dot.
        self.clean_norms = nn.ModuleDict({name.replace(".", "/"): copy.deepcopy(norm) for name, norm in norms.items()})
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """float32 logits [N, K]."""
        # Bounds come in place of images, and cost more than one pass.
        rows = len(x) * getattr(x, "passes", 1)
        self.forwards += rows
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            logits = self._answer(x.contiguous(memory_format=self.layout), clean=x is self.clean_batch)
        logits = logits.float()
        if logits.requires_grad:
            logits.register_hook(lambda _: self._backward(rows))
        return logits

    def _answer(self, x: Tensor, *, clean: bool) -> Tensor:
        if not (clean and len(self.clean_norms)):
            return self.net(x)  # type: ignore[no-any-return]
        own = {
            f"{name.replace('/', '.')}.{key}": tensor
            for name, norm in self.clean_norms.items()
            for key, tensor in norm.state_dict(keep_vars=True).items()
        }
        return functional_call(self.net, own, (x,))  # type: ignore[no-any-return]

    def idle_norms(self) -> str:
        """The images that one of two sets of batch norms is for and has not seen yet, "clean" or "adversarial"; or nothing."""
        kept = batchnorm.layers(self.net).values() if self.clean_norms else ()
        for kind, norms in (("clean", self.clean_norms.values()), ("adversarial", kept)):
            if any(not norm.num_batches_tracked for norm in norms):
                return kind
        return ""

    def _backward(self, rows: int) -> None:
        self.backwards += rows

    def gradient(self, mode: Literal["train", "eval"], *, follow: bool = True) -> Crafting:
        """The input gradient of a loss of the logits, taken with the network in this mode.

        follow: whether the kept statistics of batch norms follow what passes in train mode.
        """
        return Crafting(self, mode, follow)


@dataclass(frozen=True)
class Crafting:
    """How examples see a network: in one mode, whatever mode it trains in (see bench.plugins.contract.InputGradient)."""

    net: TrainingNet
    mode: Literal["train", "eval"]
    follow: bool

    def __call__(self, z: Tensor, loss: Callable[[Tensor], Tensor], *, create_graph: bool = False) -> Tensor:
        """The gradient at z, [N, C, H, W]."""
        # One that is differentiated is a part of the loss, and treats the kept statistics as the loss does.
        part_of_loss = self.follow and create_graph
        kept = nullcontext() if part_of_loss else batchnorm.frozen(self.net.net, keep=not self.follow)
        with torch.enable_grad(), kept, self._in_mode():
            z = z.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss(self.net(z)), z, create_graph=create_graph)
        return grad

    def answers(self, x: Tensor) -> Tensor:
        """The logits at x as constants, [N, K]."""
        with torch.no_grad(), batchnorm.frozen(self.net.net), self._in_mode():
            logits: Tensor = self.net(x)
        return logits

    @contextmanager
    def _in_mode(self) -> Iterator[None]:
        before = self.net.training
        self.net.train(self.mode == "train")
        try:
            yield
        finally:
            self.net.train(before)
