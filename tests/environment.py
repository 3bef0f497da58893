"""Environments for what cannot share one: the built package and an extra, with the torch that is already here."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
_SOURCES = ("bench", "attacks", "defenses", "pyproject.toml", "README.md", "LICENSE")


class InstallError(Exception):
    """What went wrong, in pip's words."""


def build_wheel(folder: Path) -> Path:
    """The package as a wheel, built from a copy, because setuptools leaves a build folder behind."""
    copy = folder / "source"
    copy.mkdir(parents=True, exist_ok=True)
    for name in _SOURCES:
        origin = CHECKOUT / name
        if origin.is_dir():
            shutil.copytree(origin, copy / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(origin, copy / name)
    _pip(Path(sys.executable), ["wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), str(copy)], {})
    return next((folder / "dist").glob("*.whl"))


def create(folder: Path, wheel: Path, *, extra: str = "", packages: Sequence[str] = (), constraint: str = "") -> Path:
    """A new environment with the wheel, its extra and further packages; returns its Python.

    constraint: on what pip installs, and on what it builds with.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # torch with its CUDA libraries is gigabytes, the same in every environment. A .pth file puts the packages of this one
    # behind the new one's own: pip finds torch there and leaves it, and whatever it does install is imported first.
    (Path(own) / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {}
    if constraint:
        (folder / "constraint.txt").write_text(constraint + "\n")
        variables["PIP_CONSTRAINT"] = str(folder / "constraint.txt")
    # First the wheel by force: the same version behind would do for pip.
    _pip(python, ["install", "--no-deps", "--force-reinstall", str(wheel)], variables)
    _pip(python, ["install", f"{wheel}[{extra}]" if extra else str(wheel), *packages], variables)
    subprocess.run(
        [python, "-c", "import bench, sys; sys.exit(not bench.__file__.startswith(sys.prefix))"], cwd=folder, check=True
    )
    return python


def installed(python: Path) -> list[str]:
    """What the environment has of its own, as name==version."""
    code = (
        "import sysconfig; from importlib.metadata import distributions as d; "
        "print(*sorted({f'{x.name}=={x.version}' for x in d(path=[sysconfig.get_path(\"purelib\")])}))"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def _pip(python: Path, arguments: Sequence[str], variables: dict[str, str]) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True, text=True, env={**os.environ, **variables}, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        raise InstallError(next((line for line in lines if line.lstrip().startswith("ERROR:")), lines[-1]).strip())
