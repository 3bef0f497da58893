"""Input gradients of grey images: right, the same for a sample whatever its batch, and taken the quick way where it is one."""

import pytest
import torch
from torch import Tensor, nn

from bench.core import backward, margin
from bench.core.backward import quick_backward
from bench.core.views import slopes

torch_native = torch.ops.aten._slow_conv2d_backward.output_mask


def network(*convolution: object, dtype: torch.dtype = torch.float32, **options: object) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(*convolution, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))  # type: ignore[arg-type]
    net(torch.zeros(1, convolution[0], 20, 28))  # type: ignore[arg-type]
    return net.to(dtype).eval().requires_grad_(False)


def gradient(net: nn.Module, x: Tensor, *, quick: bool) -> Tensor:
    z = x.detach().requires_grad_()
    value = net(z).logsumexp(1).sum()
    if not quick:
        return torch.autograd.grad(value, z)[0]
    with quick_backward(z):
        return torch.autograd.grad(value, z)[0]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each backward pass of a convolution went the quick way."""
    seen, judged = [], backward._slow

    def watched(*args: object) -> bool:
        seen.append(judged(*args))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(backward, "_slow", watched)
    return seen


GEOMETRIES = [
    ((1, 8, 4), {"stride": 2, "padding": 1}),
    ((1, 8, 5), {"padding": 2}),
    ((1, 3, (3, 5)), {"stride": (2, 1), "padding": (0, 2)}),
    ((1, 4, 1), {"bias": False}),
    ((1, 2, 7), {"stride": 3, "padding": "valid"}),
    ((1, 2, (3, 5)), {"padding": "same"}),
    ((1, 2, (4, 2)), {"padding": "same"}),
    ((1, 2, 3), {"padding": 1, "padding_mode": "circular"}),
]


@pytest.mark.parametrize(("convolution", "options"), GEOMETRIES)
def test_it_is_the_gradient(convolution: tuple, options: dict, taken: list[bool]) -> None:
    net, x = network(*convolution, **options), torch.rand(9, 1, 20, 28)
    found = gradient(net, x, quick=True)
    assert taken == [True]
    exact = gradient(network(*convolution, dtype=torch.float64, **options), x.double(), quick=False)
    assert float((found - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


def test_attacks_go_the_quick_way(taken: list[bool]) -> None:
    net, x, y = network(1, 8, 4), torch.rand(20, 1, 20, 28), torch.arange(20) % 5
    assert slopes(net, x, y, margin).isfinite().all()
    assert taken == [True]


def test_a_sample_has_the_same_bits_in_any_batch() -> None:
    grad, weight = torch.randn(67, 16, 14, 14), torch.randn(16, 1, 4, 4)
    x = torch.rand(67, 1, 28, 28)
    settings = ([4, 4], [2, 2], [1, 1], [True, False, False])
    whole = torch_native(grad, x, weight, *settings)[0]
    for size in (1, 2, 16, 33):
        assert torch.equal(torch_native(grad[:size], x[:size], weight, *settings)[0], whole[:size])


@pytest.mark.parametrize(
    ("convolution", "options"),
    [
        ((3, 8, 3), {}),
        ((1, 8, 3), {"dilation": 2}),
    ],
)
def test_other_convolutions_go_their_own_way(convolution: tuple, options: dict, taken: list[bool]) -> None:
    net, x = network(*convolution, **options), torch.rand(9, convolution[0], 20, 28)
    assert torch.equal(gradient(net, x, quick=True), gradient(net, x, quick=False))
    assert not any(taken)


def test_in_float64_and_of_small_images_nothing_changes(taken: list[bool]) -> None:
    net, x = network(1, 8, 3, dtype=torch.float64), torch.rand(4, 1, 20, 28, dtype=torch.float64)
    assert torch.equal(gradient(net, x, quick=True), gradient(net, x, quick=False))
    assert taken == [False]
    small = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten()).requires_grad_(False)
    x = torch.rand(20, 1, 8, 8)
    assert torch.equal(gradient(small, x, quick=True), gradient(small, x, quick=False))
    assert taken == [False]


def test_gradients_of_weights_are_left_alone(taken: list[bool]) -> None:
    net = network(1, 8, 3).requires_grad_(True)
    z = torch.rand(4, 1, 20, 28).requires_grad_()
    with quick_backward(z):
        net(z).logsumexp(1).sum().backward()
    assert taken == [False]
    assert net[0].weight.grad is not None  # type: ignore[index]


def test_a_compiled_network_and_one_that_takes_a_gradient_itself() -> None:
    net, x = network(1, 8, 5), torch.rand(9, 1, 20, 28)
    compiled = torch.compile(net, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled, x, quick=True), gradient(net, x, quick=False))

    class Purified(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                inner = x if x.requires_grad else x.detach().requires_grad_()
                (grad,) = torch.autograd.grad(net(inner).logsumexp(1).sum(), inner, create_graph=True)
            return net(x - 0.1 * grad)

    torch.testing.assert_close(gradient(Purified(), x, quick=True), gradient(Purified(), x, quick=False))
