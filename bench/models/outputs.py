"""Whether what a network answers is logits, and what to do where it is not."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from bench.core import forward
from bench.errors import BadInput, out_of_memory

_REMEDIES = (
    (
        r"dtype|scalar type|data ?type|type \(|Half|BFloat16|Double|Float and",
        "images come as float32: give the network float32 weights (net.float()), or begin its forward with x = x.to(its own "
        "type); answers of any precision are taken as float32",
    ),
    (
        r"CUDA|cuda|(?i:cudnn)|NVIDIA|HIP|device|MPS|XPU",
        "that is about the device, not about the images: keep what the network computes with in parameters or buffers, which "
        "move with it, call no .cuda() in its forward, and choose with --device",
    ),
    (
        r"shape|size|channel|cannot be multiplied|dimension|[Dd]imension|stride|elements|kernel",
        "give a model made for this data set",
    ),
)
"""By what an error says, in this order: what the user can do about it."""
_ANYTHING = "call it on such a batch by itself, and mend its forward"


@torch.no_grad()
def check_outputs(net: nn.Module, x: Tensor, classes: int, origin: str, *, at_least: bool = False) -> None:
    """Refuse a network whose answers to images x [N, C, H, W] are not logits [N, K]."""
    try:
        logits = forward(net, x)
    except BadInput as error:
        raise BadInput(f"{origin} {error}") from None
    except Exception as error:  # whatever the network raises
        if out_of_memory(error):
            raise
        told = " ".join(str(error).split())
        remedy = next((remedy for words, remedy in _REMEDIES if re.search(words, told)), _ANYTHING)
        raise BadInput(f"{origin} fails on images of shape {list(x.shape)}: {type(error).__name__}: {told}; {remedy}") from None
    if logits.is_floating_point() and len(logits) == len(x) and logits.numel() == len(x):
        raise BadInput(_one_number(logits, classes, origin))
    if logits.dim() != 2 or len(logits) != len(x) or not logits.is_floating_point():
        found = f"{str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
        raise BadInput(f"{origin} returns {found} for {len(x)} images; return float logits [{len(x)}, {classes}]")
    if logits.shape[1] != classes and not (at_least and logits.shape[1] > classes):
        raise BadInput(f"{origin} has {logits.shape[1]} outputs and the data set {classes} classes; they must agree")
    if broken := int((~logits.isfinite().all(1)).sum()):
        raise BadInput(f"{origin} returns NaN or infinite logits for {broken} of {len(x)} images; check its weights")
    if ((logits >= 0) & (logits <= 1)).all() and ((logits.sum(1) - 1).abs() <= _rounding(logits)).all():
        raise BadInput(
            f"{origin} returns probabilities, which hide gradients: return logits: remove the softmax; of something that has "
            "none, such as a forest, a vote or a service, give their logarithm, torch.log(p.clamp_min(1e-12))"
        )


def _one_number(logits: Tensor, classes: int, origin: str) -> str:
    """What to do with a network that says "yes" by one number."""
    first = "take its sigmoid off, and " if bool(((logits >= 0) & (logits <= 1)).all()) else ""
    recipe = "torch.stack([-z, z], 1)" if logits.dim() == 1 else "torch.cat([-z, z], 1)"
    about = "" if classes == 2 else f" (the data set has {classes} classes, and one number tells two apart)"
    return (
        f"{origin} returns one number z for each image, {list(logits.shape)} for {len(logits)} images, as a network with one "
        f"sigmoid output does; {first}return the two logits [-z, z] of it: {recipe}{about}"
    )


def _rounding(logits: Tensor) -> float:
    """By how much probabilities may miss 1: more, where they seem to have come in 16 bits."""
    coarse = any(torch.equal(logits.to(kind).float(), logits) for kind in (torch.float16, torch.bfloat16))
    return 1e-2 if coarse else 1e-5
