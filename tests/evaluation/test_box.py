"""A network from elsewhere is asked about images alone, by whatever asks it: attacks, looks and diagnosis."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import evaluate
from bench.models import resolve


class Strict(nn.Module):
    """Refuses what is no image, and gives `nothing` to a gradient, so that searches without one are called up."""

    def __init__(self, net: nn.Module, nothing: bool) -> None:
        super().__init__()
        self.net, self.nothing = net, nothing

    def forward(self, x: Tensor) -> Tensor:
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"images lie in [0, 1], and these from {x.min():.9f} to {x.max():.9f}")
        return self.net(torch.round(x * 255) / 255 if self.nothing else x)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("norm", "eps", "nothing"),
    [
        ("linf", "0.2", False), pytest.param("l2", "0.8", False, marks=SLOW), pytest.param("l1", "2", False, marks=SLOW),
        pytest.param("linf", "0.2", True, marks=SLOW), pytest.param("l2", "0.8", True, marks=SLOW),
        pytest.param("l1", "2", True, marks=SLOW),
    ],
)  # fmt: skip
def test_nothing_but_images_is_asked_about(fast_run: Path, tmp_path: Path, norm: str, eps: str, nothing: bool) -> None:
    net = Strict(resolve(str(fast_run), (1, 8, 8), 10).net, nothing)
    asked: dict[str, Any] = {"dataset": "digits", "norm": norm, "eps": eps, "n": 16, "results": tmp_path, "quiet": True}
    card, _ = evaluate(net, plan_name="fast", diagnosed=True, active=True, **asked)
    assert card.robust_accuracy < card.clean_accuracy
    assert card.diagnosis is not None
