"""What users import: the names of `bench`, the two contract modules, and the places where things were before."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench import load_plugin
from bench.errors import PluginWarning
from bench.plugins import get_attack, make_defense

CHECKOUT = Path(__file__).parents[1]


def test_every_public_name_is_there_and_explained() -> None:
    told = set(re.findall(r"[A-Za-z_.]+", bench.__doc__ or ""))
    assert set(bench.__all__) <= told
    assert all(getattr(bench, name).__doc__ for name in bench.__all__)
    assert {"bench.attack", "bench.defense"} <= told
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = bench.evalute


def test_importing_the_package_costs_nothing(tmp_path: Path) -> None:
    code = "import sys, bench; print([name for name in ('torch', 'pandas', 'pydantic', 'typer') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


OLD = """
import torch.nn.functional as F
from bench.data import Dataset
from bench.defense import Context, Defense, adversarial_step
from bench.errors import BadInput
from bench.expectation import Expectation
from bench.intervals import Interval
from bench.live import Live
from bench.losses import margin
from bench.models import resolve
from bench.registry import attack, defense
from bench.rng import Rng
from bench.schedules import rising_budget
from bench.step import TrainingNet
from bench.threat import ThreatModel
from bench.views import Gradient


@defense("of_old")
class OfOld(Defense):
    def loss(self, net, x, y, ctx):
        return F.cross_entropy(net(adversarial_step(x, x, y, 1.0, ctx)), y)


@attack("of_old", access="gradient", norms={"linf"})
def of_old(view: Gradient, x, y, threat: ThreatModel, rng: Rng):
    return x
"""


@pytest.mark.slow
def test_a_plugin_of_before_the_rooms_works_and_is_told_the_new_line(tmp_path: Path) -> None:
    """In a process of its own, because a module is imported once."""
    (tmp_path / "old.py").write_text(OLD)
    command = [sys.executable, "-c", "from bench.cli.commands import main; main()", "doctor", "of_old", "--plugin", "old.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    told = [
        line for line in done.stderr.splitlines() if line.startswith("warning: bench.registry is now bench.plugins.registry")
    ]
    assert len(told) == 1
    assert "from bench.defense import Defense, defense" in told[0]
    assert "Traceback" not in done.stderr
    assert "of_old" in done.stdout


def test_a_former_place_hands_on_the_same_things(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OLD.replace("of_old", "of_old_too"))
    for name in [name for name in sys.modules if name in ("bench.registry", "bench.live")]:
        del sys.modules[name]
    with pytest.warns(PluginWarning, match=r"bench.live is now bench.core.iterates"):
        load_plugin(tmp_path / "old.py")
    assert get_attack("of_old_too").norms == {"linf"}
    assert make_defense("of_old_too", {}).name == "of_old_too"


@pytest.mark.slow
def test_a_checkout_finds_the_collections_beside_it(tmp_path: Path) -> None:
    """`from bench import run` works in a clone with its environment, though the folder hides the installed package."""
    code = "import bench; from bench.plugins import get_attack; print(bench.__path__[0], get_attack('pgd').run.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.split() == [str(CHECKOUT / "bench"), "bench.attacks.pgd"]


def test_every_room_says_what_lives_there_and_what_it_may_import() -> None:
    rooms = sorted(path.parent for path in (CHECKOUT / "bench").glob("*/__init__.py"))
    table = (CHECKOUT / "CONTRIBUTING.md").read_text()
    assert rooms
    for room in rooms:
        told = (room / "__init__.py").read_text()
        assert told.startswith('"""'), room
        assert "May import" in told, room
        assert f"`{room.name}/`" in table, room


def test_every_file_that_the_documents_name_is_there() -> None:
    documents = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *CHECKOUT.glob("docs/**/*.md")]
    path = re.compile(r"\b(?:tests|bench|attacks|defenses|docs|results/boards)/[A-Za-z0-9_/.-]+\.(?:py|sh|toml|md|yml|png)\b")
    named = {name for document in documents for name in path.findall(document.read_text())}
    assert len(named) > 30
    assert [name for name in sorted(named) if "NAME" not in name and not (CHECKOUT / name).exists()] == []
