"""What the engine does with a plan: dropping, worst case, grids, restarts, units that survive an interruption."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import Score
from bench.data.datasets import Dataset
from bench.errors import BadInput
from bench.evaluation.engine import Evaluation
from bench.evaluation.evaluation import carry_out
from bench.files.progress import Reporter
from bench.plans.plan import Plan
from bench.plugins import registry
from bench.plugins.registry import attack
from bench.results.schema import AttackResult

LINF = ThreatModel.parse("linf", "0.1")


class Threshold(nn.Module):
    """Two classes: 1 when the first pixel exceeds one half."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0, 0, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)


def points(n: int, value: float = 0.45, label: int = 0) -> Dataset:
    """n images of 2x2 whose first pixel is `value`: class 0, and a step of 0.05 from class 1."""
    x = torch.full((n, 1, 2, 2), value)
    return Dataset("points", "test", x, torch.full((n,), label), torch.arange(n), 2, "made here")


@pytest.fixture
def calls() -> Iterator[list[list[int]]]:
    """Three attacks for these tests, and a list of the ids of every batch they were handed."""
    seen: list[list[int]] = []
    registry.attack_names()
    before = dict(registry._attacks)

    def lift(x: Tensor, chosen: Tensor, by: float) -> Tensor:
        return x + by * chosen.view(-1, 1, 1, 1)

    @attack("every", access="score", norms={"linf"})
    def every(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, *, k: int = 2, by: float = 0.09) -> Tensor:
        """Fools the samples whose id is a multiple of k."""
        seen.append(rng.ids.tolist())
        model.logits(x)
        return lift(x, rng.ids % k == 0, by)

    @attack("lucky", access="score", norms={"linf"})
    def lucky(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, *, p: float = 0.3) -> Tensor:
        """Fools each sample with probability p, anew in every restart."""
        seen.append(rng.ids.tolist())
        model.logits(x)
        return lift(x, rng.uniform((1,)).squeeze(1) < p, 0.09)

    @attack("hungry", access="score", norms={"linf"})
    def hungry(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, *, room: int = 10) -> Tensor:
        """Runs out of memory on batches of more than `room`."""
        if len(x) > room:
            raise torch.OutOfMemoryError("no room")
        seen.append(rng.ids.tolist())
        return lift(x, rng.ids % 3 == 0, 0.09)

    yield seen
    registry._attacks.clear()
    registry._attacks.update(before)


@pytest.mark.parametrize("returns", [lambda x: None, lambda x: (x, x), lambda x: x[:1], lambda x: x.numpy(), lambda x: x > 0])
def test_what_is_no_candidate_is_told(tmp_path: Path, calls: list[list[int]], returns: Callable[[Tensor], Any]) -> None:
    @attack("forgetful", access="score", norms={"linf"})
    def forgetful(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng) -> Any:
        """Returns something else."""
        return returns(x)

    with pytest.raises(
        BadInput, match=r"attack 'forgetful' returned .*; return candidates of the images' shape \[6, 1, 2, 2\]"
    ):
        run(tmp_path, points(6), {"attack": "forgetful"})


@pytest.mark.parametrize("attack_name", ["pgd", "apgd", "square", "hop_skip_jump", "fgsm"])
@pytest.mark.parametrize("hole", [torch.nan, torch.inf])
def test_an_answer_without_a_number_is_wrong_to_attacks_as_to_the_judge(tmp_path: Path, attack_name: str, hole: float) -> None:
    """The leading logit overflows wherever it leads by little: argmax calls that the right answer, and attacks walked on."""

    class Overflows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            lead = 0.5 - x[:, 0, 0, 0]
            return torch.stack([torch.where(lead < 0.02, hole, lead), -lead], 1)

    plain = {"attack": attack_name, "on": "all"}
    done = run(tmp_path, points(4, 0.39), plain, net=Overflows())
    assert results(done)[0].robust_accuracy == 0


def test_an_attack_that_writes_into_what_it_is_given_decides_nothing(tmp_path: Path, calls: list[list[int]]) -> None:
    """Images and labels are the judge's: the first would be broken without an example, the second stand in spite of one."""

    @attack("liar", access="score", norms={"linf"})
    def liar(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
        """Says that all labels are others, and changes nothing."""
        y += 1
        return x

    @attack("mover", access="score", norms={"linf"})
    def mover(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
        """Moves the images five times as far as it may."""
        return x.add_(5 * threat.radius)

    for name in ("liar", "mover"):
        done = run(tmp_path / name, points(6), {"attack": name})
        assert done.results[0].robust_accuracy == 1


def run(folder: Path, data: Dataset, *specs: dict[str, Any], net: nn.Module | None = None, batch_size: int = 16) -> Evaluation:
    """An evaluation that has run; its results are in `.results`."""
    plan = Plan.model_validate({"name": "test", "attacks": specs}).resolved(LINF)
    made = Evaluation(
        net=net or Threshold(), data=data, threat=LINF, plan=plan, seed=0, batch_size=batch_size, folder=folder,
        report=Reporter("test", 1, quiet=True),
    )  # fmt: skip
    made.results = carry_out(made)[0]  # type: ignore[attr-defined]
    return made


def results(made: Evaluation) -> list[AttackResult]:
    return made.results  # type: ignore[attr-defined, no-any-return]


def test_the_worst_case_is_per_sample(tmp_path: Path, calls: list[list[int]]) -> None:
    """T41: multiples of 2 or of 3 fall; the mean of the minimum is 1/3, the minimum of the means would be 1/2."""
    made = run(
        tmp_path,
        points(60),
        {"attack": "every", "parameters": {"k": 2}, "on": "all"},
        {"attack": "every", "name": "thirds", "parameters": {"k": 3}, "on": "all"},
    )
    halves, thirds = results(made)
    assert (halves.robust_accuracy, thirds.robust_accuracy) == (0.5, pytest.approx(40 / 60))
    assert (~made.broken).float().mean().item() == pytest.approx(20 / 60)
    assert made.broken.tolist() == [i % 2 == 0 or i % 3 == 0 for i in range(60)]


def test_broken_samples_cost_nothing_more(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path, points(60), {"attack": "every"}, {"attack": "every", "name": "thirds", "parameters": {"k": 3}})
    first = [i for batch in calls[:4] for i in batch]
    second = [i for batch in calls[4:] for i in batch]
    assert first == list(range(60))
    assert second == list(range(1, 60, 2))
    halves, thirds = results(made)
    assert (halves.attempted, halves.broken, thirds.attempted, thirds.broken) == (60, 30, 30, 10)
    assert thirds.robust_accuracy == pytest.approx(20 / 60)


def test_a_clean_error_is_broken_and_never_attacked(tmp_path: Path, calls: list[list[int]]) -> None:
    data = points(20)
    data.y[:5] = 1
    made = run(tmp_path, data, {"attack": "every", "parameters": {"k": 1000}, "on": "all"})
    assert int(made.clean.sum()) == 15
    assert sorted(i for batch in calls for i in batch) == list(range(5, 20))
    assert results(made)[0].robust_accuracy == 15 / 20


def test_a_candidate_outside_the_ball_does_not_count(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path, points(10), {"attack": "every", "parameters": {"k": 1, "by": 0.11}})
    assert not made.broken.any()
    assert results(made)[0].notes == ("10 candidates lay outside the ball or the box and were not counted",)


def test_an_answer_that_is_not_finite_is_not_correct(tmp_path: Path, calls: list[list[int]]) -> None:
    class Fragile(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (x[:, :1, 0, 0] < 0.5)

    made = run(tmp_path, points(10), {"attack": "every"}, net=Fragile())
    assert made.broken.tolist() == [i % 2 == 0 for i in range(10)]


def test_restarts_are_independent_and_their_curve_is_kept(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path, points(2000), {"attack": "lucky", "restarts": 12}, batch_size=500)
    curve = {point.restarts: point.robust_accuracy for point in results(made)[0].restarts}
    assert list(curve) == [1, 2, 5, 10, 12]
    for restarts, accuracy in curve.items():
        assert accuracy == pytest.approx(0.7**restarts, abs=0.035)
    assert results(made)[0].forwards == pytest.approx(sum(0.7**r for r in range(12)), rel=0.05)


def test_the_grid_keeps_its_whole_curve_and_the_best_point_goes_on(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path, points(100), {"attack": "every", "grid": {"k": [5, 2, 4]}, "probe": 40, "on": "all"})
    (result,) = results(made)
    assert result.grid is not None
    assert [(point.parameters["k"], point.robust_accuracy) for point in result.grid.points] == [(5, 0.8), (2, 0.5), (4, 0.75)]
    assert result.grid.best == {"k": 2}
    assert result.parameters["k"] == 2
    # Multiples of 5 in the probe fell to another point of the grid: they count, per sample.
    assert made.broken.tolist() == [i % 2 == 0 or (i < 40 and i % 5 == 0) for i in range(100)]


def test_the_restart_curve_begins_before_the_grid(tmp_path: Path, calls: list[list[int]]) -> None:
    """Each point is so many runs on the same samples, whatever the grid broke; that counts in the attack's own accuracy."""
    spec = {"attack": "lucky", "restarts": 5, "on": "all"}
    alone = run(tmp_path / "a", points(400), {**spec, "parameters": {"p": 0.3}})
    searched = run(tmp_path / "b", points(400), {**spec, "grid": {"p": [0.3, 0.1]}, "probe": 300})
    assert results(searched)[0].parameters["p"] == 0.3
    assert results(searched)[0].restarts == results(alone)[0].restarts
    units = searched.units
    restarts = [unit for unit in units if unit.run.startswith("restart")]
    assert restarts[0].index.tolist() == list(range(400))
    fell = torch.zeros(400, dtype=torch.bool)
    for unit in units:
        fell[unit.index[unit.fooled]] = True
    assert results(searched)[0].robust_accuracy == (400 - int(fell.sum())) / 400
    assert results(searched)[0].robust_accuracy < results(searched)[0].restarts[-1].robust_accuracy


def test_a_tie_in_the_grid_goes_to_the_point_that_came_closer(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path, points(10), {"attack": "every", "grid": {"by": [0.01, 0.04, 0.03]}, "parameters": {"k": 1}})
    assert results(made)[0].parameters["by"] == 0.04


def test_an_attack_may_be_limited_to_the_first_samples(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path, points(50), {"attack": "every", "samples": 20, "on": "all"})
    assert results(made)[0].n == 20
    assert results(made)[0].robust_accuracy == 0.5
    assert int(made.broken.sum()) == 10


def test_out_of_memory_halves_the_batch_and_changes_nothing(tmp_path: Path, calls: list[list[int]]) -> None:
    made = run(tmp_path / "a", points(50), {"attack": "hungry"}, batch_size=64)
    same = run(tmp_path / "b", points(50), {"attack": "hungry"}, batch_size=5)
    assert max(map(len, calls)) <= 10
    assert torch.equal(made.broken, same.broken)
    assert made.broken.tolist() == [i % 3 == 0 for i in range(50)]


def test_clean_images_too_are_answered_in_smaller_batches(tmp_path: Path, calls: list[list[int]]) -> None:
    class Hungry(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 20:
                raise torch.OutOfMemoryError("no room")
            return super().forward(x)

    made = run(tmp_path / "a", points(50), {"attack": "every"}, net=Hungry(), batch_size=64)
    same = run(tmp_path / "b", points(50), {"attack": "every"}, batch_size=64)
    assert made.batch_size == 16
    assert torch.equal(made.clean, same.clean)
    assert torch.equal(made.margin, same.margin)
    assert torch.equal(made.broken, same.broken)


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_an_interrupted_evaluation_goes_on_and_ends_the_same(tmp_path: Path, calls: list[list[int]], after: int) -> None:
    specs = ({"attack": "lucky", "restarts": 4, "on": "all"}, {"attack": "every", "restarts": 2}, {"attack": "lucky"})
    whole = run(tmp_path / "whole", points(100), *specs, batch_size=100)
    calls.clear()

    class Interrupted(Threshold):
        forwards = 0

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                Interrupted.forwards += 1
                # The clean pass is one forward; each unit is one by the attack and one by the judge.
                if Interrupted.forwards > 1 + 2 * after + 1:
                    raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", points(100), *specs, net=Interrupted(), batch_size=100)
    started = len(calls)
    again = run(tmp_path / "cut", points(100), *specs, batch_size=100)
    assert started == after + 1
    assert len(calls) - started == 7 - after
    assert torch.equal(again.broken, whole.broken)
    assert torch.equal(again.closest, whole.closest)
    assert [r.model_dump(exclude={"seconds"}) for r in results(again)] == [
        r.model_dump(exclude={"seconds"}) for r in results(whole)
    ]


def test_a_unit_of_other_samples_is_not_reused(tmp_path: Path, calls: list[list[int]]) -> None:
    run(tmp_path, points(30), {"attack": "every", "on": "all"})
    data = points(30)
    data.y[:4] = 1
    made = run(tmp_path, data, {"attack": "every", "on": "all"})
    assert made.broken.tolist() == [i < 4 or i % 2 == 0 for i in range(30)]
