"""The tangent kernel against explicit Jacobians and closed forms, and what is read from kernels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.core.rng import isolated
from bench.models import build
from bench.science import ntk


def small() -> nn.Module:
    """About 1000 weights, with batch norms that have seen images; in train mode but for one layer."""
    with isolated(0):
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8),
            nn.ReLU(), nn.Flatten(), nn.Linear(8 * 3 * 3, 5),
        )  # fmt: skip
        net(3 * torch.rand(64, 1, 8, 8))
    net[4].eval()
    return net


def images(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def jacobian(net: nn.Module, x: Tensor) -> Tensor:
    """The gradients of every logit at every image, one backward pass each, float64 [n, K, P]."""
    rows = [
        torch.cat([part.flatten() for part in torch.autograd.grad(logit, list(net.parameters()), retain_graph=True)])
        for image in x
        for logit in net(image.unsqueeze(0))[0]
    ]
    return torch.stack(rows).double().view(len(x), -1, len(rows[0]))


def positive(n: int, seed: int, rank: int | None = None) -> Tensor:
    factor = torch.randn(n, rank or n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T


def test_kernels_are_products_of_jacobians_in_eval_mode() -> None:
    """T33, on a batch that takes two chunks."""
    net, x = small(), images(40)
    modes = [part.training for part in net.modules()]
    buffers = [buffer.clone() for buffer in net.buffers()]
    found = {outputs: ntk.kernel(net, x, outputs) for outputs in ("sum", "trace", "classes")}  # type: ignore[arg-type]
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(buffer, before) for buffer, before in zip(net.buffers(), buffers, strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())
    rows = jacobian(net.eval(), x)
    classes = torch.einsum("icp,jcp->cij", rows, rows)
    total = rows.sum(1) / math.sqrt(5)
    for outputs, expected in (("sum", total @ total.T), ("trace", classes.mean(0)), ("classes", classes)):
        assert found[outputs].dtype == torch.float64
        torch.testing.assert_close(found[outputs], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    # The three differ, so that none can stand for another.
    assert ntk.distance(found["sum"], found["trace"]) > 1e-3


def test_the_full_kernel_is_that_of_all_logits_and_holds_those_of_the_classes() -> None:
    """T33, nK x nK, on more rows than a chunk has; sets of images side by side."""
    net, x = small(), images(10)
    found = ntk.kernel(net, x, "full")
    rows = jacobian(net.eval(), x).flatten(0, 1)
    torch.testing.assert_close(found, rows @ rows.T, rtol=1e-5, atol=1e-5 * float((rows @ rows.T).abs().max()))
    torch.testing.assert_close(ntk.of_classes(found, 5), ntk.kernel(net, x, "classes"), rtol=1e-5, atol=1e-6)
    sets = torch.stack([x, images(10, seed=1)])
    torch.testing.assert_close(ntk.kernel(net, sets, "full")[0], found, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ntk.kernel(net, x, "full", entries=1), found, rtol=1e-6, atol=1e-6)


def test_kernels_have_no_negative_direction() -> None:
    for outputs in ("sum", "classes"):
        values = torch.linalg.eigvalsh(ntk.kernel(small(), images(30), outputs))  # type: ignore[arg-type]
        assert (values[..., 0] >= -1e-5 * values[..., -1]).all()


def test_a_kernel_in_blocks_is_the_same_and_its_passes_are_counted() -> None:
    """Blocks of whole tensors: all at once, some together, one by one; every block sends the images through anew."""
    net, x = small(), images(12)
    sizes = [parameter.numel() for parameter in net.parameters()]
    seen = []
    net.register_forward_hook(lambda *_: seen.append(1))
    for entries, blocks in ((12 * sum(sizes), 1), (12 * sum(sizes) - 1, 2), (12 * 500, 3), (1, len(sizes))):
        seen.clear()
        torch.testing.assert_close(ntk.kernel(net, x, entries=entries), ntk.kernel(net, x), rtol=1e-6, atol=0)
        assert ntk.passes(net, 12, entries=entries) == 12 * blocks
        assert len(seen) == blocks + 1
    assert ntk.passes(net, 12) == 12


def test_sets_of_images_have_their_own_kernels() -> None:
    net, x, z = small(), images(20), images(20, seed=1)
    both = ntk.kernel(net, torch.stack([x, z]))
    for found, alone in zip(both, (x, z), strict=True):
        torch.testing.assert_close(found, ntk.kernel(net, alone), rtol=1e-5, atol=1e-5)
    assert ntk.kernel(net, torch.stack([x, z]), "classes").shape == (5, 2, 20, 20)


def test_float32_loses_little() -> None:
    with isolated(0):
        net = build("digits_cnn", (1, 8, 8), 10)
    found = ntk.kernel(net, images(20))
    torch.testing.assert_close(found, ntk.kernel(net.double(), images(20).double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("outputs", ["sum", "trace", "classes"])
def test_the_kernel_of_a_linear_model_is_known_and_stays(outputs: ntk.Outputs) -> None:
    with isolated(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = images(25), torch.arange(25) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    expected = x.flatten(1).double() @ x.flatten(1).double().T + 1
    kernels = []
    for _ in range(3):
        kernels.append(ntk.kernel(net, x, outputs))
        torch.testing.assert_close(kernels[-1], expected.expand_as(kernels[-1]), rtol=1e-5, atol=0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert float(ntk.distance(kernels[0], kernels[-1]).abs().max()) < 1e-12


@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_the_distance_ignores_scale_and_is_symmetric(seed: int, scale: float) -> None:
    """T34."""
    a, b = positive(6, seed), positive(6, seed + 1)
    assert float(ntk.distance(a, scale * a)) == pytest.approx(0, abs=1e-6)
    assert float(ntk.distance(a, scale * b)) == pytest.approx(float(ntk.distance(b, a)), abs=1e-12)
    assert 1e-3 < float(ntk.distance(a, b)) < 1


def test_the_distance_of_known_kernels() -> None:
    one = torch.zeros(4, 4)
    one[0, 0] = 1
    assert float(ntk.distance(one, torch.eye(4))) == pytest.approx(1 - 1 / 2)
    assert ntk.distance(torch.stack([one, torch.eye(4)]), torch.eye(4)).tolist() == pytest.approx([0.5, 0])


@pytest.mark.parametrize("n", [3, 12])
def test_ranks_of_known_spectra(n: int) -> None:
    """T34: n equal eigenvalues count n, a single one counts 1; eigenvalues of 3 and 1 in closed form."""
    for rank in (ntk.effective_rank, ntk.participation_ratio):
        assert float(rank(5 * torch.eye(n))) == pytest.approx(n, abs=1e-6)
        assert float(rank(positive(n, 0, rank=1))) == pytest.approx(1, abs=1e-6)
    turn = torch.linalg.qr(positive(n, 1)).Q
    k = turn @ torch.diag(torch.tensor([3.0, 1.0] + [0.0] * (n - 2)).double()) @ turn.T
    assert float(ntk.effective_rank(k)) == pytest.approx(4 / 3**0.75)
    assert float(ntk.participation_ratio(k)) == pytest.approx(16 / 10)
    assert float(ntk.top_mass(k, 1)) == pytest.approx(9 / 10)
    assert float(ntk.top_mass(k, 2)) == pytest.approx(1)
    torch.testing.assert_close(ntk.leading(k, 2), k)
    torch.testing.assert_close(ntk.leading(k, 1), 3 * torch.outer(turn[:, 0], turn[:, 0]))


def test_polar_dynamics_of_a_straight_way() -> None:
    """K_0 + t D with D at a right angle to K_0: the way is t / T, the angle arctan(t |D| / |K_0|)."""
    start, way = torch.eye(6).double(), positive(6, 3)
    way = way - way.trace() / 6 * start
    radius, angle = ntk.polar(torch.stack([start + t * way for t in (0, 1, 3, 4)]))
    torch.testing.assert_close(radius, torch.tensor([0, 0.25, 0.75, 1]).double())
    slope = float(way.norm() / start.norm())
    torch.testing.assert_close(angle[1:], torch.tensor([math.atan(t * slope) for t in (1, 3, 4)]).double())
    assert float(angle[0]) < 1e-7


def test_specialisation_of_known_kernels() -> None:
    """1 for kernels without a class of their own; K - 1 on the diagonal for centred one-vs-rest kernels of K even classes."""
    y = torch.arange(20) % 5
    same = positive(20, 0).expand(5, 20, 20)
    torch.testing.assert_close(ntk.specialisation(same, y), torch.ones(5, 5).double())
    own = (y == torch.arange(5).unsqueeze(1)).double()
    own = own - own.mean(1, keepdim=True)
    found = ntk.specialisation(own.unsqueeze(2) * own.unsqueeze(1), y)
    torch.testing.assert_close(found.diagonal(), torch.full((5,), 4.0).double())
    # Kernel of class 0, labels of class 1: cos^2 = 1/16, over a mean of (1 + 4/16) / 5.
    assert float(found[0, 1]) == pytest.approx((1 / 16) / (1 / 4))
    torch.testing.assert_close(found.mean(0), torch.ones(5).double())
    # What is the same for all images, in all kernels, hides nothing.
    torch.testing.assert_close(ntk.specialisation(own.unsqueeze(2) * own.unsqueeze(1) + 1, y), found)
