"""The referee: what a fair attacker who has read a defense leaves of its accuracy, an upper bound of the true one.

`VIEWS` says how each defense is read: the functions of an image whose logits are worth climbing in the whole's place. All are
climbed, by margins towards the likeliest classes; what counts is only ever judged on the whole, in float32, in ball
and box.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import ThreatModel
from bench.core import Judge, randomised
from bench.core.judge import VOTES
from bench.core.losses import margin, margin_targeted
from bench.core.rng import isolated

View = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] to logits [N, K] that can be differentiated."""
STEPS, DRAWS, TARGETS = 40, 4, 4
"""Of a climb, of a mean answer, and wrong classes that are aimed at: each sample's likeliest on the clean image."""
FIRST, LAST = 0.6, 0.03
"""Step sizes at the beginning and at the end of a climb, as shares of eps."""


def standing(
    name: str, net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, restarts: int = 2, targets: int = TARGETS
) -> Tensor:
    """Which of the samples are right under everything that is tried, bool [N]."""
    views = VIEWS.get(name, inside)(net)
    draws = VOTES if randomised(net, x[:64], 0) else 1

    def right(z: Tensor, label: Tensor) -> Tensor:
        # A network that remembers what it was asked is judged as it was before.
        whole = copy.deepcopy(net) if name == "broken_stateful" else net
        return Judge(whole, threat, draws).correct(z, label)[0]

    up = right(x, y)
    with isolated(0):
        for restart in range(restarts):
            for view in views:
                for aim in (None, *likeliest(net, x, y, targets)):
                    if len(rows := up.nonzero().squeeze(1)):
                        target = None if aim is None else aim[rows]
                        up[rows] = climbed(view, right, x[rows], y[rows], threat, target, start=restart > 0)
    return up


@torch.no_grad()
def likeliest(view: View, x: Tensor, y: Tensor, count: int) -> Sequence[Tensor]:
    """The wrong classes that a network ranks first, each [N]."""
    wrong = view(x).scatter(1, y[:, None], -torch.inf)
    return wrong.topk(min(count, wrong.shape[1] - 1)).indices.unbind(1)


def climbed(
    view: View,
    right: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    target: Tensor | None,
    *,
    start: bool,
) -> Tensor:
    """Which samples withstand one climb with momentum, a third of the points on its way, bool [N]; linf alone."""
    eps, up = threat.radius, torch.ones_like(y, dtype=torch.bool)
    z = threat.project(x + eps * (2 * torch.rand_like(x) - 1), x) if start else x.clone()
    speed = torch.zeros_like(x)
    for step in range(STEPS):
        rows = up.nonzero().squeeze(1)
        if not len(rows):
            break
        leaf = z[rows].detach().requires_grad_()
        logits = view(leaf)
        aim = margin(logits, y[rows]) if target is None else margin_targeted(logits, y[rows], target[rows])
        (grad,) = torch.autograd.grad(aim.sum(), leaf, allow_unused=True) if aim.requires_grad else (None,)
        if grad is None:
            break
        grad = grad.nan_to_num(0.0)
        speed[rows] = 0.75 * speed[rows] + grad / grad.flatten(1).abs().mean(1).clamp_min(1e-20).view(-1, 1, 1, 1)
        size = eps * FIRST * (LAST / FIRST) ** (step / (STEPS - 1))
        z[rows] = threat.project(z[rows] + size * speed[rows].sign(), x[rows])
        if step % 3 == 0 or step > STEPS - 3:
            up[rows] = right(z[rows], y[rows])
    return up


def inside(net: nn.Module) -> list[View]:
    """The network in the middle, what stands before it passed straight through, the whole, and the whole in a fog."""
    within = getattr(net, "net", None)
    if not isinstance(within, nn.Module):
        return [net, fogged(net)]
    before = getattr(net, "before", None)
    shown = [averaged(lambda z: within(straight(before)(z)))] if before else []
    return [within, *shown, net, fogged(net)]


def straight(step: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A step from image to image, the identity in the backward pass (BPDA)."""
    return lambda z: z + (step(z) - z).detach()


def averaged(view: View, draws: int = DRAWS) -> View:
    """The mean answer, for views that draw."""
    return lambda z: torch.stack([view(z) for _ in range(draws)]).mean(0)


def fogged(view: View, sigma: float = 0.03) -> View:
    """The mean answer around an image, so that what is fine does not count."""
    return averaged(lambda z: view(z + sigma * torch.randn_like(z)))


@contextmanager
def training(net: nn.Module) -> Any:
    """A network in train mode for a while."""
    net.train()
    try:
        yield
    finally:
        net.eval()


def in_training(net: nn.Module) -> View:
    """A network as it answers in train mode, where rounding lets gradients pass."""

    def view(z: Tensor) -> Tensor:
        with training(net):
            answer: Tensor = net(z)
            return answer

    return view


def together(views: Iterable[View]) -> View:
    """The mean of their probabilities, as logits."""
    listed = list(views)
    return lambda z: torch.stack([F.log_softmax(view(z), 1) for view in listed]).logsumexp(0)


def _detector(net: Any) -> list[View]:
    """The label of a strange image is that of its projection."""

    def projected(z: Tensor) -> Tensor:
        flat = z.flatten(1) - net.mean
        answer: Tensor = net.net((flat @ net.basis.T @ net.basis + net.mean).view_as(z).clamp(0, 1))
        return answer

    return [net.net, projected, together([net.net, projected])]


def _latent_projection(net: Any) -> list[View]:
    """Through the projection as the identity, through encoder and decoder, and with the inner steps differentiated too."""
    projection, classifier = net

    def unrolled(z: Tensor) -> Tensor:
        code = projection.encoder(z)
        for _ in range(projection.moves):
            away = (projection.draw(code) - z).square().flatten(1).mean(1).sum()
            code = code - projection.rate * torch.autograd.grad(away, code, create_graph=True)[0]
        answer: Tensor = classifier(projection.draw(code))
        return answer

    def through(z: Tensor) -> Tensor:
        answer: Tensor = classifier(projection.draw(projection.encoder(z)))
        return answer

    return [lambda z: classifier(straight(projection)(z)), unrolled, net, through, fogged(net)]


def _mixed_precision(net: Any) -> list[View]:
    """All members with their rounding passed straight through, and each by itself."""
    members = [in_training(member) for member in net.members]
    return [in_training(net), together(members), lambda z: sum(member(z) for member in members), *members]  # type: ignore[arg-type,return-value]


def _hedge(net: Any) -> list[View]:
    """The network alone, and with the inner steps as the identity."""
    return [net.net, net, averaged(lambda z: net.net(net.before(z + 0.02 * torch.randn_like(z))))]


def _purification(net: Any) -> list[View]:
    """Through all steps as the identity, and differentiated."""
    purifier, classifier = net

    def unrolled(z: Tensor) -> Tensor:
        z = (z + 0.5 * purifier.score(z)).clamp(0, 1)
        for _ in range(purifier.moves):
            z = (z + 0.5 * purifier.score(z)).clamp(0, 1)
        answer: Tensor = classifier(z)
        return answer

    return [unrolled, lambda z: classifier(straight(purifier)(z)), classifier, net]


def _output_codes(net: Any) -> list[View]:
    """Correlations of bits before they are squashed, with squashing softer, and the network inside."""
    return [lambda z: net.read(net.net(z)) @ net.words.T, lambda z: net.read(net.net(z)).tanh() @ net.words.T, net.net, net]


def _switch(net: Any) -> list[View]:
    """All members at once, then each."""
    first = net.members[0]
    mixed = [lambda z, member=member: member(z) + first(z) for member in net.members]
    return [lambda z: sum(view(z) for view in mixed), together(mixed), *mixed]  # type: ignore[arg-type,return-value]


def _neighbours(net: Any) -> list[View]:
    """The network in the closure, and a soft vote of all that it remembers."""
    held = inspect.getclosurevars(net.answer).nonlocals

    def soft(z: Tensor) -> Tensor:
        alike = F.normalize(held["net"](z), dim=1) @ held["known"].T
        return ((10 * alike).softmax(1) @ held["votes"]).clamp_min(1e-12).log()

    return [soft, held["net"], net, fogged(net)]


VIEWS: dict[str, Callable[[Any], list[View]]] = {
    "broken_detector": _detector,
    "broken_hedge": _hedge,
    "broken_latent_projection": _latent_projection,
    "broken_mixed_precision": _mixed_precision,
    "broken_neighbours": _neighbours,
    "broken_output_codes": _output_codes,
    "broken_purification": _purification,
    "broken_switch": _switch,
}
"""How defenses are read that are more than one network with something before it or after it."""
