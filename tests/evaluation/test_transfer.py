"""Transfer: what other models' examples do to this one, sample by sample, and the matrix of all against all."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import evaluate
from bench.cli.commands import main
from bench.core.judge import Judge
from bench.core.rng import Rng
from bench.core.surrogate import TRANSFER_PGD, Surrogate
from bench.core.threat import Norm, ThreatModel
from bench.core.views import VIEWS, Gradient, Meter
from bench.data.datasets import load
from bench.errors import AttackWarning, BadInput, GauntletError
from bench.evaluation.transfer import Transfer, transfer_matrix
from bench.models import resolve
from bench.plugins import import_file
from bench.plugins.registry import get_attack, load_plugin
from bench.results.archive import read_tensors, write_archive

LINF = ThreatModel.parse("linf", "0.2")
PLAN = '[[attacks]]\nattack = "pgd"\non = "all"\nparameters = { steps = 10, loss = "margin" }\n'


class Attacked(NamedTuple):
    z: Tensor
    fooled: Tensor
    forwards: Tensor


def attacked(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, sources: Any, ids: Tensor | None = None, **extra: Any
) -> Attacked:
    attack = get_attack("transfer")
    meter = Meter(len(x), x.device)
    rng = Rng(0, torch.arange(len(x)) if ids is None else ids)
    settings = attack.configure({"sources": [str(source) for source in sources], **extra})
    z = attack.run(VIEWS[attack.access](net, meter), x, y, threat, rng, **settings)
    assert threat.contains(z, x).all()
    assert not meter.backwards.any()
    return Attacked(z, Judge(net, threat).verdict(z, x, y).fooled, meter.forwards)


def copied(run: Path, home: Path) -> Path:
    """A run folder of its own, because the card of a run goes into it."""
    home.mkdir(parents=True)
    for file in run.iterdir():
        if file.is_file():
            os.link(file, home / file.name)
    return home


@pytest.fixture(scope="module")
def archive(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an evaluation of fast_at."""
    home = tmp_path_factory.mktemp("evaluated")
    (home / "p.toml").write_text(PLAN)
    card, path = evaluate(str(copied(fast_run, home / "run")), plan_name=str(home / "p.toml"), quiet=True)
    assert 0.2 < card.robust_accuracy < 0.8
    return path.parent / card.archive.file


@pytest.fixture(scope="module")
def fast(fast_run: Path) -> tuple[nn.Module, Tensor, Tensor]:
    return _model(fast_run)


@pytest.fixture(scope="module")
def periodic(periodic_run: Path) -> tuple[nn.Module, Tensor, Tensor]:
    return _model(periodic_run)


def _model(run: Path) -> tuple[nn.Module, Tensor, Tensor]:
    data = load("digits", "test")
    return resolve(str(run), data.shape, data.classes).net, *data.batch(torch.arange(len(data)))


# Archives


def test_replaying_an_evaluation_breaks_exactly_what_it_broke(fast: Any, archive: Path) -> None:
    net, x, y = fast
    tensors, _ = read_tensors(archive)
    proven = torch.zeros(len(x), dtype=torch.bool)
    proven[tensors["ids"]] = True
    again = attacked(net, x, y, LINF, [archive])
    assert torch.equal(again.fooled & Judge(net, LINF).correct(x, y)[0], proven)
    assert torch.equal(again.z[tensors["ids"]], tensors["z"])
    assert torch.equal(again.z[~proven], x[~proven])
    assert torch.equal(again.forwards, proven.long())


def test_a_fooled_sample_is_asked_no_more(periodic: Any, archive: Path) -> None:
    net, x, y = periodic
    once, twice = (attacked(net, x, y, LINF, [archive] * times) for times in (1, 2))
    assert torch.equal(twice.z, once.z)
    assert torch.equal(twice.forwards, torch.where(once.fooled, 1, 2) * once.forwards)
    assert set(twice.forwards.tolist()) == {0, 1, 2}


def test_another_model_is_asked_once_about_every_example(periodic: Any, archive: Path) -> None:
    net, x, y = periodic
    tensors, _ = read_tensors(archive)
    ids, z = tensors["ids"], tensors["z"]
    found = attacked(net, x, y, LINF, [archive.parent])
    falls = Judge(net, LINF).verdict(z, x[ids], y[ids]).fooled
    assert 0 < falls.sum() < len(falls)
    assert torch.equal(found.fooled[ids], falls)
    assert torch.equal(found.z[ids[falls]], z[falls])
    assert (found.forwards[ids] == 1).all()
    assert found.forwards.sum() == len(ids)
    # Where the ball is smaller, it is the projection that is asked about.
    small = LINF.scaled(0.75)
    falls = Judge(net, small).verdict(small.project(z, x[ids]), x[ids], y[ids]).fooled
    assert falls.any()
    assert torch.equal(attacked(net, x, y, small, [archive]).fooled[ids], falls)


def test_samples_are_matched_by_their_ids(fast: Any, archive: Path) -> None:
    net, x, y = fast
    whole = attacked(net, x, y, LINF, [archive])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(attacked(net, x[order], y[order], LINF, [archive], order).z, whole.z[order])
    for shift in (-1000, 1000):
        strangers = attacked(net, x, y, LINF, [archive], torch.arange(len(x)) + shift)
        assert torch.equal(strangers.z, x)
        assert not strangers.forwards.any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_lies_in_the_ball_keeps_its_bits(tmp_path: Path, norm: Norm) -> None:
    """Examples on the sphere, where rounding decides; a network that answers 0 whatever it sees is fooled by all of them."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).requires_grad_(False)
    net[1].weight.zero_()
    net[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x = 0.3 + 0.4 * Rng(0, torch.arange(50)).uniform((1, 8, 8))
    y = torch.ones(50, dtype=torch.int64)
    threat = ThreatModel.parse(norm, {"linf": "0.1", "l2": "0.5", "l1": "3"}[norm])
    z = threat.random_start(x, Rng(1, torch.arange(50)), corner=True)
    assert threat.contains(z, x).all()
    assert norm == "linf" or not torch.equal(threat.project(z, x), z)
    path = tmp_path / "archive.safetensors"
    write_archive(path, torch.arange(50), z, {})
    assert torch.equal(attacked(net, x, y, threat, [path]).z, z)
    # But a ball of no radius holds the clean image only, whatever the judge's tolerance lets through.
    write_archive(path, torch.arange(50), x + 5e-7, {})
    assert torch.equal(attacked(net, x, y, ThreatModel.parse(norm, 0), [path]).z, x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_sample_does_not_see_its_batch(periodic: Any, fast_run: Path, archive: Path, norm: Norm) -> None:
    net, x, y = periodic
    threat = ThreatModel.parse(norm, {"linf": "0.15", "l2": "0.7", "l1": "3"}[norm])
    sources = [archive, fast_run]
    whole = attacked(net, x[:90], y[:90], threat, sources)
    assert 0 < whole.fooled.sum() < 90
    for chosen in ([17, 3, 8, 80, 20], [5], list(range(89, -1, -1))):
        rows = torch.tensor(chosen)
        part = attacked(net, x[rows], y[rows], threat, sources, rows)
        assert torch.equal(part.z, whole.z[rows])
        assert torch.equal(part.forwards, whole.forwards[rows])
    assert torch.equal(attacked(net, x, y, ThreatModel.parse(norm, 0), sources).z, x)
    assert len(attacked(net, x[:0], y[:0], threat, sources).z) == 0


def test_what_cannot_help_is_told(fast: Any, archive: Path, tmp_path: Path) -> None:
    net, x, y = fast
    for name, shape in (("wide", (1, 8, 9)), ("colour", (3, 8, 8))):
        (tmp_path / name).mkdir()
        write_archive(tmp_path / name / "archive.safetensors", torch.arange(4), torch.zeros(4, *shape), {})
    with pytest.warns(AttackWarning, match="not 1x8x8") as told:
        assert torch.equal(attacked(net, x, y, LINF, [tmp_path]).z, x)
    assert len(told) == 1
    for part in ("wide/archive.safetensors (1x8x9)", "colour/archive.safetensors (3x8x8)"):
        assert part in str(told[0].message)
    (tmp_path / "none").mkdir()
    with pytest.warns(AttackWarning, match="no archive.safetensors below"):
        assert torch.equal(attacked(net, x, y, LINF, [tmp_path / "none"]).z, x)
    with pytest.warns(AttackWarning, match='sources = \\["results"\\]'):
        assert torch.equal(attacked(net, x, y, LINF, []).z, x)
    # An archive of a model that nothing broke holds nothing, which is no fault.
    write_archive(tmp_path / "none" / "archive.safetensors", torch.arange(0), torch.zeros(0, 1, 8, 8), {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = attacked(net, x, y, LINF, [tmp_path / "none", archive])
    assert torch.equal(found.z, attacked(net, x, y, LINF, [archive]).z)


def _tensors(**changes: Tensor) -> dict[str, Tensor]:
    return {"ids": torch.arange(4), "z": torch.full((4, 1, 8, 8), 0.5)} | changes


HOSTILE = {
    "NaN": (_tensors(z=torch.full((4, 1, 8, 8), torch.nan)), "not finite or leave"),
    "infinite": (_tensors(z=torch.full((4, 1, 8, 8), torch.inf)), "not finite or leave"),
    "outside": (_tensors(z=torch.full((4, 1, 8, 8), 255.0)), "not finite or leave"),
    "one short": (_tensors(ids=torch.arange(3)), r"ids int64 \[3\] and z float32 \[4, 1, 8, 8\]"),
    "flat": (_tensors(z=torch.zeros(4, 64)), r"z float32 \[4, 64\]"),
    "bytes": (_tensors(z=torch.zeros(4, 1, 8, 8, dtype=torch.uint8)), "z uint8"),
    "ids as floats": (_tensors(ids=torch.arange(4.0)), "ids float32"),
    "ids in rows": (_tensors(ids=torch.zeros(4, 1, dtype=torch.int64)), r"ids int64 \[4, 1\]"),
    "a number": (_tensors(ids=torch.tensor(1), z=torch.tensor(1.0)), r"ids int64 \[\]"),
    "weights": ({"0.weight": torch.zeros(3)}, "name it ckpt:"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused(fast: Any, tmp_path: Path, kind: str) -> None:
    net, x, y = fast
    tensors, message = HOSTILE[kind]
    path = tmp_path / "archive.safetensors"
    save_file(tensors, path, {"about": "{}"})
    for source in (path, tmp_path):
        with pytest.raises(BadInput, match=message) as error:
            attacked(net, x, y, LINF, [source])
        assert str(path) in str(error.value)


def test_a_file_that_is_no_archive_is_refused(fast: Any, archive: Path, tmp_path: Path) -> None:
    net, x, y = fast
    path = tmp_path / "archive.safetensors"
    whole = archive.read_bytes()
    for content in (b"", b"<html>quota exceeded</html>", whole[: len(whole) // 2], b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="is not a whole safetensors file"):
            attacked(net, x, y, LINF, [path])
    save_file(_tensors(), path)
    with pytest.raises(BadInput, match="no header of ours"):
        attacked(net, x, y, LINF, [path])
    for source in ("reslts", "gone/archive.safetensors"):
        with pytest.raises(BadInput, match=f"there is no '{source}'"):
            attacked(net, x, y, LINF, [source])


# Surrogates

LINEAR = """
import torch
from torch import nn

def net(bias=0.0, scale=1.0):
    linear = nn.Linear(64, 2)
    linear.weight.data = scale * torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
    linear.bias.data = torch.tensor([0.0, bias]) - 0.5 * linear.weight.data.sum(1)
    return nn.Sequential(nn.Flatten(), linear)

def shifted():
    return net(bias=1.5, scale=7.0)

def probabilities():
    return nn.Sequential(net(), nn.Softmax(1))

def fails():
    return nn.Linear(3, 2)
"""


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    path = tmp_path / "linear.py"
    path.write_text(LINEAR)
    return path


@pytest.mark.parametrize("factory", ["net", "shifted"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_surrogate_tells_who_falls(linear: Path, factory: str, norm: Norm) -> None:
    """Closed form: |margin| < eps * dual norm. `shifted` falls elsewhere, but its gradient points the same way: it takes
    an attack that does not stop where the surrogate falls."""
    net = resolve(f"py:{linear}:net", (1, 8, 8), 2).net
    x = 0.4 + 0.2 * Rng(1, torch.arange(120)).uniform((1, 8, 8))
    logits = net(x)
    y, lead = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs()
    dual = (net[1].weight[0] - net[1].weight[1]).norm(p=1 if norm == "linf" else 2)
    threat = ThreatModel.parse(norm, {"linf": "0.008", "l2": "0.05"}[norm])
    reach = threat.radius * dual
    clear = (lead - reach).abs() > 1e-3 * reach
    falls = lead < reach
    assert 20 < falls.sum() < 100
    found = attacked(net, x, y, threat, [f"py:{linear}:{factory}"], classes=2)
    assert torch.equal(found.fooled[clear], falls[clear])
    assert (found.forwards == 1).all()


def test_an_attack_on_a_surrogate_climbs_on(fast: Any, periodic: Any) -> None:
    """Through the surrogate's view everything falls that falls through the plain one, and higher: more of it transfers."""
    (net, x, y), target = fast, periodic[0]
    right = Judge(net, LINF).correct(x, y)[0]
    pgd = get_attack("pgd")
    runs = [
        pgd.run(kind(net, Meter(len(x), x.device)), x, y, LINF, Rng(0, torch.arange(len(x))), **pgd.configure(TRANSFER_PGD))
        for kind in (Gradient, Surrogate)
    ]
    plain, relentless = (Judge(net, LINF).verdict(z, x, y) for z in runs)
    assert relentless.fooled[plain.fooled].all()
    assert (relentless.margin >= plain.margin)[right & plain.fooled].all()
    there = [Judge(target, LINF).verdict(z, x, y).fooled.sum() for z in runs]
    assert there[1] > there[0]


def test_a_surrogate_of_itself_is_white_box(fast: Any, fast_run: Path) -> None:
    net, x, y = fast
    view = Surrogate(net, Meter(len(x), x.device))
    pgd = get_attack("pgd")
    rng = Rng(0, torch.arange(len(x))).at("surrogate", str(fast_run))
    z = pgd.run(view, x, y, LINF, rng, **pgd.configure(TRANSFER_PGD))
    falls = Judge(net, LINF).verdict(z, x, y).fooled
    found = attacked(net, x, y, LINF, [fast_run])
    assert torch.equal(found.fooled, falls)
    assert torch.equal(found.z[falls], z[falls])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("py:{linear}:probabilities", "returns probabilities"),
        ("py:{linear}:fails", "fails on images of shape"),
        ("py:{linear}:gone", "unknown factory"),
        ("py:{folder}/gone.py:net", "no Python file at"),
        ("run:{folder}", "has no train.json"),
        ("ckpt:{folder}/gone.pt?arch=digits_cnn", "no weights file at"),
    ],
)
def test_a_surrogate_that_is_none_is_told(linear: Path, tmp_path: Path, source: str, message: str) -> None:
    net = resolve(f"py:{linear}:net", (1, 8, 8), 2).net
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(GauntletError, match=message):
        attacked(net, x, net(x).argmax(1), LINF, [source.format(linear=linear, folder=tmp_path)], classes=2)


def test_a_surrogate_knows_the_labels_or_is_refused(fast: Any, linear: Path) -> None:
    net, x, y = fast
    import_file(linear)
    with pytest.raises(BadInput, match="has 2 outputs and the data set 10 classes"):
        attacked(net, x, y, LINF, [f"py:{linear}:net"], classes=2)


def test_transfer_in_an_evaluation(periodic_run: Path, fast_run: Path, archive: Path, tmp_path: Path) -> None:
    """The card says what the attack did alone; the batch size changes nothing."""
    sources = json.dumps([str(archive.parent), str(fast_run)])
    (tmp_path / "p.toml").write_text(f'[[attacks]]\nattack = "transfer"\non = "all"\nparameters = {{ sources = {sources} }}\n')
    pairs = [
        evaluate(
            str(copied(periodic_run, tmp_path / f"{size}" / "run")), plan_name=f"{tmp_path}/p.toml", batch_size=size, quiet=True
        )
        for size in (500, 37)
    ]
    (card, path), (other, _) = pairs
    assert (card.records.sha256, card.archive.sha256) == (other.records.sha256, other.archive.sha256)
    net, x, y = _model(periodic_run)
    # A restart has noise of its own; the archive's part is the same.
    replayed = attacked(net, x, y, LINF, [archive]).fooled
    rows = pd.read_parquet(path.parent / card.records.file)
    broken = torch.tensor(rows.groupby("id").broken.any().tolist())
    assert broken[replayed].all()
    assert card.robust_accuracy < 1 - float(replayed.double().mean())
    assert card.notes == ()
    assert card.attacks[0].backwards == 0


# All against all

MASKED = """
import torch
from torch import nn
from bench.models import resolve

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = resolve({run!r}, (1, 8, 8), 10).net

    def forward(self, x):
        return 1e4 * self.inner(torch.floor(x * 16 + 0.5) / 16)

def masked():
    return Masked()
"""


@pytest.fixture(scope="module")
def masked(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of an image cut to 17 grey levels there is no gradient; the network behind it is fast_at."""
    path = tmp_path_factory.mktemp("masked") / "mine.py"
    path.write_text(MASKED.format(run=str(fast_run)))
    return f"py:{path}:masked"


@pytest.fixture(scope="module")
def found(fast_run: Path, periodic_run: Path, masked: str) -> Transfer:
    return transfer_matrix([str(fast_run), str(periodic_run), masked], n=200, quiet=True)


@pytest.mark.slow
def test_every_model_falls_most_to_its_own_gradient(found: Transfer) -> None:
    honest = found.matrix.iloc[:2, :2]
    assert list(honest.columns) == ["fast_at", "periodic_budget"]
    for name in honest:
        assert honest.loc[name, name] <= honest[name].min()
    assert found.matrix.attrs == {"dataset": "digits", "threat": "linf 0.2", "n": 200}


def test_a_cell_is_what_both_restarts_leave(found: Transfer, fast: Any, periodic: Any) -> None:
    net, x, y = fast[0], fast[1][:200], fast[2][:200]
    target, pgd = periodic[0], get_attack("pgd")
    standing = Judge(target, LINF).correct(x, y)[0]
    for restart in range(2):
        rng = Rng(0, torch.arange(len(x))).at("restart", restart)
        z = pgd.run(Surrogate(net, Meter(len(x), x.device)), x, y, LINF, rng, **pgd.configure(TRANSFER_PGD))
        standing &= ~Judge(target, LINF).verdict(z, x, y).fooled
    assert found.matrix.loc["fast_at", "periodic_budget"] == int(standing.sum()) / len(x)


def test_a_masked_gradient_is_flagged(found: Transfer) -> None:
    """White-box PGD gets no further than its random starts; examples of the network behind the mask do."""
    worst = found.flags[0]
    assert (worst.target, worst.source) == ("masked", "fast_at")
    matrix = found.matrix
    assert matrix.loc["fast_at", "masked"] < matrix.loc["masked", "masked"]
    assert worst.by == matrix.loc["masked", "masked"] - matrix.loc["fast_at", "masked"]
    assert {flag.target for flag in found.flags} == {"masked"}
    assert [flag.by for flag in found.flags] == sorted((flag.by for flag in found.flags), reverse=True)


@pytest.mark.slow
def test_the_matrix_does_not_see_its_batches(found: Transfer, fast_run: Path, periodic_run: Path, masked: str) -> None:
    again = transfer_matrix([str(fast_run), str(periodic_run), masked], n=200, batch_size=77, quiet=True)
    pd.testing.assert_frame_equal(again.matrix, found.matrix, check_exact=True)
    assert again.flags == found.flags


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["gauntlet", "transfer", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), *capsys.readouterr()


def test_the_command_prints_what_the_function_finds(
    fast_run: Path, masked: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--n", "80", "--norm", "l2", "--eps", "0.7", "--seed", "3")
    code, out, err = call(capsys, monkeypatch, str(fast_run), masked, *options, "--json")
    content = json.loads(out)
    assert (code, err) == (0, "")
    assert (content["dataset"], content["threat"], content["n"]) == ("digits", "l2 0.7", 80)
    direct = transfer_matrix([str(fast_run), masked], norm="l2", eps="0.7", n=80, seed=3, quiet=True)
    assert content["matrix"] == direct.matrix.to_dict("index")
    assert content["flags"] == [flag._asdict() for flag in direct.flags] != []
    code, out, _ = call(capsys, monkeypatch, str(fast_run), masked, *options, "--quiet")
    assert code == 0
    assert f"masked: {100 * direct.flags[0].by:.1f} points more fall to examples made on fast_at" in out
    assert f"1 fast_at {100 * direct.matrix.iloc[0, 0]:.1f}" in " ".join(out.split())


def test_models_that_share_a_name_are_told_apart(
    fast_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copied(fast_run, tmp_path / "other")
    names = list(transfer_matrix([str(fast_run), str(other)], n=5, quiet=True).matrix.columns)
    assert names == [fast_run.name, "other"]
    code, _, err = call(capsys, monkeypatch, str(fast_run), str(fast_run), "--n", "5")
    assert (code, "is given twice" in err) == (2, True)
    code, _, err = call(capsys, monkeypatch, str(fast_run))
    assert (code, "needs at least two models" in err) == (2, True)


def test_a_plan_runs_no_code_that_the_user_has_not_named(fast: Any, tmp_path: Path) -> None:
    net, x, y = fast
    file, ran = tmp_path / "theirs.py", tmp_path / "ran"
    file.write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{LINEAR}")
    for source in (f"py:{file}:net", f"py:{file}:net?arch=digits_cnn"):
        with pytest.raises(BadInput, match=r"is code, which runs only when you name it: add --plugin|no Python file"):
            attacked(net, x, y, LINF, [source], classes=2)
    assert not ran.exists()
    load_plugin(file)
    assert ran.exists()
    with pytest.raises(BadInput, match="has 2 outputs"):
        attacked(net, x, y, LINF, [f"py:{file}:net"], classes=2)
