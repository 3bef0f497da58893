"""Units of work on workers: the same bytes with any number of them, and a sentence where a worker could not give them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deeds import in_session
from timeless import digests

from bench import load_plugin
from bench.cli.commands import main
from bench.errors import BadInput, GauntletError
from bench.evaluation import Execution
from bench.evaluation.evaluation import evaluated
from bench.evaluation.request import EvaluationRequest
from bench.evaluation.target import Aim, Run, Work
from bench.evaluation.task import resolve
from bench.evaluation.workers import Piece, carrying
from bench.evaluation.workers import _carry_out as carry_out_piece
from bench.executors import Executor, Failed, InProcess, executor_of
from bench.executors.processes import Loky
from bench.plans import PLANS, Plan
from bench.plans.built_in import show

N = 150
FILE = """
import torch
from torch import nn
from bench.data import load

class Net(nn.Module):
    '''The nearest mean of a class, which is right on nine digits in ten.'''

    def __init__(self):
        super().__init__()
        data = load("digits", "train")
        x, y = data.batch(torch.arange(len(data)))
        means = torch.stack([x[y == k].flatten(1).mean(0) for k in range(10)])
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with torch.no_grad():
            self.net[1].weight.copy_({scale} * means)
            self.net[1].bias.copy_(-{scale} * means.square().sum(1) / 2)

    def forward(self, x):
        return self.net(x){noise}

def net():
    return Net()
"""
PLUGIN = '''
import os
import shutil
import signal
import warnings

from bench.attack import AttackWarning, attack
from bench.errors import BadInput

@attack("halfway", access="gradient", norms={"linf"})
def halfway(model, x, y, threat, rng, *, part: float = 0.5, does: str = ""):
    """A step of a part of the radius."""
    warnings.warn("halfway is only half", AttackWarning)
    if does == "stumbles":
        raise KeyError("stumbled")
    if does == "refuses":
        raise BadInput("not this network")
    return x + part * threat.radius * (2 * rng.uniform(x.shape[1:]) - 1).sign()
'''
PLAN: dict[str, Any] = {
    "name": "own",
    "attacks": [
        {"attack": "pgd", "parameters": {"steps": 3}, "grid": {"step": [0.02, 0.05]}, "restarts": 2, "probe": 40},
        {"attack": "halfway", "on": "all"},
        {"attack": "square", "parameters": {"queries": 20}},
    ],
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Executor]:
    with executor_of(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and a plug-in of a user's."""
    home = tmp_path_factory.mktemp("user")
    (home / "plain.py").write_text(user_file(""))
    (home / "noisy.py").write_text(user_file(" + 0.1 * torch.randn(len(x), 10)"))
    (home / "company.py").write_text(user_file(" - self.net(x).mean(0)"))
    (home / "halfway.py").write_text(PLUGIN)
    load_plugin(home / "halfway.py")
    return home


def user_file(noise: str, scale: int = 1) -> str:
    return FILE.replace("{noise}", noise).replace("{scale}", str(scale))


def asked(model: object, attacks: list[dict[str, Any]] = PLAN["attacks"], **more: Any) -> EvaluationRequest:
    plan = Plan.model_validate({"name": "own", "attacks": attacks})
    return EvaluationRequest.of(**{"model": model, "dataset": "digits", "plan": plan, "n": N, **more})


def answer(request: EvaluationRequest, results: Path, executor: Executor, batch_size: int | None = None) -> list[str]:
    """Digests of what an evaluation leaves: records, archive, card without seconds."""
    path = evaluated(request, Execution(results, "cpu", batch_size, quiet=True, fresh=True, executor=executor)).path
    return digests(path)


@pytest.mark.slow
def test_a_network_and_an_attack_of_a_users_give_the_same_bytes_on_any_number_of_workers(
    folder: Path, tmp_path: Path, pair: Executor
) -> None:
    request = asked(f"py:{folder}/plain.py:net")
    here = answer(request, tmp_path, InProcess())
    for batch_size in (None, 16, 32):
        assert answer(request, tmp_path, pair, batch_size) == here
    with Loky(1) as one, Loky(4) as four:
        assert answer(request, tmp_path, one, 256) == here
        assert answer(request, tmp_path, four) == here


@pytest.mark.slow
def test_a_portfolio_with_a_defense_at_test_time_gives_the_same_bytes(folder: Path, tmp_path: Path, pair: Executor) -> None:
    fast = PLANS["fast"].attacks[0].model_dump()
    short = {"opening": fast["opening"][:1], "arms": fast["arms"][2:5], "escalation": fast["escalation"][:1], "budget": 100}
    request = asked(f"py:{folder}/plain.py:net", [fast | short], test_time="rfi", eps=("0.05", "0.1"))
    assert answer(request, tmp_path, pair) == answer(request, tmp_path, InProcess())


@pytest.mark.parametrize("name", ["noisy", "company"])
def test_a_network_whose_answers_depend_on_the_batch_gets_the_same_batches(
    folder: Path, tmp_path: Path, pair: Executor, name: str
) -> None:
    request = asked(
        f"py:{folder}/{name}.py:net", [{"attack": "pgd", "parameters": {"steps": 3}}], eot=1 if name == "noisy" else None
    )
    assert answer(request, tmp_path, pair, 32) == answer(request, tmp_path, InProcess(), 32)


def test_what_an_attack_raises_comes_home_as_what_it_is(folder: Path, tmp_path: Path, pair: Executor) -> None:
    model, execution = f"py:{folder}/plain.py:net", Execution(tmp_path, "cpu", quiet=True, fresh=True, executor=pair)
    refuses = {"attack": "halfway", "parameters": {"does": "refuses"}}
    left_out = evaluated(asked(model, [{**refuses, "optional": True}]), execution).card.attacks[0]
    assert left_out.notes == ("left out: not this network",)
    with pytest.raises(BadInput, match="not this network"):
        evaluated(asked(model, [refuses]), execution)
    with pytest.raises(GauntletError, match=r"halfway\.py:15: KeyError: 'stumbled'"):
        evaluated(asked(model, [{**refuses, "parameters": {"does": "stumbles"}}]), execution)


@pytest.mark.slow
def test_a_worker_that_finds_another_file_is_refused(tmp_path: Path, pair: Executor) -> None:
    model = tmp_path / "model.py"
    for edited, told in ((user_file("", scale=2), "the model is"), ("net = None", "net")):
        model.write_text(user_file(""))
        task = resolve(asked(f"py:{model}:net"), Execution(device="cpu", quiet=True))
        carry: Any = carrying(Aim.at(task), pair)
        model.write_text(edited)
        run = Run(0, "pgd", "pgd", {}, "restart 0", ("restart", "0"))
        rows = torch.arange(4)
        piece = Piece(carry.question, task.balls[0], Work(run, rows, task.data.x[:4].cpu(), torch.zeros(4)))
        ((_, failed),) = pair.run(carry_out_piece, [piece])
        assert isinstance(failed, Failed)
        assert told in failed.text
        assert "cannot do its part" in failed.text
        # An optional attack must not be left out for that.
        assert isinstance(failed.error, GauntletError)
        assert not isinstance(failed.error, BadInput)


def test_what_only_this_process_holds_is_refused(pair: Executor, folder: Path, tmp_path: Path) -> None:
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    execution = Execution(tmp_path, "cpu", quiet=True, executor=pair)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    for request in (asked(net, n=20), asked(f"py:{folder}/plain.py:net", dataset=(x, y), eps=("0.1",), n=20)):
        with pytest.raises(BadInput, match="only in the memory of this process"):
            evaluated(request, execution)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_change_nothing(folder: Path, tmp_path: Path) -> None:
    attacks = [{"attack": "pgd", "on": "all", "restarts": 24, "parameters": {"steps": 1000}}]
    request = asked(f"py:{folder}/plain.py:net", attacks)
    here = answer(request, tmp_path / "here", InProcess())
    (tmp_path / "own.toml").write_text(show(request.plan))
    # What runs in the background of a shell ignores Ctrl-C, and tests may.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{heard}; from bench.cli.start import main; main()"
    command = [
        *(sys.executable, "-c", start, "evaluate", request.model, "--dataset", "digits", "--device", "cpu", "--n", str(N)),
        *("--plan", str(tmp_path / "own.toml"), "--results", str(tmp_path / "there"), "--workers", "2"),
    ]
    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (None, 0)):
        driver = subprocess.Popen(command, start_new_session=True, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        before = units(tmp_path)
        while driver.poll() is None and units(tmp_path) <= before:
            time.sleep(0.01)
        workers = [pid for pid in in_session(driver.pid) if pid != driver.pid]
        if how is None:
            os.kill(max(workers), signal.SIGKILL)
        else:
            # A terminal's Ctrl-C reaches every process.
            (os.killpg if how == signal.SIGINT else os.kill)(driver.pid, how)
        _, told = driver.communicate(timeout=120)
        assert (driver.returncode, "Traceback" in told) == (code, False), told
        deadline = time.monotonic() + 10
        while in_session(driver.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not in_session(driver.pid)
    assert "units of work used that an earlier run left" in told
    (path,) = (tmp_path / "there").rglob("card.json")
    assert digests(path) == here


def units(home: Path) -> int:
    return len(list(home.rglob("units/*.safetensors")))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "0"], "--workers 0: give at least 1"),
        (["--on", "slurm"], "unknown place to run on 'slurm'"),
        (["--on", "ray"], "pip install 'gauntlet-bench[ray]'"),
    ],
)
@pytest.mark.parametrize("command", [["evaluate", "nowhere"], ["run", "fast_at"]])
def test_a_place_to_run_on_that_is_none_is_a_sentence(
    command: list[str], options: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", ["gauntlet", *command, *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
