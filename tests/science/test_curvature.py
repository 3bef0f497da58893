"""Lanczos and its density against dense matrices, and Hessian-vector products against a dense Hessian (T35)."""

import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import isolated
from bench.science.curvature import density, lanczos
from bench.science.weights import filter_normalised, gradient, hessian_product, moved, pieces, weights_of


def tiny(double: bool = True) -> nn.Module:
    """135 weights, a batch norm that has seen images among them."""
    with isolated(0):
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)
        )
        net(torch.rand(32, 1, 4, 4))
    return net.eval().double() if double else net.eval()


def batches(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    x = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(3)).to(weights_of(net))
    y = torch.arange(10) % 3
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def dense(net: nn.Module) -> Tensor:
    """By torch's own Hessian of the mean loss over all samples at once."""
    x, y = (torch.cat(parts) for parts in zip(*batches(net), strict=True))

    def loss(vector: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(net, pieces(net, vector), (x,)), y)

    found: Tensor = torch.autograd.functional.hessian(loss, weights_of(net))
    return found


def start(size: int, like: Tensor) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(like)


def test_hessian_products_are_those_of_the_dense_hessian() -> None:
    net = tiny()
    expected, product = dense(net), hessian_product(net, batches(net))
    found = torch.stack([product(row) for row in torch.eye(len(expected), dtype=torch.float64)])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_weight_that_takes_no_part_has_no_slope() -> None:
    """In all samples as one batch, too, whose backward pass is kept."""
    net = tiny()
    x, y = (torch.cat(parts) for parts in zip(*batches(net), strict=True))
    expected = dense(net)
    slope = gradient(net, [(x, y)])
    net.register_parameter("idle", nn.Parameter(torch.ones(3, dtype=x.dtype)))
    at = next(place for place, (name, _) in enumerate(net.named_parameters()) if name == "idle")
    before = sum(weight.numel() for weight in list(net.parameters())[:at])
    with_idle = gradient(net, [(x, y)])
    torch.testing.assert_close(torch.cat([with_idle[:before], with_idle[before + 3 :]]), slope)
    assert not with_idle[before : before + 3].any()
    product = hessian_product(net, [(x, y)])
    found = torch.stack([product(row) for row in torch.eye(len(expected) + 3, dtype=torch.float64)])
    kept = [place for place in range(len(found)) if not before <= place < before + 3]
    torch.testing.assert_close(found[kept][:, kept], expected, atol=1e-12, rtol=1e-9)
    assert not found[before : before + 3].any()


def test_gradients_are_those_of_the_mean_loss_and_weights_can_be_moved() -> None:
    net = tiny()
    x, y = (torch.cat(parts) for parts in zip(*batches(net), strict=True))
    expected = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), list(net.parameters()))
    torch.testing.assert_close(gradient(net, batches(net)), torch.cat([part.flatten() for part in expected]))
    before, logits = weights_of(net), net(x)
    with moved(net, before * 2):
        torch.testing.assert_close(weights_of(net), before * 2, rtol=0, atol=0)
    assert torch.equal(net(x), logits)


@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-8), (False, 1e-3)])
def test_top_eigenvalues_are_those_of_the_dense_hessian(double: bool, tolerance: float) -> None:
    net = tiny(double)
    expected = torch.linalg.eigvalsh(dense(tiny())).flip(0)
    found = lanczos(hessian_product(net, batches(net)), start(len(expected), weights_of(net)), 80)
    torch.testing.assert_close(found.values[:20], expected[:20], rtol=tolerance, atol=tolerance * float(expected[0]))
    # What it says of its own error holds, in exact arithmetic at least.
    away = (found.values[:, None] - expected).abs().amin(1)
    assert (away <= found.residuals + 10 * tolerance * float(expected[0])).all()


def test_lanczos_ends_where_the_space_does() -> None:
    """Three distinct eigenvalues make a Krylov space of three dimensions; the weights are shares of the first vector."""
    values = torch.tensor([4.0, 4.0, 1.0, 1.0, 1.0, -2.0], dtype=torch.float64)
    first = torch.tensor([1.0, 2.0, 0.0, 2.0, 0.0, 4.0], dtype=torch.float64)
    found = lanczos(lambda v: values * v, first, 50)
    torch.testing.assert_close(found.values, torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64))
    torch.testing.assert_close(found.weights, torch.tensor([5.0, 4.0, 16.0], dtype=torch.float64) / 25)
    assert found.residuals.max() < 1e-10
    assert lanczos(lambda v: 0 * v, first, 5).values.tolist() == [0]


@pytest.mark.slow
def test_the_density_has_the_moments_of_the_spectrum() -> None:
    """Of a diagonal matrix, whose trace and squared norm random signs give exactly."""
    values = torch.linspace(-1, 3, 40, dtype=torch.float64)
    found = density(lambda v: values * v, 40, 3, 12, torch.Generator().manual_seed(1), values)
    for power in (1, 2, 5):
        torch.testing.assert_close(found.moment(power), (values**power).mean())
    assert float(found.weights.sum()) == pytest.approx(1)
    grid = torch.linspace(-3, 5, 801, dtype=torch.float64)
    assert float(torch.trapezoid(found.over(grid, 0.1), grid)) == pytest.approx(1, abs=1e-6)
    # Of a matrix that is not diagonal they are means over draws.
    net = tiny()
    expected = torch.linalg.eigvalsh(dense(net)).mean()
    many = density(hessian_product(net, batches(net)), 135, 60, 20, torch.Generator().manual_seed(0), weights_of(net))
    assert float(many.moment(1)) == pytest.approx(float(expected), rel=0.15)


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights() -> None:
    """T36."""
    net = tiny()
    draw = start(len(weights_of(net)), weights_of(net))
    found = pieces(net, filter_normalised(net, draw))
    for (_, weight), piece, drawn in zip(net.named_parameters(), found.values(), pieces(net, draw).values(), strict=True):
        if weight.dim() < 2:
            assert not piece.any()
            continue
        torch.testing.assert_close(piece.flatten(1).norm(dim=1), weight.detach().flatten(1).norm(dim=1), rtol=1e-5, atol=0)
        cosine = nn.functional.cosine_similarity(piece.flatten(1), drawn.flatten(1), dim=1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
