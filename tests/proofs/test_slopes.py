"""Bounds of gradients over a ball: sound at samples, exact at a point, on linear networks and on a hidden layer by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.rng import isolated
from bench.models import build
from bench.models.architectures import names
from bench.proofs import intervals, slopes
from bench.proofs.intervals import Unknown
from bench.proofs.slopes import dual_norm, slope_bounds


class Residual(nn.Module):
    """Convolutions with norms around a sum, as in a small ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.last = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.norm(self.first((x - 0.5) / 0.25)))
        return self.last(F.adaptive_avg_pool2d(z + 0.5 * self.second(z), 1).flatten(1))


NETS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 4)),
    "digits_cnn": lambda: build("digits_cnn?width=2", (1, 6, 6), 4),
    "lenet": lambda: build("lenet?width=1", (1, 6, 6), 4),
    "overlapping pools": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 1, 1), nn.Flatten(), nn.Linear(32, 4)),
    "smooth": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Sigmoid(),
        nn.Linear(6, 6),
        nn.Softplus(2.0),
        nn.Linear(6, 4),
    ),
    "leaky": lambda: nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.LeakyReLU(0.2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 4)),
    "residual": Residual,
    "bent": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.ELU(1.5),
        nn.Dropout(0.3),
        nn.Linear(6, 6),
        nn.CELU(0.5),
        nn.Linear(6, 6),
        nn.SELU(),
        nn.Linear(6, 4),
    ),
    "clipped": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 6), nn.ReLU6(), nn.Linear(6, 6), nn.Hardtanh(-0.2, 0.4), nn.Linear(6, 4)
    ),
    "steeper below": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.LeakyReLU(2.0), nn.Linear(6, 4)),
    "preact_resnet18": lambda: build("preact_resnet18?width=1", (1, 6, 6), 4),
}
WITHOUT = {"detach", "max_pool1d", "adaptive_max_pool2d"}
"""What has an interval and no slope: the first on purpose, as its slope is not what the network's own backward pass says."""


def made(name: str) -> nn.Module:
    with isolated(0):
        net = NETS[name]()
        net.train()
        net(torch.rand(40, 1, 6, 6))
    return net.eval().double()


def gradient(net: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((net(z) * weights).sum(), z)
    return found


def case(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    return torch.rand(3, 1, 6, 6, generator=draw, dtype=torch.float64), weights


@pytest.mark.parametrize("name", NETS)
def test_no_gradient_in_the_ball_is_out_of_bounds(name: str) -> None:
    net, (x, weights) = made(name), case()
    draw = torch.Generator().manual_seed(1)
    for eps in (0.01, 0.1, 0.5):
        low, high = slope_bounds(net, x - eps, x + eps, weights)
        widest = torch.zeros(3, dtype=torch.float64)
        for _ in range(60):
            z = x + eps * (2 * torch.rand(x.shape, generator=draw, dtype=torch.float64) - 1)
            z = torch.where(torch.rand(x.shape, generator=draw) < 0.5, z, x + eps * (z - x).sign())
            found = gradient(net, z, weights)
            assert (found >= low - 1e-9).all()
            assert (found <= high + 1e-9).all()
            widest = torch.maximum(widest, found.flatten(1).abs().sum(1))
        assert (dual_norm((low, high), "linf") >= widest - 1e-9).all()


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("lenet", "overlapping pools")])
def test_at_a_point_the_bounds_are_the_gradient(name: str) -> None:
    """Not where there is a maximum of several, which has no bounds but 0 and all."""
    net, (x, weights) = made(name), case()
    low, high = slope_bounds(net, x, x, weights)
    torch.testing.assert_close(low, gradient(net, x, weights))
    torch.testing.assert_close(high, low)


def test_of_a_linear_network_they_are_its_weights_however_large_the_ball() -> None:
    net, (x, weights) = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double(), case()
    low, high = slope_bounds(net, x - 5, x + 5, weights)
    torch.testing.assert_close(low.flatten(1), weights @ net[1].weight.detach())
    torch.testing.assert_close(high, low)


def test_one_hidden_layer_by_hand() -> None:
    """Slopes of neurons that change sign in the ball may be 0 or 1, each by itself; of the others they are known."""
    net, (x, weights) = made("mlp").requires_grad_(False), case()
    eps = 0.1
    first, last = net[1], net[3]
    middle, spread = first(x.flatten(1)), eps * first.weight.abs().sum(1)
    on, off = middle - spread > 0, middle + spread <= 0
    free = ~(on | off)
    assert free.any()
    assert on.any()
    each = (weights @ last.weight)[:, :, None] * first.weight
    low = (each * on[..., None] + (each * free[..., None]).clamp_max(0)).sum(1)
    high = (each * on[..., None] + (each * free[..., None]).clamp_min(0)).sum(1)
    found = slope_bounds(net, x - eps, x + eps, weights)
    torch.testing.assert_close(found[0].flatten(1), low)
    torch.testing.assert_close(found[1].flatten(1), high)


def test_dual_norms_are_of_the_largest_gradient_within_the_bounds() -> None:
    bounds = torch.tensor([[-3.0, 1.0]]).view(1, 1, 1, 2), torch.tensor([[2.0, 4.0]]).view(1, 1, 1, 2)
    assert [float(dual_norm(bounds, norm)) for norm in ("linf", "l2", "l1")] == [7, 5, 4]


def test_what_has_an_interval_has_a_slope() -> None:
    assert set(intervals._RULES) - {name for names in slopes._RULES for name in names} == WITHOUT


@pytest.mark.parametrize("name", sorted({*names()} - {"patches"}))
def test_every_architecture_has_slopes(name: str) -> None:
    """Of our own but that of the lab, which multiplies patches by itself; one that is missing cannot be measured."""
    shape = (1, 8, 8) if name in ("linear", "structured") else (3, 32, 32)
    net = build(name, shape, 10).eval().double()
    x = torch.full((1, *shape), 0.5, dtype=torch.float64)
    low, high = slope_bounds(net, x, x, torch.ones(1, 10, dtype=torch.float64))
    assert (low <= high + 1e-9).all()


@pytest.mark.parametrize(
    "forward", [lambda x: torch.sin(x).flatten(1), lambda x: (x * x).flatten(1), lambda x: F.relu(x, inplace=True).flatten(1)]
)
def test_what_has_no_rule_is_refused(forward: object) -> None:
    x, _ = case()
    with pytest.raises(Unknown):
        slope_bounds(forward, x, x, torch.ones(3, 36, dtype=torch.float64))  # type: ignore[arg-type]
