"""Every extra in an environment of its own, beside the built package: its tests in tests/extras must pass there."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from environment import CHECKOUT, InstallError, build_wheel, create, installed


def main() -> int:
    """Print what each extra brought and how its tests ended; 1 where one did not install or pass."""
    known = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = [extra for extra in known if extra != "dev"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(extras)}; all unless named")
    chosen = parser.parse_args().extras or extras
    if unknown := set(chosen) - set(extras):
        parser.error(f"unknown extra {', '.join(sorted(unknown))}; known are {', '.join(extras)}")
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        for extra in chosen:
            began = time.monotonic()
            told = _check(folder / extra, wheel, extra)
            print(f"extra {extra}: {told or 'passed'}, {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201
            failed += [extra] if told else []
    return int(bool(failed))


def _check(folder: Path, wheel: Path, extra: str) -> str:
    """What went wrong, if anything."""
    try:
        python = create(folder, wheel, extra=extra)
    except InstallError as error:
        return f"did not install: {error}"
    print(f"extra {extra}: {' '.join(installed(python))}", flush=True)  # noqa: T201
    # Outside the checkout, where `bench` is a folder of sources. A file whose tests are all skipped ends with 5.
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", CHECKOUT / "tests" / "extras" / f"test_{extra}.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": ""}, check=False,
    )  # fmt: skip
    return f"its tests ended with {done.returncode}" if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
