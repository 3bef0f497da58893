"""Noise-regularised FGSM training (after arXiv 2312.02236, case study 3), as one family of placements and covariances.

We could not read the source's exact regulariser; the parametrisation is our reading. N-FGSM (de Jorge et al. 2022) is the
cell `placement="pre", covariance="isotropic", noise="uniform", sigma=2/sqrt(3)`: uniform noise of twice eps.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, Defense, ThreatModel, defense

RANK = 50
"""Principal directions that spectral noise is spread over."""


@defense("noise_fgsm")
class NoiseFGSM(Defense):
    """Single-step training with noise before the gradient, on the example, or in a consistency penalty."""

    placement: Literal["pre", "post", "both", "none"] = "pre"
    """Noise before the gradient is taken, on the finished example, both, or neither, where the penalty alone is to act."""
    covariance: Literal["isotropic", "gradient", "complement", "data", "spectral"] = "gradient"
    """Where the noise energy goes: evenly, where the input gradient of the clean image is large or small, where the data vary,
    or along the data's principal directions. The total energy is the same for all."""
    noise: Literal["normal", "uniform"] = "normal"
    """Its distribution; along principal directions it is normal."""
    sigma: Annotated[float, Field(ge=0)] = 1 / math.sqrt(3)
    """Standard deviation as a fraction of eps; 1/sqrt(3) is that of the uniform start of fast_at."""
    step: Annotated[float, Field(gt=0)] = 1.0
    """Step size as a fraction of eps."""
    clip: bool = False
    """Project the finished example back into the ball; off, as in N-FGSM."""
    penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight of KL(p(z) || p(z + noise)), at the cost of one more pass."""

    paper = "arXiv 2312.02236; de Jorge et al. 2022"
    passes = "2 (+ 1 where noise before the step follows the gradient; + 1 with a penalty)"
    presets = {
        # Our own choice: that of N-FGSM, its nearest published neighbour.
        "cifar": {"epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"},
    }

    def __post_init__(self) -> None:
        if self.placement == "none" and not self.penalty:
            raise ValueError("placement = none leaves the noise to the penalty; set penalty")
        if self.covariance == "spectral" and self.noise == "uniform":
            raise ValueError("covariance = spectral draws normal noise along its directions; leave noise = uniform out")

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        here = self.gradient(x, y, ctx)
        z = self.perturb(x, y, here, ctx)
        logits = net(z)
        if not self.penalty:
            return ctx.cross_entropy(logits, y)
        noisy = net((z + self._noise(x, here, ctx, "penalty")).clamp(0, 1))
        drift = F.kl_div(noisy.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="batchmean")
        return ctx.cross_entropy(logits, y) + self.penalty * drift

    def gradient(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor | None:
        """That at the clean image, where the covariance follows it or the step starts there; one pass serves both."""
        follows = self.covariance in ("gradient", "complement")
        return ctx.grad(x, y) if follows or self.placement in ("post", "none") else None

    def perturb(self, x: Tensor, y: Tensor, here: Tensor | None, ctx: Context) -> Tensor:
        """The images the network is trained on; without `clip` they may leave the ball. here: the gradient at x."""
        z, grad = x, here
        if self.placement in ("pre", "both"):
            z = (x + self._noise(x, here, ctx, "pre")).clamp(0, 1)
            grad = ctx.grad(z, y)
        assert grad is not None
        z = (z + self.step * ctx.threat.radius * ctx.threat.steepest(grad)).clamp(0, 1)
        if self.placement in ("post", "both"):
            z = (z + self._noise(x, here, ctx, "post")).clamp(0, 1)
        return ctx.threat.project(z, x) if self.clip else z

    def skip(self, dataset: str, threat: ThreatModel) -> str | None:
        """Noise energy per pixel is compared with an linf budget; other norms have no such budget."""
        del dataset
        return None if threat.norm == "linf" else f"noise_fgsm is defined for linf, not {threat.norm}"

    def _noise(self, x: Tensor, here: Tensor | None, ctx: Context, use: str) -> Tensor:
        rng, shape = ctx.rng.at("noise", use), x.shape[1:]
        scale = self.sigma * ctx.threat.radius
        if self.covariance == "spectral":
            directions = _memory(ctx, "spectral", _principal_directions)
            return scale * (rng.normal((directions.shape[0],)) @ directions).view_as(x)
        unit = rng.normal(shape) if self.noise == "normal" else (2 * rng.uniform(shape) - 1) * math.sqrt(3)
        return scale * self._energy(x, here, ctx).sqrt() * unit

    def _energy(self, x: Tensor, here: Tensor | None, ctx: Context) -> Tensor:
        """Relative noise variance per pixel, with mean 1 over each image."""
        if self.covariance == "isotropic":
            return x.new_ones(())
        if self.covariance == "data":
            return _memory(ctx, "variance", _pixel_variance)
        assert here is not None
        size = here.abs().flatten(1)
        top = size.amax(1, keepdim=True)
        share = size + 1e-8 * top if self.covariance == "gradient" else top - size
        # A gradient that vanished, or is the same everywhere, prefers no pixel: its noise is isotropic.
        share = torch.where(share.sum(1, keepdim=True) > 0, share, torch.ones_like(share))
        return (share / share.mean(1, keepdim=True)).view_as(x)


def _memory(ctx: Context, name: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
    if name not in ctx.memory:
        ctx.memory[name] = compute(ctx.images)
    return ctx.memory[name]


def _pixel_variance(images: Tensor) -> Tensor:
    """Variance of each pixel over the data, [C, H, W], scaled to mean 1."""
    total, squares = (torch.zeros(images.shape[1:], dtype=torch.float64, device=images.device) for _ in range(2))
    for chunk in images.split(4096):
        values = chunk.double()
        total += values.sum(0)
        squares += values.square().sum(0)
    # What the difference loses can leave a constant pixel below 0.
    variance = (squares / len(images) - (total / len(images)) ** 2).clamp_min(0)
    return (variance / variance.mean()).float()


def _principal_directions(images: Tensor) -> Tensor:
    """Principal directions of the first 1000 images times their deviations, [R, D], scaled to total energy D."""
    flat = images[:1000].flatten(1).float()
    _, deviations, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    kept = deviations[:RANK]
    scaled: Tensor = directions[:RANK] * (kept * math.sqrt(flat.shape[1]) / kept.norm())[:, None]
    return scaled
