"""Randomness keyed by sample id."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.core import Judge, ThreatModel, randomised
from bench.core.rng import Rng, isolated, shuffled


@given(st.integers(0, 2**31), st.lists(st.integers(0, 10**12), min_size=1, max_size=8, unique=True))
def test_a_sample_draws_the_same_in_any_batch(seed: int, ids: list[int]) -> None:
    whole = Rng(seed, torch.tensor(ids)).at("start")
    for draw in (lambda r: r.uniform((3, 2)), lambda r: r.normal((5,)), lambda r: r.permutation(7)):
        alone = [draw(Rng(seed, torch.tensor([one])).at("start")) for one in ids]
        assert torch.equal(draw(whole), torch.cat(alone))
        assert torch.equal(draw(whole)[1:], draw(whole[torch.arange(1, len(ids))]))


@given(st.integers(0, 2**31), st.integers(0, 100), st.lists(st.integers(0, 10**12), min_size=1, max_size=4, unique=True))
def test_draws_of_many_steps_at_once_are_those_of_each(seed: int, first: int, ids: list[int]) -> None:
    rng = Rng(seed, torch.tensor(ids)).at("attack")
    together = rng.uniforms("query", range(first, first + 5), (2, 3))
    assert torch.equal(together, torch.stack([rng.at("query", k).uniform((2, 3)) for k in range(first, first + 5)], 1))


def test_streams_seeds_and_samples_are_unrelated() -> None:
    ids = torch.arange(2000)
    draws = [Rng(0, ids), Rng(1, ids), Rng(0, ids).at("a"), Rng(0, ids).at("b"), Rng(0, ids).at("a", 1), Rng(0, ids + 2000)]
    table = torch.corrcoef(torch.stack([rng.uniform((4,)).flatten() for rng in draws]))
    assert (table - torch.eye(len(draws))).abs().max() < 0.05
    positions = torch.corrcoef(Rng(0, ids).uniform((6,)).T)
    assert (positions - torch.eye(6)).abs().max() < 0.1


def test_uniform_and_normal_have_their_moments() -> None:
    rng = Rng(7, torch.arange(500))
    uniform, normal = rng.uniform((400,)), rng.normal((401,))
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.003
    assert abs(uniform.var() - 1 / 12) < 0.001
    assert abs(normal.mean()) < 0.01
    assert abs(normal.var() - 1) < 0.02
    assert abs((normal**4).mean() - 3) < 0.1


def test_the_bytes_never_change() -> None:
    """A published row is repeated from its seed, so these numbers are part of the format."""
    rng = Rng(0, torch.tensor([0, 1, 10**9]))
    assert (rng.at("start").uniform((2,)) * 2**24).long().tolist() == [
        [429393, 3193802],
        [13982500, 1966590],
        [8424296, 3643160],
    ]
    assert shuffled(10, 0, "x").tolist() == [5, 9, 8, 7, 3, 1, 2, 6, 4, 0]


def test_integers_and_permutations() -> None:
    rng = Rng(3, torch.arange(3000))
    drawn = rng.integers(9, (1,))
    assert drawn.min() == 0
    assert drawn.max() == 8
    assert (torch.bincount(drawn.flatten()) - 3000 / 9).abs().max() < 80
    orders = rng.permutation(5)
    assert torch.equal(orders.sort(1).values, torch.arange(5).expand(3000, 5))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    Rng(0, torch.arange(4)).normal((3,))
    with isolated(5, "weights"):
        first = torch.rand(3)
    with isolated(5, "weights"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_isolated_code_restores_the_generator_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="size"), isolated(1):
        torch.rand(1) @ torch.rand(2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_generators_of_numpy_and_python_are_isolated_like_torchs() -> None:
    """Preprocessing and augmentation draw from any of the three."""

    def drawn() -> list[float]:
        return [torch.rand(1).item(), float(np.random.rand()), random.random()]

    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    found = []
    for _ in range(2):
        with isolated(5, "noise"):
            found.append(drawn())
    with isolated(6, "noise"):
        assert all(one != other for one, other in zip(drawn(), found[0], strict=True))
    with pytest.raises(RuntimeError, match="size"), isolated(5, "noise"):
        torch.ones(2) @ torch.tensor(drawn())
    assert found[0] == found[1]
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]


def test_a_network_that_draws_from_numpy_is_randomised_and_repeats_itself() -> None:
    def noisy(x: Tensor) -> Tensor:
        noise = 0.1 * np.random.rand(*x.shape) + 0.1 * random.random()
        return (x + torch.from_numpy(noise).float()).flatten(1)

    x, y = torch.rand(16, 1, 3, 3), torch.zeros(16, dtype=torch.int64)
    assert randomised(noisy, x, 0)
    judge = Judge(noisy, ThreatModel.parse("linf", "0.1"), draws=3)
    assert torch.equal(judge.correct(x, y)[1], judge.correct(x, y)[1])
