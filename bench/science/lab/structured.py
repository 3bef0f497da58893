"""Images of patches with robust and non-robust features, and a two-layer network that learns one kind or the other.

After Li & Li (ICLR 2025, arXiv 2410.08503), whose theory is of this world: robust features are strong and few, non-robust ones
weak and many. Standard training learns what is many, adversarial training what is strong. The formulas of distribution,
network, activation and inner step are those that the authors give in public; what they leave open is our reading: sums as the
read-out, projection after the inner step, one-hot features, constants.

Many trainings run side by side, each on samples of its own: tensors are [S, ...]. float64, gradients in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import BadInput

Activation = Literal["smoothed", "relu", "gelu", "softplus"]


@dataclass(frozen=True)
class World:
    """Where samples come from. Every class i has a robust feature u_i and non-robust ones v_i, of unit length in R^d.

    A patch is alpha u_y in `robust` places, beta v_y in all others, and noise. More general worlds have more than one
    non-robust feature a class, of which every patch shows one; an overlap, the share of beta at which each patch also shows a
    feature of the other kind; noise in the features themselves, of any class; and a cosine between the features of a class.
    """

    classes: int = 2
    size: int = 4
    """d, of a patch."""
    patches: int = 170
    robust: int = 1
    """Patches that show the robust feature."""
    alpha: float = 1.0
    beta: float = 0.2375
    noise: float = 0.02
    """Of the length of a patch: sigma sqrt(d)."""
    nonrobust: int = 1
    """Non-robust features of a class."""
    overlap: float = 0.0
    feature_noise: float = 0.0
    """The standard deviation of every feature's amplitude in every patch."""
    cosine: float = 0.0
    """Between a class's robust feature and its non-robust ones."""

    def __post_init__(self) -> None:
        needed = self.classes * (1 + self.nonrobust)
        if needed > self.size:
            raise BadInput(
                f"{self.classes} classes have {needed} features, and patches of size {self.size} hold no more; raise size"
            )
        if not 0 < self.robust < self.patches:
            raise BadInput(f"robust = {self.robust} of {self.patches} patches; leave some for either kind")
        if not 0 <= self.cosine < 1:
            raise BadInput(f"cosine = {self.cosine}: give one from 0 to below 1")

    def features(self) -> tuple[Tensor, Tensor]:
        """u [k, d] and v [k, m, d]."""
        axes = torch.eye(self.size, dtype=torch.float64)
        u = axes[: self.classes]
        v = axes[self.classes : self.classes * (1 + self.nonrobust)].view(self.classes, self.nonrobust, -1)
        return u, self.cosine * u[:, None] + (1 - self.cosine**2) ** 0.5 * v

    def draw(
        self, n: int, generator: torch.Generator, *, alpha: float | None = None, beta: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """n samples, x [n, P, d] and y [n], the classes in turn; with other amplitudes where they are given."""
        strong, weak = self.alpha if alpha is None else alpha, self.beta if beta is None else beta
        u, v = self.features()
        y = torch.arange(n) % self.classes
        order = torch.rand(n, self.patches, generator=generator).argsort(1)
        is_robust = (order < self.robust).double()[..., None]
        which = torch.randint(0, self.nonrobust, (n, self.patches), generator=generator)
        mine, other = u[y][:, None], v[y[:, None], which]
        x = is_robust * (strong * mine + self.overlap * weak * other)
        x = x + (1 - is_robust) * (weak * other + self.overlap * (weak if strong else 0.0) * mine)
        if self.feature_noise:
            every = torch.cat([u, v.flatten(0, 1)])
            x = x + self.feature_noise * torch.randn(n, self.patches, len(every), generator=generator).double() @ every
        return x + self.noise / self.size**0.5 * torch.randn(n, self.patches, self.size, generator=generator).double(), y

    def feasible(self, eps: float, q: int = 3) -> dict[str, bool]:
        """Whether, in the polynomial regime, standard training prefers v, its solution breaks, adversarial training prefers u,
        and a robust solution exists."""
        many, few, kept = (self.patches - self.robust), self.robust, max(self.beta - eps, 0.0) ** q
        return {
            "standard training prefers v": many * self.beta**q > few * self.alpha**q,
            "its solution breaks": self.patches * eps**q > many * kept,
            "adversarial training prefers u": few * (self.alpha - eps) ** q > many * kept,
            "a robust solution exists": few * (self.alpha - eps) ** q > self.patches * eps**q,
        }


def activation(name: Activation, q: int, rho: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Values and slopes of an activation; "smoothed" is 0, then z^q / (q rho^(q-1)), and from rho on a line of slope 1."""

    def smoothed(z: Tensor) -> tuple[Tensor, Tensor]:
        t = (z / rho).clamp(0, 1)
        slope = t ** (q - 1)
        return slope * t * (rho / q) + (z - rho).clamp_min(0), slope

    def gelu(z: Tensor) -> tuple[Tensor, Tensor]:
        below = torch.special.ndtr(z)
        return z * below, below + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5

    known: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        "smoothed": smoothed, "gelu": gelu, "relu": lambda z: (z.clamp_min(0), (z > 0).to(z)),
        "softplus": lambda z: (F.softplus(z), torch.sigmoid(z)),
    }  # fmt: skip
    return known[name]


@dataclass(frozen=True)
class Learner:
    """A network of `filters` filters for each class, F_i(X) = sum over filters and patches of act(w . x_p), and its training:
    gradient descent on all samples at once, of the cross-entropy at X' = Proj(X + inner step), S trainings side by side."""

    filters: int = 8
    act: Activation = "smoothed"
    q: int = 3
    rho: float = 8.0
    init: float = 0.1
    lr: float = 4.0
    inner: Literal["sign", "gradient"] = "sign"
    inner_steps: int = 1

    def begin(self, world: World, generator: torch.Generator) -> Tensor:
        """Weights [k filters, d] of one training, class by class."""
        return self.init * torch.randn(world.classes * self.filters, world.size, generator=generator).double()

    def logits(self, w: Tensor, x: Tensor) -> Tensor:
        """F [S, n, k] of x [S, n, P, d]."""
        return self._forward(w, x)[0]

    def _forward(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the slopes of the activations [S, n, P, k filters]."""
        # One long product for each training, because many short ones cost more.
        z = (x.flatten(1, 2) @ w.mT).unflatten(1, x.shape[1:3])
        value, slope = activation(self.act, self.q, self.rho)(z)
        return value.sum(2).unflatten(-1, (-1, self.filters)).sum(-1), slope

    def _pull(self, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of every sample, [S, n], and its derivative for w . x_p, [S, n, P, k filters]."""
        logits, slope = self._forward(w, x)
        push = logits.softmax(-1) - F.one_hot(y, logits.shape[-1])
        loss = torch.logsumexp(logits, -1) - logits.gather(-1, y[..., None]).squeeze(-1)
        return loss, push.repeat_interleave(self.filters, -1)[:, :, None] * slope

    def attack(self, w: Tensor, x: Tensor, y: Tensor, eps: Tensor, rate: Tensor, steps: int | None = None) -> Tensor:
        """X' within eps [S] of x: steps along the gradient of each sample's loss times rate [S], or along its sign."""
        ball, size = eps.view(-1, 1, 1, 1), rate.view(-1, 1, 1, 1)
        z = x
        for _ in range(self.inner_steps if steps is None else steps):
            slope = (self._pull(w, z, y)[1].flatten(1, 2) @ w).view_as(x)
            z = z + size * (slope.sign() if self.inner == "sign" else slope)
            z = torch.minimum(torch.maximum(z, x - ball), x + ball)
        return z

    def step(self, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, [S], and the weights after one step of gradient descent on it."""
        loss, pull = self._pull(w, x, y)
        slope = pull.flatten(1, 2).mT @ x.flatten(1, 2) / x.shape[1]
        return loss.mean(1), w - self.lr * slope


IMAGES = 4.0
"""Samples as images in [0, 1] are 1/2 + x / 4, where no perturbation that matters leaves the box."""


def as_images(x: Tensor) -> Tensor:
    """x [n, P, d] as float32 images [n, 1, P, d]."""
    return (0.5 + x / IMAGES).clamp(0, 1).float().unsqueeze(1)


class Course(NamedTuple):
    """S trainings; A and B are <w, u_i> and <w, v_i> of class i's filter that has most of it, [T, S, k]."""

    at: Tensor
    """The steps that were looked at, [T]."""
    a: Tensor
    b: Tensor
    w: Tensor
    """At the end, [S, k filters, d]."""
    ended: Tensor
    """The step at which each training was over, [S]; as many as were allowed where it never was."""


def amounts(w: Tensor, world: World) -> tuple[Tensor, Tensor]:
    """A and B of every class, [S, k] each."""
    u, v = world.features()
    own = w.unflatten(1, (world.classes, -1))
    a = torch.einsum("skrd,kd->skr", own, u).amax(2)
    b = torch.einsum("skrd,kmd->skrm", own, v).amax((2, 3))
    return a, b


def learned(w: Tensor, world: World, amount: float) -> Tensor:
    """Whether every class has a filter with so much of one of its features, [S]."""
    a, b = amounts(w, world)
    return (torch.maximum(a, b) > amount).all(1)


def train(  # noqa: PLR0913
    learner: Learner, world: World, x: Tensor, y: Tensor, w: Tensor, eps: Tensor | None, rate: Tensor | None = None, *,
    steps: int = 3000, every: int = 25, stop: float = 6.0,
) -> Course:  # fmt: skip
    """S trainings from w on, standard ones for eps None, each until every class has learned so much (`stop`) of one of its
    features; then it rests.

    rate: of the inner step, eps itself unless told otherwise.
    """
    looks, ended = [(0, *amounts(w, world))], torch.full((len(w),), steps)
    resting = torch.zeros(len(w), dtype=torch.bool)
    for number in range(1, steps + 1):
        z = x if eps is None else learner.attack(w, x, y, eps, eps if rate is None else rate)
        _, moved = learner.step(w, z, y)
        w = torch.where(resting.view(-1, 1, 1), w, moved)
        done = learned(w, world, stop) & ~resting
        ended, resting = torch.where(done, number, ended), resting | done
        if number % every == 0 or number == steps or bool(resting.all()):
            looks.append((number, *amounts(w, world)))
        if bool(resting.all()):
            break
    at, a, b = zip(*looks, strict=True)
    return Course(torch.tensor(at), torch.stack(a), torch.stack(b), w, ended)


def accuracy(learner: Learner, w: Tensor, x: Tensor, y: Tensor, eps: Tensor | None = None, steps: int = 10) -> Tensor:
    """The share of samples that are right, [S]; under an attack of so many signed steps where there is a ball."""
    right = learner.logits(w, x).argmax(-1) == y
    if eps is not None:
        signed = Learner(learner.filters, learner.act, learner.q, learner.rho)
        for rate in (eps, 2.5 * eps / steps):
            right = right & (learner.logits(w, signed.attack(w, x, y, eps, rate, steps)).argmax(-1) == y)
    return right.double().mean(1)


def departure(adversarial: Tensor, standard: Tensor, at: Tensor, share: float = 0.9) -> float:
    """The first step at which B [T] of adversarial training is below this share of B [T] of standard training; else NaN."""
    below = (adversarial < share * standard).nonzero()
    return float(at[below[0, 0]]) if len(below) else float("nan")
