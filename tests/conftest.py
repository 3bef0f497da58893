"""What several test files share: models that the product itself trained on real digits."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

# Two workers share two cores; and what a subprocess trains must match what the test trains, threads included.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fast_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short fast_at training on digits."""
    from bench import train

    return train("fast_at", settings={"epochs": "8"}, results=tmp_path_factory.mktemp("fast"), quiet=True)


@pytest.fixture(scope="session")
def periodic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short periodic_budget training on digits, with its snapshot ensemble."""
    from bench import train

    settings = {"epochs": "8", "steps": "3"}
    return train("periodic_budget", settings=settings, results=tmp_path_factory.mktemp("periodic"), quiet=True)


# In CI a red run should mean that the change broke something, so there the examples do not vary; elsewhere they do.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")
