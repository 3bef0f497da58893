"""A run folder to measure in, without what other tests evaluated there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def copied(fast_run: Path) -> Callable[[Path], Path]:
    """A copy of the training below a folder: its files, and no evaluation or measure of it."""

    def copy(place: Path) -> Path:
        return Path(shutil.copytree(fast_run, place / fast_run.name, ignore=shutil.ignore_patterns("*-????????", "measures")))

    return copy
