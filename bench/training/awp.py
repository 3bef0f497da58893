"""Adversarial weight perturbation (Wu, Xia & Wang, NeurIPS 2020): a step of the weights towards a higher loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def perturb(net: nn.Module, loss: Tensor, gamma: float) -> dict[nn.Parameter, Tensor]:
    """Move every weight matrix uphill by gamma times its own norm; the moves, for `restore`.

    The source takes a step of SGD on a copy and scales the difference, so that the length of the step cancels: this is the
    gradient's direction. Tensors of one dimension (biases, batch norms) stay.
    """
    chosen = [parameter for name, parameter in net.named_parameters() if "weight" in name and parameter.dim() > 1]
    moves = {}
    for weight, gradient in zip(chosen, torch.autograd.grad(loss, chosen, allow_unused=True), strict=True):
        if gradient is not None:
            moves[weight] = gradient * (gamma * weight.norm() / gradient.norm().clamp_min(1e-20))
            weight.add_(moves[weight])
    return moves


@torch.no_grad()
def restore(moves: dict[nn.Parameter, Tensor]) -> None:
    """Take the same moves back, after the optimiser has moved the weights."""
    for weight, move in moves.items():
        weight.sub_(move)
