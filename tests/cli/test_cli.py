"""The command line as a user meets it: exit codes, sentences instead of tracebacks, nothing half-written."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call

from bench.cli.commands import main

GAUNTLET = [sys.executable, "-c", "from bench.cli.commands import main; main()"]
TOY = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10){tail})\n"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models and data that are wrong in one way each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAUNTLET_CACHE", str(tmp_path / "cache"))
    files = {
        "toy.py": TOY.format(tail=""),
        "probabilities.py": TOY.format(tail=", nn.Softmax(1)"),
        "three.py": TOY.format(tail="").replace("10)", "3)"),
        "nan.py": TOY.format(tail="").replace("return ", "net = ")
        + "    net[1].weight.data.fill_(float('nan'))\n    return net\n",
        "raises.py": "undefined\n",
        "syntax.py": "def (:\n",
        "twice.py": "from bench.defense import Defense, defense\n\n@defense('fast_at')\nclass Mine(Defense):\n    pass\n",
        "page.safetensors": "<!doctype html><html>quota exceeded</html>",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    whole = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    images = np.zeros((20, 8, 8, 1), np.float32)
    np.savez(tmp_path / "outside.npz", x=images + 3, y=np.arange(20) % 10)
    np.savez(tmp_path / "empty.npz", x=images[:0], y=np.arange(0))
    np.savez(tmp_path / "good.npz", x=images, y=np.arange(20) % 10)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train fastat", "unknown defense 'fastat': did you mean 'fast_at'?"),
        ("train fast_at --dataset mnits", "unknown dataset 'mnits': did you mean 'mnist'?"),
        ("train fast_at --dataset missing.npz", "'missing.npz' does not exist"),
        ("train fast_at --eps 8", "did you mean 8/255?"),
        ("train fast_at --eps eight", "eps 'eight' is not a number"),
        ("train fast_at --norm l7", "unknown norm 'l7'"),
        ("train fast_at --norm l2", "no default eps for l2"),
        ("train fast_at --set epochs", "write key=value"),
        ("train fast_at --set epoch=3", "did you mean 'epochs'?"),
        ("train fast_at --epochs 0", "epochs = 0"),
        ("train fast_at --epochs 1 --set epochs=2", "epochs is given twice"),
        ("train fast_at --set model=3", "model = 3 is no architecture"),
        ("train fast_at --seed 99999999999999999999", "Invalid value for '--seed'"),
        ("train fast_at --set batch_size=1", "batch_size = 1"),
        ("train fast_at --name ../up", "becomes a part of a folder's name"),
        ("train fast_at --model resnet19", "did you mean 'resnet18'?"),
        ("train fast_at --model digits_cnn?widht=3", "did you mean 'width'?"),
        ("train fast_at --device tpu", "device 'tpu'"),
        ("train noise_fgsm --norm l2 --eps 1", "noise_fgsm is defined for linf, not l2"),
        ("train fast_at --plugin nowhere.py", "no plug-in file at nowhere.py"),
        ("train fast_at --plugin raises.py", "raises.py:1: NameError"),
        ("train fast_at --plugin syntax.py", "syntax.py:1: SyntaxError"),
        ("train fast_at --plugin twice.py", "two defenses are called 'fast_at': bench.defenses.fast_at owns the name"),
        ("run fast_at --plan smok", "unknown plan 'smok': did you mean 'smoke'?"),
        ("run fast_at --n 100000", "holds 360 samples, not 100000"),
        ("evaluate nowhere", "is neither a folder nor a known kind"),
        ("evaluate py:toy.py:nte", "did you mean 'net'?"),
        ("evaluate py:toy.py:net --plan fast --plan standard", "'--plan': it is given 2 times"),
        ("evaluate py:raises.py:net", "raises.py:1: NameError"),
        (
            "evaluate py:toy.py:net --plan missing.toml",
            "cannot read plan missing.toml: No such file or directory; `gauntlet plan show",
        ),
        ("run fast_at --plan nowhere", "known are autoattack, fast, full, smoke, standard, or a .toml file"),
        ("train nowhere", "trades, zerograd, yours with --plugin FILE"),
        ("board missing.toml", "No such file or directory; `gauntlet new board NAME` writes one"),
        ("accept missing --into rows --by me", "there is nothing at missing; give a card.json"),
        ("accept toy.py --into rows --by me", "give the card.json that an evaluation wrote"),
        ("accept page.safetensors --into rows --by me", "give the card.json that an evaluation wrote"),
        ("evaluate py:toy.py:net --n 0", "holds 360 samples, not 0"),
        ("evaluate py:toy.py:net --eps 8", "did you mean 8/255?"),
        ("evaluate py:probabilities.py:net", "remove the softmax"),
        ("evaluate py:three.py:net", "has 3 outputs and the data set 10 classes"),
        ("evaluate py:nan.py:net", "NaN or infinite logits for 64 of 64 images"),
        ("evaluate py:toy.py:net --dataset outside.npz", "divide by 255"),
        ("evaluate py:toy.py:net --dataset empty.npz", "empty"),
        ("evaluate ckpt:page.safetensors?arch=mnist_fast", "is a web page, not weights"),
        ("evaluate ckpt:cut.pt?arch=mnist_fast", "truncated, corrupt or not a weights file"),
        ("evaluate ckpt:other.pt?arch=mnist_fast", "another architecture"),
        ("evaluate ckpt:other.pt", "arch="),
        ("leaderboard nowhere", "no results folder at nowhere"),
        ("leaderboard . --format pdf", "unknown format 'pdf'"),
        ("list attackes", "did you mean 'attacks'?"),
        ("evaluate", "Missing argument"),
        ("evalute x", "No such command"),
        ("train fast_at --seed many", "Invalid value for '--seed'"),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_2(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    code, out, err = call(capsys, monkeypatch, *command.split(), *(["--quiet"] if command.startswith("run") else []))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (there / "results").exists()


def test_a_pickle_that_would_run_code_is_refused(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (there / "pwned",)  # type: ignore[return-value]

    torch.save({"state_dict": Evil()}, there / "evil.pt")
    code, _, err = call(capsys, monkeypatch, "evaluate", "ckpt:evil.pt?arch=mnist_fast")
    assert code == 2
    assert "evil.pt" in err
    assert not (there / "pwned").exists()


def test_a_data_set_that_cannot_be_had_says_both_ways(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GAUNTLET_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", {"test": ["http://127.0.0.1:9/", "x.mat", "0"]})
    code, _, err = call(capsys, monkeypatch, "evaluate", "py:toy.py:net", "--dataset", "svhn")
    assert code == 2
    assert "$GAUNTLET_DATA/svhn/" in err
    assert "network" in err


def test_evaluate_json_prints_the_card_and_nothing_else(
    there: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "evaluate py:toy.py:net --dataset good.npz --plan smoke --json"
    monkeypatch.setattr(sys, "argv", ["gauntlet", *command.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None)
    out, err = capfd.readouterr()
    card = json.loads(out)
    (path,) = (there / "results").rglob("card.json")
    assert card == json.loads(path.read_text())
    assert card["n"] == 20
    assert err == ""


def test_a_skipped_defense_is_noted_and_no_failure(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, *["run", "noise_fgsm", "--norm", "l2", "--eps", "1"])
    assert code == 0
    assert "skipped: noise_fgsm is defined for linf, not l2" in out
    assert list((there / "results").rglob("noise_fgsm-skipped.json"))


def test_a_plugin_is_used_in_place(there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From a research repository with folders called attacks/ and defenses/ of its own."""
    for name in ("attacks", "defenses"):
        (there / name).mkdir()
        (there / name / "__init__.py").write_text("raise RuntimeError('not yours')\n")
    (there / "mine.py").write_text(
        "import torch.nn.functional as F\nfrom bench.defense import Defense, adversarial_step, defense\n\n\n"
        "@defense('mine')\nclass Mine(Defense):\n    '''Half steps.'''\n\n"
        "    step: float = 0.5\n    passes = '2'\n\n    def loss(self, net, x, y, ctx):\n"
        "        return F.cross_entropy(net(adversarial_step(x, x, y, self.step, ctx)), y)\n"
    )
    command = "run mine --plugin mine.py --set step=0.7 --epochs 1 --plan smoke --n 30 --quiet"
    code, out, err = call(capsys, monkeypatch, *command.split())
    assert (code, err) == (0, "")
    assert "mine" in out
    (path,) = (there / "results").rglob("card.json")
    assert json.loads(path.read_text())["model"]["settings"]["step"] == 0.7


def test_run_is_idempotent_and_lists_seeds(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", "standard", "--epochs", "1", "--plan", "smoke", "--n", "40", "--seeds", "2", "--quiet"]
    first = call(capsys, monkeypatch, *command)
    files = {path: path.stat().st_mtime_ns for path in (there / "results").rglob("*") if path.is_file()}
    code, shown, told = call(capsys, monkeypatch, *command)
    assert re.sub("note: a card was there already.*\n", "", shown) == first[1]
    assert (code, told, "nothing was attacked" in shown) == (0, "", True)
    assert {path: path.stat().st_mtime_ns for path in (there / "results").rglob("*") if path.is_file()} == files
    assert len([path for path in files if path.name == "card.json"]) == 2


def test_list_names_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = call(capsys, monkeypatch, "list")
    assert code == 0
    for name in ("periodic_budget", "Liu et al. 2020", "square", "wide_resnet", "cifar100", "standard"):
        assert name in out


def test_help_answers_at_once_and_imports_no_torch() -> None:
    began = time.perf_counter()
    shown = subprocess.run([*GAUNTLET, "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 2
    assert "leaderboard" in shown.stdout
    code = "import sys; from bench import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["train pgd_at --epochs 400 --set steps=1", "evaluate py:slow.py:net --plan fast --eps 0.01 --n 200"]
)
def test_ctrl_c_keeps_what_was_finished(there: Path, command: str) -> None:
    slow = "class Slow(nn.Linear):\n    def forward(self, x):\n        time.sleep(0.05)\n        return super().forward(x)\n"
    (there / "slow.py").write_text(
        "import time\n" + TOY.format(tail="").replace("nn.Linear", "Slow").replace("\n\ndef", f"\n\n{slow}\ndef")
    )
    process = subprocess.Popen(
        [*GAUNTLET, *command.split()],
        stderr=subprocess.PIPE,
        text=True,
        cwd=there,
        # A shell's background job inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not [*there.rglob("state.pt"), *there.rglob("*-round-*.safetensors")]:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything finished is kept, and the same command goes on from there" in err
    assert "Traceback" not in err
    assert not list(there.rglob("card.json"))
    assert not list(there.rglob("*.part"))
    assert [*there.rglob("state.pt"), *there.rglob("*-round-*.safetensors")]


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_no_half_file(there: Path) -> None:
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(  # noqa: PLW1510
        [*GAUNTLET, *["train", "standard", "--epochs", "1", "--quiet"]],
        capture_output=True,
        text=True,
        preexec_fn=small_disk,
        cwd=there,
    )
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "everything finished before is kept" in done.stderr
    assert "Traceback" not in done.stderr
    # What a training says of itself when it begins is whole.
    assert {path.name for path in there.joinpath("results").rglob("*") if path.is_file()} <= {"job.json"}


def test_a_results_folder_that_is_a_file_is_told(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (there / "results").write_text("in the way")
    code, _, err = call(capsys, monkeypatch, *["train", "standard", "--epochs", "1", "--quiet"])
    assert code == 2
    assert "cannot write" in err
