"""Readings of a network: what is inside is found wherever the code keeps it, no value changes, and gradients go past."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import ThreatModel, adaptations, dead, margin, slopes

EIGHT = ThreatModel.parse("linf", "0.1")


def linear(seed: int) -> nn.Module:
    """A smooth network of 4 classes on 4x4 images that always answers alike."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    for weight in net.parameters():
        weight.data = torch.randn(weight.shape, generator=generator)
    return net.requires_grad_(False)


BASE, OTHER = linear(1), linear(2)
X = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = BASE(X).argmax(1)


class Program(nn.Module):
    """A network that is whatever code says."""

    def __init__(self, code: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(x)


def temperature(x: Tensor) -> Tensor:
    return BASE(x) * torch.exp(4 * torch.sin(30 * x.flatten(1).sum(1, keepdim=True)))


def vote(x: Tensor) -> Tensor:
    """The labels of two networks that agree on most of these images, as counts."""
    noisy = BASE(x) + 0.3 * OTHER(x)
    return F.one_hot(BASE(x).argmax(1), 4).float() + F.one_hot(noisy.argmax(1), 4).float()


@torch.no_grad()
def silent(x: Tensor) -> Tensor:
    return BASE(x)


def rounded(x: Tensor) -> Tensor:
    return BASE(torch.round(x * 7) / 7)


def detoured(x: Tensor) -> Tensor:
    import numpy as np

    return BASE(torch.from_numpy(np.round(x.detach().numpy() * 7) / 7).float() * 1.0)


def defended(x: Tensor) -> Tensor:
    """The input is moved towards its own label first."""
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        logits = BASE(z)
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1), reduction="sum"), z)
    return BASE(x - 0.5 * grad)


def lead(logits: Tensor) -> Tensor:
    first, second = logits.topk(2).values.T
    return (first - second)[:, None]


def moated(x: Tensor) -> Tensor:
    """The surest answer is raised where two are nearly equal, and hardly elsewhere."""
    logits = BASE(x)
    return logits + 2 * torch.exp(-((lead(logits) / 0.05) ** 2)) * F.one_hot(logits.argmax(1), 4)


def hushed(x: Tensor) -> Tensor:
    """No gradient where two answers are nearly equal, and all of it elsewhere."""
    logits = BASE(x)
    return torch.where(lead(logits) < 0.05, logits.detach(), logits)


def purged(x: Tensor) -> Tensor:
    """Nothing is done to the images of the data set; every other one is cut to eight levels."""
    return BASE(x if torch.equal(x, X) else torch.round(x * 7) / 7)


class Killed(torch.autograd.Function):
    """The identity without a gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x + 0.01

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


def killed(x: Tensor) -> Tensor:
    return BASE(Killed.apply(x))


PROGRAMS = (temperature, vote, silent, rounded, detoured, defended, killed)


def found(code: Callable[[Tensor], Tensor]) -> dict[str, nn.Module]:
    return adaptations(Program(code), X, Y, EIGHT, 0)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (BASE, {"noise"}),
        (lambda x: BASE((x - 0.5) / 0.25), {"noise"}),
        (lambda x: BASE(x).log_softmax(1), {"noise"}),
        (lambda x: BASE(x) + OTHER(x), {"inner 1", "noise"}),
        (temperature, {"inner 1", "noise"}),
        (vote, {"inner 1", "inner 2", "inner all", "noise"}),
        (silent, {"rounding", "noise"}),
        (rounded, {"rounding", "images", "noise"}),
        (detoured, {"images", "noise"}),
        (killed, {"images", "noise"}),
        (moated, {"inner 1", "noise"}),
        (hushed, {"rounding", "noise"}),
        (purged, {"rounding", "images", "noise"}),
    ],
)
def test_what_there_is_to_read_is_found_and_nothing_else(code: Callable[[Tensor], Tensor], names: set[str]) -> None:
    assert {*found(code)} == names


def test_what_is_done_to_few_images_of_the_data_set_is_found_all_the_same() -> None:
    """On those images the three of above are what they are built around."""
    own = slopes(BASE, X, Y, margin).flatten(1)
    for code in (moated, hushed, purged):
        assert float(torch.cosine_similarity(code(X).flatten(), BASE(X).flatten(), dim=0)) > 0.999
        assert float(torch.cosine_similarity(slopes(Program(code), X, Y, margin).flatten(1), own).median()) > 0.999


@pytest.mark.parametrize("code", PROGRAMS)
def test_no_reading_of_the_whole_changes_a_value(code: Callable[[Tensor], Tensor]) -> None:
    for name, net in found(code).items():
        if name in ("images", "rounding", "loops"):
            assert torch.equal(net(X), code(X)), name


@pytest.mark.parametrize("code", [silent, rounded, detoured, killed])
def test_gradients_go_past_what_denies_them(code: Callable[[Tensor], Tensor]) -> None:
    assert dead(slopes(Program(code), X, Y, margin)).all()
    for name, net in found(code).items():
        if name != "noise":
            there = slopes(net, X, Y, margin).flatten(1)
            assert float(torch.cosine_similarity(there, slopes(BASE, X, Y, margin).flatten(1)).median()) > 0.9, name


def test_a_network_inside_is_read_wherever_the_code_keeps_it() -> None:
    """In a closure, in a list, behind a program of torch's own; and what it answers is what it answers alone."""
    kept, traced = [BASE], torch.jit.trace(BASE, X)
    for code in (temperature, lambda x: temperature(x) + 0 * kept[0](x), lambda x: F.one_hot(traced(x).argmax(1), 4).float()):
        inner = found(code)["inner 1"]
        assert torch.allclose(inner(X), BASE(X))
        assert torch.allclose(slopes(inner, X, Y, margin), slopes(BASE, X, Y, margin))


def test_gradients_that_a_pass_takes_itself_are_differentiated() -> None:
    second = found(defended)["loops"]
    own, differentiated = (slopes(net, X, Y, margin) for net in (Program(defended), second))
    assert not torch.allclose(own, differentiated)
    assert torch.equal(second(X), defended(X))


def test_a_program_that_cannot_be_read_otherwise_is_left_as_it_is() -> None:
    def refusing(x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError("no gradients here")
        return BASE(x)

    assert {*found(refusing)} == {"noise"}


def test_ripples_are_averaged_away() -> None:
    def rippled(x: Tensor) -> Tensor:
        return BASE(x) + 0.5 * torch.sin(400 * x.flatten(1)[:, :4])

    plain, seen = slopes(BASE, X, Y, margin).flatten(1), found(rippled)["noise"]
    own = slopes(Program(rippled), X, Y, margin).flatten(1)
    smooth = slopes(seen, X, Y, margin).flatten(1)
    cosines = [float(torch.cosine_similarity(grad, plain).median()) for grad in (own, smooth)]
    assert cosines[1] > cosines[0]


def test_weights_with_as_many_rows_as_images_are_no_answers_of_a_network_inside() -> None:
    """The same function, written with a weight that is transposed: rows of weights were counted as answers to 64 images."""
    torch.manual_seed(0)
    x = torch.rand(64, 1, 8, 8)

    class Hidden(nn.Module):
        def __init__(self, transposed: bool) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.first = nn.Parameter(torch.randn(32, 64, generator=generator) * 0.3, requires_grad=False)
            self.last = nn.Parameter(torch.randn(10, 32, generator=generator) * 0.3, requires_grad=False)
            self.transposed = transposed

        def forward(self, x: Tensor) -> Tensor:
            h = x.flatten(1)
            h = h @ self.first.t() if self.transposed else F.linear(h, self.first)
            return 5 * F.one_hot(F.linear(h.relu(), self.last).argmax(1), 10).float()

    y = Hidden(False)(x).argmax(1)
    plain, other = (adaptations(Hidden(how), x, y, ThreatModel.parse("linf", "0.1"), 0) for how in (False, True))
    assert plain.keys() == other.keys()
    assert "inner 1" in plain
    for rows in (64, 40, 7):
        torch.testing.assert_close(plain["inner 1"](x[:rows]), other["inner 1"](x[:rows]))
