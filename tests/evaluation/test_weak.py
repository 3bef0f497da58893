"""A plan that leaves what 20 steps break is told, with about how much its number is too high."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import evaluate
from bench.plans import Plan

PIXELS = (1, 4, 4)
SHORT = {"attack": "pgd", "parameters": {"steps": 1, "step": 0.01, "start": "clean", "loss": "margin"}}
CROSS_ENTROPY = {"attack": "pgd", "restarts": 3, "parameters": {"steps": 20, "step": 0.25, "loss": "ce"}}


class Pulled(nn.Module):
    """One class lies near along one direction, and eight lie far along the other: the mean of them all is the wrong way.

    Logits times `scale`: at 1e-3 every class counts alike in the gradient of the cross-entropy, at 1000 only the near one.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        along = (x - 0.5).flatten(1).mean(1, keepdim=True)
        far = (-along - 1).expand(-1, 8)
        return self.scale * torch.cat([torch.zeros_like(along), along - 0.05, far], 1)


def told(net: nn.Module, results: Path, *specs: dict[str, Any], n: int = 40, **asked: Any) -> list[str]:
    """What is said of the plan; all of n images but the first have the label 0, which the network knows."""
    x = torch.rand(n, *PIXELS, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.49
    y = torch.zeros(n, dtype=torch.int64).index_fill(0, torch.tensor([0]), 1)
    plan = Plan.model_validate({"name": "mine", "attacks": list(specs)}) if specs else "fast"
    options = {"norm": "linf", "eps": 0.1, "plan_name": plan, "results": results, "quiet": True} | asked
    card, _ = evaluate(net, dataset=(x, y), **options)
    return [warning for warning in card.warnings if "20 steps" in warning]


def test_cross_entropy_that_follows_the_mean_of_all_classes_is_told(tmp_path: Path) -> None:
    assert told(Pulled(1e-3), tmp_path, CROSS_ENTROPY) == [
        "39 of 39 samples that the plan mine left fall to 20 steps of PGD on the margin or on the cross-entropy: "
        "robust accuracy is too high by about 98 points or more; evaluate it with --plan fast"
    ]
    assert told(Pulled(1000.0), tmp_path, CROSS_ENTROPY) == []


def test_steps_that_do_not_cross_the_ball_are_told_and_portfolios_are_not_asked(tmp_path: Path) -> None:
    assert len(told(Pulled(1.0), tmp_path, SHORT)) == 1
    assert told(Pulled(1.0), tmp_path) == []
    assert told(Pulled(1.0), tmp_path / "whole", {"attack": "autoattack"}) == []
    part = told(Pulled(1.0), tmp_path / "part", {"attack": "autoattack", "samples": 5})
    assert part[0].startswith("35 of 35 samples")


@pytest.mark.parametrize(("eps", "n"), [(0.02, 40), (0.1, 1)])
def test_nothing_is_said_where_nothing_more_falls_or_nothing_is_right(eps: float, n: int, tmp_path: Path) -> None:
    assert told(Pulled(1.0), tmp_path, SHORT, eps=eps, n=n) == []


def test_what_is_told_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    small, large = (told(Pulled(1e-3), tmp_path / str(size), CROSS_ENTROPY, n=300, batch_size=size) for size in (16, 256))
    assert small == large
    assert small[0].startswith("128 of 128 samples")
