"""A real evaluation, its records, and the gate on it as docs/gate.yml has it run in CI."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench import evaluate
from bench.files.atomic import sha256
from bench.results.archive import read_tensors
from bench.results.outcomes import read_outcomes

N = 100
WORKFLOW = (Path(__file__).parents[2] / "docs" / "gate.yml").read_text()


@pytest.fixture(scope="module")
def real(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of a real evaluation on digits, with two attacks."""
    home = tmp_path_factory.mktemp("real") / fast_run.name
    shutil.copytree(fast_run, home)
    return evaluate(str(home), plan_name="smoke", n=N, quiet=True)[1]


def test_card_records_and_archive_say_the_same(real: Path) -> None:
    found = read_outcomes(real)
    tensors, _ = read_tensors(real.parent / found.card.archive.file)
    assert 0 < found.robust.mean() < found.clean.mean()
    assert found.ids[found.clean & ~found.robust].tolist() == sorted(tensors["ids"].tolist())
    assert found.robust.mean() == pytest.approx(found.card.robust_accuracy)
    assert (found.robust == found.planned).all()


def steps() -> list[str]:
    """What the workflow runs in a shell, in order."""
    found = re.findall(r"^        run: (?!\|)(.+)$|^        run: \|\n((?: {10}.+\n)+)", WORKFLOW, re.MULTILINE)
    return [re.sub(r"^ +", "", many or one, flags=re.MULTILINE) for one, many in found]


def unbroken(card: Path) -> None:
    """Make an evaluation say that the model stands on every sample."""
    content = json.loads(card.read_text())
    rows = pd.read_parquet(card.parent / "samples.parquet")
    rows["broken"] = False
    rows.to_parquet(card.parent / "samples.parquet", index=False)
    content["records"]["sha256"] = sha256(card.parent / "samples.parquet")
    content["clean_accuracy"] = content["robust_accuracy"] = 1.0
    card.write_text(json.dumps(content))


@pytest.mark.slow
def test_the_workflow_runs(real: Path, tmp_path: Path) -> None:
    """Every step that a shell can run, on a real model: green against itself, red against a baseline that was better."""
    install, evaluation, gate = steps()
    assert install == 'python -m pip install "$PACKAGE"'
    variables = dict(re.findall(r"^  ([A-Z]+): \"?(.*?)\"?$", WORKFLOW, re.MULTILINE))
    shutil.copy(real.parent.parent / "best.safetensors", tmp_path)
    baseline = tmp_path / variables["BASELINE"]
    shutil.copytree(real.parent, baseline)
    command = tmp_path / "bin" / "gauntlet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from bench.cli.commands import main; main()" "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ, **variables, "PATH": f"{command.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "page.md"), "MODEL": "ckpt:best.safetensors?arch=digits_cnn",
        "OPTIONS": f"--dataset digits --norm linf --eps 0.2 --plan smoke --n {N} --seed 0 --quiet",
    }  # fmt: skip

    def shell(step: str) -> tuple[int, str]:
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step]
        done = subprocess.run(bash, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)
        return done.returncode, done.stdout + done.stderr

    assert shell(evaluation)[0] == 0
    code, text = shell(gate)
    assert code == 0, text
    assert "fine: robust accuracy is unchanged" in text
    assert "the same model" in text
    uploaded = WORKFLOW.partition("path: |\n")[2].split()
    assert all((tmp_path / name).exists() for name in uploaded)
    unbroken(baseline / "card.json")
    code, text = shell(gate)
    assert code == 1, text
    assert "regression: robust accuracy fell" in text
    page = (tmp_path / "page.md").read_text()
    assert page.index("## Gauntlet: fine") < page.index("## Gauntlet: regression")
    assert f"Measured on digits test, linf 0.2, plan smoke, n {N}." in page
    told = dict(re.findall(r"^\| (.+) \| (\d+) \|$", page.partition("## Gauntlet: regression")[2], re.MULTILINE))
    lost = int(re.findall(r"lost b = (\d+)", page)[-1])
    assert set(told) <= {"clean", "pgd-20", "square"}
    assert sum(map(int, told.values())) == lost > 0


def test_the_workflow_is_plain_yaml() -> None:
    """No tabs, every indent a multiple of two, every variable that a step uses set in it."""
    assert "\t" not in WORKFLOW
    indents = [len(line) - len(line.lstrip(" ")) for line in WORKFLOW.splitlines()]
    assert all(indent % 2 == 0 for indent in indents)
    used = set(re.findall(r"\$([A-Z]+)", " ".join(steps())))
    assert used == set(re.findall(r"^  ([A-Z]+): ", WORKFLOW, re.MULTILINE))
