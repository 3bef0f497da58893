"""Files from anybody are read or refused in our own words: a few of the inputs that `make fuzz` tries by the thousand."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck

from bench import plans
from bench.core.threat import ThreatModel
from bench.errors import BadInput

from .readers import Reader, attempt, readers

NAMES = (
    "card", "plan", "board", "submission", "training", "history", "records", "archive", "examples", "npz", "weights",
    "checkpoint", "state", "unit", "measurement",
)  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("valid"))


def test_all_readers_are_tried(known: dict[str, Reader]) -> None:
    assert set(known) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_reads_or_refuses(known: dict[str, Reader], tmp_path: Path, name: str) -> None:
    @hypothesis.settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(known[name].contents)
    def property(content: bytes) -> None:
        attempt(known[name], content, tmp_path)

    property()
    assert not list(tmp_path.parent.rglob("code-ran"))


def test_a_grid_without_end_is_refused(tmp_path: Path) -> None:
    grid = ", ".join(f"k{key} = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for key in range(30))
    (tmp_path / "p.toml").write_text(f'[[attacks]]\nattack = "pgd"\ngrid = {{{grid}}}\n')
    with pytest.raises(BadInput, match="its grid has 1000000000000000000000000000000 points"):
        plans.load(str(tmp_path / "p.toml")).resolved(ThreatModel.parse("linf", "0.1"))
