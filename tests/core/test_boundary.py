"""Whatever a network does with what it is given, our images stay, and its answer comes as float32 logits."""

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.compat.autoattack import run_autoattack
from bench.core import (
    Classifier,
    Double,
    Expectation,
    Judge,
    Rng,
    ThreatModel,
    ask,
    batch_dependence,
    forward,
    isolated,
    margin,
    randomised,
    slopes,
)  # fmt: skip
from bench.core.views import VIEWS, Gradient, Meter
from bench.errors import AttackWarning, BadInput
from bench.plugins import get_attack

SHAPE = (2, 6, 6)
LINF = ThreatModel.parse("linf", "0.1")


class Net(nn.Module):
    """A network on (x - 0.5) / 0.5, which `before` brings about, and `after` what becomes of its logits."""

    def __init__(self, before: Callable[[Tensor], Any], after: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        with isolated(0, "net"):
            self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
        self.before, self.after = before, after
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        changed = self.before(x)
        return self.after(self.body(x if changed is None else changed))


def normal(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.5


def methods(x: Tensor) -> None:
    x.sub_(0.5).div_(0.5)


def sliced(x: Tensor) -> None:
    for channel in range(x.shape[1]):
        x[:, channel] = (x[:, channel] - 0.5) / 0.5


def last_axis(x: Tensor) -> None:
    x[..., :] -= 0.5
    x /= 0.5


def data(x: Tensor) -> None:
    x.data.sub_(0.5).div_(0.5)


def quietly(x: Tensor) -> None:
    with torch.no_grad():
        x.sub_(0.5).div_(0.5)


def shared(x: Tensor) -> None:
    values = x.detach().numpy()
    values -= np.float32(0.5)
    values /= np.float32(0.5)


def out(x: Tensor) -> None:
    torch.div(torch.sub(x.detach(), 0.5, out=x.detach()), 0.5, out=x.detach())


IN_PLACE = [methods, sliced, last_axis, data, quietly, shared, out]


def images(n: int = 24) -> tuple[Tensor, Tensor]:
    with isolated(1, "images"):
        return torch.rand(n, *SHAPE), torch.randint(5, (n,))


@pytest.mark.parametrize("before", IN_PLACE, ids=lambda before: before.__name__)
def test_preprocessing_in_place_changes_no_image_of_ours(before: Callable[[Tensor], Any]) -> None:
    x, y = images()
    kept, net, honest = x.clone(), Net(before), Net(normal)
    judge = Judge(net, LINF)
    assert torch.equal(judge.correct(x, y)[1], Judge(honest, LINF).correct(x, y)[1])
    assert torch.equal(forward(net, x), forward(honest, x))
    assert torch.equal(Classifier(net)(x), Classifier(honest)(x))
    assert torch.equal(Expectation(net, 3)(x), Expectation(honest, 3)(x))
    # Autograd misses a division that is kept from it; the directions are the same.
    directions = [F.normalize(slopes(either, x, y, margin).flatten(1)) for either in (net, honest)]
    assert torch.allclose(*directions, atol=1e-6)
    assert not randomised(net, x, 0)
    assert batch_dependence(net, x[:8], x[8:]) == 0
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("before", "name"),
    [(methods, "pgd"), (methods, "apgd"), (methods, "square"), (methods, "autoattack"), (data, "pgd"), (sliced, "autoattack")],
)
def test_attacks_find_the_same_behind_preprocessing_in_place(before: Callable[[Tensor], Any], name: str) -> None:
    x, _ = images(5)
    found, kept, attack = [], x.clone(), get_attack(name)
    for net in (Net(before), Net(normal)):
        y = forward(net, x).argmax(1)
        parameters = attack.configure({} if name == "autoattack" else {"queries": 60} if name == "square" else {"steps": 8})
        view = VIEWS[attack.access](net, Meter(len(x), x.device))
        found.append(attack.run(view, x, y, LINF, Rng(0, torch.arange(len(x))), **parameters))
    assert torch.equal(x, kept)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_answers_of_any_precision_are_taken_as_float32(dtype: torch.dtype) -> None:
    x, y = images()
    net = Net(normal, lambda logits: logits.to(dtype))
    assert ask(net, x).dtype == torch.float32
    correct, value = Judge(net, LINF).correct(x, y)
    assert value.dtype == torch.float32
    assert torch.equal(correct, Net(normal)(x).to(dtype).argmax(1) == y)
    assert slopes(net, x, y, margin).dtype == torch.float32
    assert not randomised(net, x, 0)


def test_answers_under_autocast_are_taken_as_float32() -> None:
    x, y = images()

    def autocast(given: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return Net(normal)(given)

    assert autocast(x).dtype == torch.bfloat16
    assert ask(autocast, x).dtype == torch.float32
    view = Gradient(autocast, Meter(len(x), x.device))  # type: ignore[arg-type]
    assert view.grad(x, margin, y).grad.abs().sum() > 0


def test_float64_stays_where_it_was_asked_for() -> None:
    x, _ = images(16)
    for net in (Net(normal), Classifier(Net(normal)), nn.Sequential(Classifier(Net(normal)))):
        double = Double(net)
        assert forward(double, x).dtype == torch.float64
        assert torch.allclose(forward(double, x).float(), forward(net, x), atol=1e-5)


class Output(NamedTuple):
    loss: None
    logits: Tensor


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda z: {"logits": z},
        lambda z: OrderedDict(loss=None, logits=z),
        lambda z: SimpleNamespace(loss=None, logits=z, hidden_states=()),
        lambda z: Output(None, z),
    ],
    ids=["dict", "ordered dict", "object", "named tuple"],
)
def test_logits_are_found_by_their_name(wrapped: Callable[[Tensor], Any]) -> None:
    x, y = images()
    assert torch.equal(forward(Net(normal, wrapped), x), forward(Net(normal), x))
    assert torch.equal(slopes(Net(normal, wrapped), x, y, margin), slopes(Net(normal), x, y, margin))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z: (z, z[:, :2]), r"returns a tuple, not .*, of Tensor \[24, 5\], Tensor \[24, 2\]; .*`return answer\[0\]`"),
        (lambda z: [z], r"returns a list, not .*, of Tensor \[24, 5\]; return the logits alone"),
        (lambda z: {"out": z, "aux": z}, r"returns a dict, .*its keys are 'out', 'aux'; .*under the key 'logits'"),
        (lambda z: {"logits": None}, "its keys are 'logits'; return the logits alone"),
        (lambda _: None, r"returns a NoneType, .*return the logits alone, or an object that has them as `\.logits`"),
        (lambda z: z.numpy(), "returns a ndarray, not a tensor of logits"),
    ],
)
def test_what_holds_no_logits_is_refused_by_its_name(answer: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ask(Net(normal, answer), images()[0])


def squeezed(logits: Tensor) -> Tensor:
    return logits.squeeze()


def in_company(x: Tensor) -> Tensor:
    if len(x) < 2:
        raise ValueError("Expected more than 1 value per channel when training")
    return normal(x)


@pytest.mark.parametrize("net", [Net(normal, squeezed), Net(in_company)], ids=["squeezes", "refuses one"])
def test_a_single_image_gets_its_answer(net: Net) -> None:
    x, _ = images(1)
    expected = Net(normal)(x)
    assert torch.allclose(ask(net, x), expected, atol=1e-6)
    assert torch.allclose(forward(net, x), expected, atol=1e-6)
    assert not randomised(net, x, 0)
    assert batch_dependence(net, x, 1 - x) == 0
    found, _ = run_autoattack(net, x, expected.argmax(1), LINF, version="standard", seed=0, batch_size=8)
    assert LINF.contains(found, x).all()


def test_a_network_that_fails_on_any_number_of_images_says_why() -> None:
    def failing(x: Tensor) -> Tensor:
        raise KeyError("layer9")

    for n in (1, 4):
        with pytest.raises(KeyError, match="layer9"):
            ask(failing, images(n)[0])


def test_a_single_float32_image_goes_through_alone() -> None:
    """Reference code is given, bit for bit, what it would have had from the network itself."""
    sizes = []

    def counting(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return Net(normal)(x)  # type: ignore[no-any-return]

    ask(counting, images(1)[0])
    ask(counting, images(3)[0])
    assert sizes == [1, 3]


class Wrapped(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


class Unconnected(nn.Module):
    """Its answer wants a gradient, and none leads to the images; as dynamic int8 layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = Net(normal), torch.ones(1, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x.detach())  # type: ignore[no-any-return]


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("derivative is not implemented")


@pytest.mark.parametrize(
    "blind",
    [
        Unconnected(),
        Net(lambda x: normal(x).detach()),
        Net(lambda x: torch.from_numpy(normal(x).numpy())),
        Net(lambda x: Failing.apply(normal(x))),
        Wrapped(torch.inference_mode()(Net(normal))),
    ],
    ids=["unconnected", "detached", "numpy", "backward fails", "inference mode"],
)
def test_a_missing_gradient_is_one_of_0_and_said(blind: nn.Module) -> None:
    """To our own attacks and to other people's loops, which take one as granted."""
    x, _ = images(8)
    y, pgd = forward(blind, x).argmax(1), get_attack("pgd")
    rng, view = Rng(0, torch.arange(len(x))), VIEWS["module"](blind, Meter(len(x), x.device))
    with pytest.warns(AttackWarning, match="gives no gradient|backward pass fails"):
        pgd.run(view, x, y, LINF, rng, **pgd.configure({"steps": 3}))
    z = x.clone().requires_grad_()
    with pytest.warns(AttackWarning, match="gives no gradient"):
        logits = view.module(z)
    assert torch.equal(logits, ask(blind, x))
    (grad,) = torch.autograd.grad(margin(logits, y).sum(), z)
    assert not grad.any()
    assert bool(view._meter.backwards.any())


def test_autoattack_runs_where_there_is_no_gradient() -> None:
    x, _ = images(2)
    net = Unconnected()
    view, attack = VIEWS["module"](net, Meter(len(x), x.device)), get_attack("autoattack")
    y = (forward(net, x).argmax(1) + 1) % 5
    z = attack.run(view, x, y, LINF, Rng(0, torch.arange(len(x))), **attack.configure({}))
    assert LINF.contains(z, x).all()


def test_ordinary_networks_keep_their_bits() -> None:
    x, y = images(32)
    net = Net(normal)
    assert torch.equal(forward(net, x), net(x))
    z = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
    assert torch.equal(slopes(net, x, y, lambda logits, y: F.cross_entropy(logits, y, reduction="none")), expected)
