"""The training loop: same seed same weights, exact resume after a kill, selection by validation, honest cost."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import evaluate, train
from bench.data.datasets import hold_out, load
from bench.errors import BadInput
from bench.files.progress import Reporter
from bench.models import build
from bench.models.checkpoint import load_weights
from bench.training.averages import EMA
from bench.training.loop import Trainer
from bench.training.network import TrainingNet
from bench.training.request import TrainingRequest, job_folder
from bench.training.validation import validate

SHORT = {"epochs": "3", "steps": "2"}


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return content


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))}


def trainer(tmp_path: Path, defense: str = "pgd_at", **settings: str) -> Trainer:
    job = TrainingRequest(defense=defense, settings=settings).job()
    return Trainer(job, tmp_path, torch.device("cpu"), Reporter("test", 1, quiet=True))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    runs = [
        train("fast_at", seed=seed, settings={"epochs": "2"}, results=tmp_path / str(k), quiet=True)
        for k, seed in enumerate([3, 3, 4])
    ]
    assert digests(runs[0]) == digests(runs[1]) != digests(runs[2])
    histories = [[{**entry, "seconds": 0} for entry in record(run)["history"]] for run in runs]
    assert histories[0] == histories[1] != histories[2]


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(
        "noise_fgsm", model="wide_resnet?depth=10&width=1&dropout=0.3", settings={"epochs": "1"}, results=tmp_path, quiet=True
    )
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["periodic_budget", "noise_fgsm"])
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, defense: str) -> None:
    settings = {"epochs": "16", "ema": "0.9", **({"covariance": "data"} if defense == "noise_fgsm" else {"steps": "2"})}
    whole = train(defense, settings=settings, results=tmp_path / "whole", quiet=True)
    cut = job_folder(TrainingRequest(defense=defense, settings=settings).job(), tmp_path / "cut")
    command = [
        sys.executable,
        "-c",
        "from bench.cli.commands import main; main()",
        "train",
        defense,
        "--results",
        str(tmp_path / "cut"),
    ]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    for kill in range(2):
        # Elsewhere, because in the checkout `python -c` would import the folder bench/ and not the package.
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stderr is not None
        for line in process.stderr:
            if f"epoch {6 * kill + 3}/16" in line:
                break
        time.sleep(0.05)
        process.kill()
        process.wait()
        assert (cut / "state.pt").exists()
        assert not (cut / "train.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "going on after epoch" in done.stderr
    assert Path(done.stdout.strip()) == cut
    assert digests(cut) == digests(whole)
    for key in ("forwards_per_sample", "backwards_per_sample", "best_epoch"):
        assert record(cut)["training"][key] == record(whole)["training"][key]
    assert len(record(cut)["history"]) == 16
    assert not (cut / "state.pt").exists()


def test_a_finished_training_is_left_alone(fast_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.runs.jobs.Trainer", lambda *_: pytest.fail("trained again"))
    assert train("fast_at", settings={"epochs": "8"}, results=fast_run.parents[2], quiet=True) == fast_run


def test_a_record_without_weights_is_trained_again_to_the_same_bytes(tmp_path: Path) -> None:
    """A fresh clone: cards and records are committed, weights are not."""
    folder = train("fast_at", settings={"epochs": "2"}, results=tmp_path, quiet=True)
    before = digests(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert train("fast_at", settings={"epochs": "2"}, results=tmp_path, quiet=True) == folder
    assert digests(folder) == before


@pytest.mark.parametrize(("run", "answering"), [("fast_run", "best"), ("periodic_run", "ensemble")])
def test_a_clone_that_has_the_weights_that_answer_keeps_them(
    run: str, answering: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another processor would make others, and the examples of the row would not prove it any more."""
    whole = request.getfixturevalue(run)
    folder = tmp_path.joinpath(*whole.parts[-3:])
    folder.mkdir(parents=True)
    for name in ("train.json", f"{answering}.safetensors"):
        shutil.copy(whole / name, folder)
    before, made = digests(folder), record(folder)
    monkeypatch.setattr("bench.runs.jobs.Trainer", lambda *_: pytest.fail("trained again"))
    kept = {key: str(made["settings"][key]) for key in ("epochs", "steps") if key in made["settings"]}
    assert train(made["defense"], settings=kept, results=tmp_path, quiet=True) == folder
    assert digests(folder) == before


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    made = trainer(tmp_path, **SHORT)
    (tmp_path / "state.pt").write_bytes(b"<html>not a state</html>")
    with pytest.raises(BadInput, match=r"state\.pt.*delete it"):
        made.run()


def test_best_is_chosen_by_validation_and_both_are_kept(fast_run: Path) -> None:
    history = record(fast_run)["history"]
    best = record(fast_run)["training"]["best_epoch"]
    assert history[best - 1]["pgd"] == max(entry["pgd"] for entry in history)
    assert {"best.safetensors", "last.safetensors"} <= set(digests(fast_run))
    from bench.core.threat import ThreatModel
    from bench.models import resolve

    _, validation = hold_out(load("digits", "train"), 1000)
    again = validate(resolve(f"{fast_run}?weights=best", (1, 8, 8), 10).net, validation, ThreatModel.parse("linf", "0.2"))
    # Training validates in the recipe's precision, this in float32: a sample or two may differ.
    assert again["pgd"] == pytest.approx(history[best - 1]["pgd"], abs=0.03)


def test_validation_images_are_not_trained_on() -> None:
    whole = load("digits", "train")
    train_part, validation = hold_out(whole, 1000)
    assert set(train_part.ids.tolist()).isdisjoint(validation.ids.tolist())
    assert len(validation) == len(whole) // 10


@pytest.mark.parametrize(
    ("defense", "settings", "forwards"),
    [
        ("standard", {}, 1),
        ("fast_at", {}, 2),
        ("pgd_at", {"steps": "4"}, 5),
        ("clean_warmup", {"steps": "4", "warmup": "0.5"}, 1 + 0.5 * 4),
        ("noise_fgsm", {"covariance": "isotropic"}, 2),
        ("noise_fgsm", {"covariance": "gradient"}, 3),
        ("noise_fgsm", {"covariance": "gradient", "placement": "post"}, 2),
        ("noise_fgsm", {"covariance": "gradient", "placement": "both"}, 3),
        ("noise_fgsm", {"covariance": "gradient", "placement": "none", "penalty": "1"}, 3),
        ("noise_fgsm", {"covariance": "gradient", "penalty": "1"}, 4),
        ("noise_fgsm", {"covariance": "isotropic", "penalty": "1"}, 3),
        ("ibp", {"warmup": "0", "ramp": "0"}, 3),
        ("smoothing", {}, 1),
        ("rfi", {"steps": "4"}, 5),
    ],
)
def test_the_cost_on_record_is_what_was_spent(tmp_path: Path, defense: str, settings: dict[str, str], forwards: float) -> None:
    folder = train(defense, settings={"epochs": "2", **settings}, results=tmp_path, quiet=True)
    cost = record(folder)["training"]
    assert cost["forwards_per_sample"] == cost["backwards_per_sample"] == pytest.approx(2 * forwards)


def test_crafting_in_train_mode_moves_the_buffers_and_in_eval_mode_does_not(tmp_path: Path) -> None:
    """T28: num_batches_tracked grows by K + 1 per step in train mode, by 1 in eval mode."""
    steps = 3
    for mode, per_batch in (("train", steps + 1), ("eval", 1)):
        settings = {"epochs": "1", "steps": str(steps), "craft": mode}
        folder = train("pgd_at", model="resnet18?width=4", settings=settings, results=tmp_path / mode, quiet=True)
        counters = [value for key, value in load_weights(folder / "last.safetensors")[0].items() if "num_batches" in key]
        rows = len(hold_out(load("digits", "train"), 1000)[0])
        assert {int(value) for value in counters} == {per_batch * -(-rows // 64)}


def test_ema_in_closed_form() -> None:
    """T29: decays 1/10, 2/11, 3/12 of the first three updates, then the constant one; buffers are copied."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    ema = EMA(net, 0.995)
    expected = net[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            net[0].weight.fill_(step)
            net[1].running_mean.fill_(step)
        ema.update(net)
        decay = min(0.995, step / (9 + step))
        expected = decay * expected + (1 - decay) * step
        torch.testing.assert_close(ema.net[0].weight, expected, atol=1e-6, rtol=0)  # type: ignore[index]
        assert torch.equal(ema.net[1].running_mean, net[1].running_mean)  # type: ignore[index]
    assert ema.net[1].num_batches_tracked == net[1].num_batches_tracked  # type: ignore[index]
    low = EMA(nn.Linear(1, 1, bias=False), 0.5)
    low.updates = 10**6
    target = nn.Linear(1, 1, bias=False)
    before = low.net.weight.detach().clone()  # type: ignore[union-attr]
    low.update(target)
    torch.testing.assert_close(low.net.weight, (before + target.weight) / 2)


def test_the_averaged_weights_are_the_ones_kept(tmp_path: Path) -> None:
    made = trainer(tmp_path, "fast_at", epochs="1", ema="0.999")
    made.run()
    kept, _ = load_weights(tmp_path / "last.safetensors")
    assert made.ema is not None
    averaged = made.ema.net.net.state_dict()  # type: ignore[union-attr]
    online = made.net.net.state_dict()
    assert all(torch.equal(kept[key], averaged[key]) for key in kept)
    assert any(not torch.equal(kept[key], online[key]) for key in kept)


def test_a_diverging_training_stops_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"diverged in epoch \d.*lower lr"):
        train("standard", settings={"optimizer": "sgd", "lr": "1e9", "epochs": "2"}, results=tmp_path, quiet=True)
    assert not list(tmp_path.rglob("train.json"))


@pytest.mark.parametrize(
    ("defense", "more"), [("standard", ""), ("fgsm_at", ", or let the budget rise (eps_schedule=linear:0,2)")]
)
def test_a_training_that_never_begins_to_learn_is_told(
    defense: str, more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(defense, results=tmp_path, epochs=2, lr=1e-9)
    assert (
        f"{defense} was right no more often than a guess after each epoch: lower lr (now 1e-09){more}\n"
        in capsys.readouterr().err
    )
    train(defense, results=tmp_path, epochs=2, seed=1)
    assert "guess" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        ({"precision": "float32"}, r"lower lr \(now 1e\+09\)"),
        ({"precision": "bf16"}, r"lower lr \(now 1e\+09\), or train with precision=float32"),
        ({"precision": "float32", "awp": "0.01"}, r"lower lr \(now 1e\+09\), or lower awp \(now 0.01\)"),
    ],
)
def test_the_remedies_for_divergence_are_those_of_the_recipe(tmp_path: Path, settings: dict[str, str], remedies: str) -> None:
    settings = {"optimizer": "sgd", "lr": "1e9", "epochs": "1", **settings}
    with pytest.raises(BadInput, match=rf"; {remedies}$"):
        train("standard", settings=settings, results=tmp_path, quiet=True)


def test_a_training_that_begins_anew_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the one of its name and seed that is most like it, finished or not."""
    first = train("standard", settings={"epochs": "1"}, results=tmp_path)
    assert "anew" not in capsys.readouterr().err
    train("standard", settings={"epochs": "1"}, seed=1, results=tmp_path)
    train("standard", settings={"epochs": "1"}, name="standard-other", results=tmp_path)
    assert "anew" not in capsys.readouterr().err
    train("standard", settings={"epochs": "1", "lr": "0.001"}, results=tmp_path)
    told = f"trains anew beside {first.name}, which is finished and another training: lr 0.005 there, 0.001 here"
    assert capsys.readouterr().err.splitlines()[0] == told
    (first / "train.json").rename(first / "job.json")
    train("standard", settings={"epochs": "1", "batch_size": "32", "schedule": "constant"}, results=tmp_path)
    told = capsys.readouterr().err.splitlines()[0]
    assert told.startswith(f"trains anew beside {first.name}, which is unfinished and another training: ")
    assert told.endswith("batch_size 64 there, 32 here, schedule cosine there, constant here")


def test_bf16_training_answers_in_float32_and_keeps_float32_weights() -> None:
    net = TrainingNet(build("preact_resnet18?width=4", (3, 16, 16), 10), torch.device("cpu"), "bf16", (3, 16, 16))
    x = torch.rand(4, 3, 16, 16)
    assert net(x).dtype == torch.float32
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert net.layout == torch.channels_last
    exact = TrainingNet(net.net, torch.device("cpu"), "float32", (3, 16, 16))
    net.eval(), exact.eval()
    assert not torch.equal(net(x), exact(x))
    torch.testing.assert_close(net(x), exact(x), atol=0.1, rtol=0.1)


def test_the_gradient_a_defense_sees_is_the_gradient() -> None:
    body = build("digits_cnn?width=4", (1, 8, 8), 10)
    net = TrainingNet(body, torch.device("cpu"), "float32", (1, 8, 8))
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5)

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y)

    given = net.gradient("eval")(x, loss)
    z = x.clone().requires_grad_()
    loss(body(z)).backward()
    torch.testing.assert_close(given, z.grad)
    assert net.training
    assert (net.forwards, net.backwards) == (5, 5)


def test_snapshots_become_an_ensemble(periodic_run: Path) -> None:
    ensemble, metadata = load_weights(periodic_run / "ensemble.safetensors")
    assert metadata["members"] == "3"
    for member in range(3):
        snapshot, _ = load_weights(periodic_run / f"snapshot-{member + 1}.safetensors")
        assert all(torch.equal(ensemble[f"members.{member}.{key}"], value) for key, value in snapshot.items())
    assert digests(periodic_run)["snapshot-3.safetensors"] == digests(periodic_run)["last.safetensors"]


@pytest.mark.parametrize(
    ("epochs", "ends"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (5, [2, 3, 5]), (8, [4, 6, 8]), (30, [15, 22, 30])]
)
def test_snapshots_are_taken_before_the_next_period_begins(epochs: int, ends: list[int]) -> None:
    """The budget of the next period begins near 0 in the very epoch in which the one before it ends."""
    job = TrainingRequest.of(defense="periodic_budget", settings={"epochs": epochs}).job()
    assert job.snapshots() == ends
    if epochs >= 8:
        at = [job.defense.budget(job.threat, (end - 0.01) / epochs).radius for end in ends]
        assert at == pytest.approx([job.threat.radius] * 3)


def test_what_periods_within_an_epoch_change_is_another_training() -> None:
    """Of 30 epochs the second period ends within one; releases took its snapshot at the end of that."""

    def key(**settings: object) -> str:
        return TrainingRequest.of(defense="fast_at", settings=settings).job().key()

    assert key(epochs=8, snapshots=[0.5, 0.75, 1]) == "684c9b36"
    assert key(epochs=30, snapshots=[0.5, 0.75, 1]) != "342ca911"  # as it was
    assert key(epochs=30, snapshots=[0.5, 0.75, 1]) == "cbbb0d8a"


def test_a_short_training_has_a_smaller_ensemble_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("periodic_budget", settings={"epochs": "1", "steps": "1"}, results=tmp_path)
    assert load_weights(folder / "ensemble.safetensors")[1]["members"] == "1"
    assert "the ensemble has 1 member and not 3, because 1 epoch cannot be cut at 0.5, 0.75, 1;" in capsys.readouterr().err


def toy(root: Path, shift: int) -> str:
    """A folder of named sets with a small mnist in it."""
    import numpy as np

    for split, n in (("train", 60), ("test", 20)):
        digits = load("digits", split).select(torch.arange(shift, shift + n))
        x = digits.x.repeat_interleave(3, 2).repeat_interleave(3, 3).permute(0, 2, 3, 1).numpy()
        (root / "mnist").mkdir(parents=True, exist_ok=True)
        np.savez(root / "mnist" / f"{split}.npz", x=x, y=digits.y.numpy())
    return str(root)


def test_a_named_set_that_changed_is_not_the_one_that_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = toy(tmp_path / "first", 0), toy(tmp_path / "second", 30)
    asked: dict[str, Any] = {
        "dataset": "mnist",
        "model": "digits_cnn?width=1",
        "settings": {"epochs": "2"},
        "results": tmp_path,
        "quiet": True,
    }
    monkeypatch.setenv("GAUNTLET_DATA", first)
    folder = train("fast_at", **asked)
    assert train("fast_at", **asked) == folder
    monkeypatch.setenv("GAUNTLET_DATA", second)
    for again in (lambda: train("fast_at", **asked), lambda: evaluate(str(folder), plan_name="smoke", quiet=True)):
        with pytest.raises(
            BadInput, match=r"was trained on other images than mnist has here \(\$GAUNTLET_DATA/mnist/train.npz\)"
        ):
            again()
    # Where only the test images are, nobody can tell, and nothing is fetched to find out.
    (Path(second) / "mnist" / "train.npz").unlink()
    monkeypatch.setenv("GAUNTLET_DATA", str(Path(second)) + "/")
    assert evaluate(str(folder), plan_name="smoke", quiet=True)[0].n == 20


def test_a_training_does_not_go_on_with_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = toy(tmp_path / "first", 0), toy(tmp_path / "second", 30)
    monkeypatch.setenv("GAUNTLET_DATA", first)
    asked = TrainingRequest.of(defense="fgsm_pgi", dataset="mnist", model="digits_cnn?width=1", settings={"epochs": "2"})
    trainer = Trainer(asked.job(), tmp_path, torch.device("cpu"), Reporter("", 2, quiet=True))
    trainer._save_state()
    monkeypatch.setenv("GAUNTLET_DATA", second)
    with pytest.raises(BadInput, match="mnist holds other images than it did; give the data as they were, or delete it"):
        Trainer(asked.job(), tmp_path, torch.device("cpu"), Reporter("", 2, quiet=True)).run()


def test_a_file_that_changed_behind_its_name_is_another_training(tmp_path: Path) -> None:
    import numpy as np

    digits = load("digits", "train").first(100)
    x, y = digits.x.permute(0, 2, 3, 1).numpy(), digits.y.numpy()
    folders = []
    for change in (0, 0, 1):
        np.savez(tmp_path / "mine.npz", x=x + np.uint8(change), y=y)
        options = {"settings": {"epochs": "1"}, "results": tmp_path / "r", "quiet": True}
        folders.append(train("standard", dataset=f"{tmp_path}/mine.npz", **options))  # type: ignore[arg-type]
    assert folders[0] == folders[1] != folders[2]


def test_too_little_data_is_told(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "two.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.arange(3))
    with pytest.raises(BadInput, match="at least"):
        train("standard", dataset=f"{tmp_path}/two.npz", results=tmp_path, quiet=True)
