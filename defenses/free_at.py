"""Adversarial training for free (Shafahi et al., NeurIPS 2019): one backward pass serves the weights and the perturbation.

The perturbation belongs to a place in the batch, not to an image: it goes from minibatch to minibatch, and a short last batch
uses and moves the first rows of it. It follows the gradient of the loss that the weights are trained on, so `craft` and
`craft_updates` have no say in it and label smoothing has. The order of updates is that of the PyTorch port of Wong et al. 2020.
The images that are trained on are projected into ball and box, as the original clips them to the box; the port lets them leave
it.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, defense, projected_step


@defense("free_at")
class FreeAT(Defense):
    """Trains on every minibatch several times in a row while the perturbation follows the gradient at hand."""

    replays: Annotated[int, Field(ge=1)] = 8
    """How often each minibatch is trained on; natural training's epochs are divided by it."""
    step: Annotated[float, Field(gt=0)] = 1.0
    """Step size as a fraction of eps."""

    paper = "Shafahi et al. 2019"
    passes = "replays"
    presets = {
        # Our own: the epochs of natural training over the replays, rounded up.
        "digits": {"epochs": 4},
        "mnist": {"epochs": 2},
        "cifar": {"epochs": 10, "lr": 0.04, "schedule": "triangular:0.5"},
        # Andriushchenko & Flammarion 2020: 45 passes over the data, here 48. They ramp the step over the first five of them;
        # here the budget, and the step with it.
        "svhn": {"epochs": 6, "lr": 0.01, "schedule": "triangular:0.4", "eps_schedule": "linear:0,9"},
    }

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        kept = ctx.memory.get("delta", x[:0])
        start = x + torch.cat([kept, torch.zeros_like(x[len(kept) :])])[: len(x)]
        z = ctx.threat.project(start, x).requires_grad_()

        def follow(grad: Tensor) -> None:
            delta = projected_step(start, x, grad, self.step, ctx.threat) - x
            ctx.remember("delta", torch.cat([delta, kept[len(x) :]]))

        z.register_hook(follow)
        return ctx.cross_entropy(net(z), y)

    def updates(self) -> int:
        """One for every replay."""
        return self.replays
