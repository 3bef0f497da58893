"""What is built is what lies here."""

import tomllib
from pathlib import Path

HOME = Path(__file__).parents[1]


def test_every_package_is_built() -> None:
    """setuptools leaves out what is not named, and the sources, which tests import, do not miss it."""
    named = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    roots = {"bench": "bench", "attacks": "bench.attacks", "defenses": "bench.defenses"}
    found = {
        ".".join((name, *path.parent.relative_to(HOME / root).parts))
        for root, name in roots.items()
        for path in (HOME / root).rglob("__init__.py")
    }
    # Documents are no code, and a part of every report.
    assert found | {"bench.docs"} == set(named)
