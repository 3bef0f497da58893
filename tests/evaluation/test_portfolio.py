"""The portfolio: one outcome whatever the batches or interruptions, no weaker than what it replaces, masks named."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench import Card, evaluate
from bench.core.device import native_bf16
from bench.core.rng import Rng, isolated
from bench.core.threat import ThreatModel
from bench.core.views import Gradient, Meter, Score
from bench.data.datasets import Dataset, load
from bench.errors import BadInput, GauntletError
from bench.evaluation.engine import Evaluation
from bench.evaluation.evaluation import carry_out
from bench.evaluation.low_precision import WORTHWHILE, LowPrecision, to_low_precision
from bench.evaluation.portfolio import CHARGED, MASKED, NEAREST
from bench.evaluation.units import Unit
from bench.files.progress import Reporter
from bench.models import resolve
from bench.plans.built_in import load as load_plan
from bench.plans.plan import Plan
from bench.plugins import registry
from bench.plugins.registry import attack, get_attack
from bench.results.archive import read_tensors
from bench.results.schema import Round
from bench.statistics.proportions import mcnemar

LINF = ThreatModel.parse("linf", "0.2")
SMALL: dict[str, Any] = {
    "attack": "portfolio",
    "opening": [{"attack": "pgd", "name": "first", "parameters": {"steps": 5, "loss": "margin"}}],
    "arms": [
        {"attack": "pgd", "name": "pm", "parameters": {"steps": 20, "loss": "pm", "step": 1.0, "decay": "cosine"}},
        {"attack": "pgd", "name": "on", "parameters": {"steps": 10, "loss": "margin", "step": 0.5, "start": "known"}},
        {"attack": "apgd", "name": "malt", "parameters": {"steps": 20, "targets": 2, "order": "malt"}},
        {"attack": "square", "parameters": {"queries": 60}},
    ],
}
WRAPPED = """
import torch
from torch import nn
from bench.models import resolve

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = resolve({weights!r}, (1, 8, 8), 10).net

    def forward(self, x):
        return {answer}

def net():
    return Wrapped()
"""
MASKED_DIGITS, LABELS = "1e4 * self.net(torch.round(x * 7) / 7)", "5 * torch.eye(10)[self.net(x).argmax(1)]"
OPAQUE = (
    "5 * torch.eye(10)[__import__('concurrent.futures').futures.ThreadPoolExecutor(1)"
    ".submit(lambda: self.net(x).argmax(1)).result()]"
)
PGD = '[[attacks]]\nattack = "pgd"\nrestarts = 5\non = "all"\nparameters = { steps = 50 }\n'
SQUARE = '[[attacks]]\nattack = "square"\non = "all"\nparameters = { queries = 2000 }\n'


def attacked(reference: str, results: Path, plan: str = "fast", **options: Any) -> tuple[Card, Path]:
    return evaluate(reference, dataset="digits", eps="0.2", plan_name=plan, results=results, quiet=True, **options)


def written(folder: Path, text: str) -> str:
    (folder / "plan.toml").write_text(text)
    return str(folder / "plan.toml")


def wrapped(folder: Path, weights: str, answer: str) -> str:
    """The digits network of these weights behind another answer."""
    (folder / "wrapped.py").write_text(WRAPPED.format(weights=weights, answer=answer))
    return f"py:{folder}/wrapped.py:net"


def timeless(card: Card) -> dict[str, Any]:
    content = card.model_dump(exclude={"seconds"})
    for entry in content["attacks"]:
        del entry["seconds"]
    return content


@pytest.fixture(scope="module")
def weights(fast_run: Path) -> str:
    return str(fast_run / "best.safetensors")


@pytest.fixture(scope="module")
def reference(weights: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, Path]:
    return attacked(weights, tmp_path_factory.mktemp("reference"), n=200, batch_size=256)


@pytest.fixture(scope="module")
def other_seed(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Card:
    return attacked(weights, tmp_path_factory.mktemp("seed"), n=200, seed=1)[0]


@pytest.mark.parametrize("batch_size", [16, 37])
def test_the_batch_size_changes_nothing(weights: str, reference: tuple[Card, Path], tmp_path: Path, batch_size: int) -> None:
    """Identical rounds, flags and adversarial examples: the records and the archive have the same bytes."""
    card, _ = attacked(weights, tmp_path, n=200, batch_size=batch_size)
    assert {round.stage for round in card.attacks[0].rounds} >= {"opening", "pilot", "sweep", "closing"}
    assert timeless(card) == timeless(reference[0])


def test_nor_where_nothing_fell_in_the_pilot(weights: str, tmp_path: Path) -> None:
    small, large = (
        evaluate(weights, dataset="digits", eps="0.05", n=60, results=tmp_path / str(size), batch_size=size, quiet=True)[0]
        for size in (16, 256)
    )
    assert "frontier" in {round.stage for round in small.attacks[0].rounds}
    assert timeless(small) == timeless(large)


def test_the_closest_are_attacked_in_another_way_at_the_end(reference: tuple[Card, Path]) -> None:
    """With the arms' own effort, whatever the last sweep had."""
    closing = reference[0].attacks[0].rounds[-2:]
    assert [(round.stage, round.arm, round.effort) for round in closing] == [
        ("closing", "targeted-50", 1), ("closing", "margin-known-100", 1),
    ]  # fmt: skip
    assert all(0 < round.samples <= NEAREST and not round.rough for round in closing)


def test_another_seed_is_another_search(reference: tuple[Card, Path], other_seed: Card) -> None:
    assert other_seed.archive.sha256 != reference[0].archive.sha256
    assert other_seed.attacks[0].rounds != reference[0].attacks[0].rounds


def test_a_sound_model_is_not_called_masked(reference: tuple[Card, Path], other_seed: Card) -> None:
    assert reference[0].attacks[0].masked == other_seed.attacks[0].masked == ""


def test_the_rounds_are_what_the_records_say(reference: tuple[Card, Path]) -> None:
    card, path = reference
    rows = pd.read_parquet(path.parent / card.records.file)
    mine = rows[rows.attack == "fast"]
    (result,) = card.attacks
    assert mine.run.nunique() == sum(round.samples > 0 for round in result.rounds)
    for number, round in enumerate(result.rounds):
        run = mine[mine.run == f"round {number}: {round.arm}"]
        assert (len(run), run.broken.sum()) == (round.samples, round.broken)
        assert (run.forwards + 2 * run.backwards).mean() == pytest.approx(round.cost, abs=0.051)
        # Only survivors are taken on; the pilot's arms share their samples.
        before = mine[mine.run.isin([f"round {k}: {r.arm}" for k, r in enumerate(result.rounds[:number])])]
        if round.stage != "pilot":
            assert not set(before[before.broken].id) & set(run.id)
    assert (mine.forwards.sum(), mine.backwards.sum()) == (
        pytest.approx(result.forwards * result.attempted),
        pytest.approx(result.backwards * result.attempted),
    )
    fell = set(mine[mine.broken].id)
    assert (result.broken, result.attempted) == (len(fell), round_half(card.clean_accuracy * card.n))
    assert card.robust_accuracy == result.robust_accuracy == (result.attempted - len(fell)) / card.n


def round_half(value: float) -> int:
    return int(value + 0.5)


def test_the_archive_proves_every_broken_sample(weights: str, reference: tuple[Card, Path]) -> None:
    card, path = reference
    tensors, _ = read_tensors(path.parent / card.archive.file)
    x, y = load("digits", "test").first(200).batch(tensors["ids"])
    net = resolve(weights, (1, 8, 8), 10).net
    assert LINF.contains(tensors["z"], x).all()
    assert (net(tensors["z"]).argmax(1) != y).all()
    assert len(y) == card.attacks[0].broken


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_the_same(weights: str, reference: tuple[Card, Path], tmp_path: Path) -> None:
    """It goes on with other batches; the interruption falls into the pilot."""
    command = [sys.executable, "-c", "from bench.cli.commands import main; main()", "evaluate", weights, "--dataset", "digits"]
    command += ["--eps", "0.2", "--n", "200", "--batch-size", "37", "--results", str(tmp_path), "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path)
    while process.poll() is None and len(list(tmp_path.rglob("units/*.safetensors"))) < 6:
        time.sleep(0.005)
    process.kill()
    assert process.wait() != 0
    assert not list(tmp_path.rglob("card.json"))
    card, path = attacked(weights, tmp_path, n=200)
    assert timeless(card) == timeless(reference[0])
    assert not (path.parent / "units").exists()


def searched(
    net: nn.Module, data: Dataset, folder: Path, *specs: dict[str, Any], threat: ThreatModel = LINF, **options: Any
) -> Evaluation:
    """An evaluation that has run; its results are in `.results`."""
    plan = Plan.model_validate({"name": "test", "attacks": specs}).resolved(threat)
    made = Evaluation(
        net=net, data=data, threat=threat, plan=plan, seed=0, batch_size=64, folder=folder,
        report=Reporter("test", 1, quiet=True), **options,
    )  # fmt: skip
    made.results = carry_out(made)[0]  # type: ignore[attr-defined]
    return made


def rounds(made: Evaluation) -> tuple[Round, ...]:
    return made.results[0].rounds  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "lost",
    [lambda k, n: k >= n // 2, lambda k, n: k >= 1, lambda k, n: k % 3 == 1, lambda k, n: k == n - 1, lambda k, n: k < 3],
    ids=["later half", "all but the first", "every third", "the last", "the first three"],
)
def test_whatever_units_are_left_the_outcome_is_the_same(
    weights: str, tmp_path: Path, lost: Callable[[int, int], bool]
) -> None:
    net, data = resolve(weights, (1, 8, 8), 10).net, load("digits", "test").first(90)
    whole = searched(net, data, tmp_path, SMALL)
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == sum(round.samples > 0 for round in rounds(whole)) > 8
    times = {path: path.stat().st_mtime_ns for path in files}
    gone = [path for k, path in enumerate(files) if lost(k, len(files))]
    for path in gone:
        path.unlink()
    again = searched(net, data, tmp_path, SMALL)
    assert rounds(again) == rounds(whole)
    for name in ("broken", "margin", "closest"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert [path for path in files if path.stat().st_mtime_ns != times[path]] == gone


@pytest.mark.slow
@pytest.mark.parametrize("rival", ["pgd", "autoattack"])
def test_fast_is_no_weaker_than_what_it_replaces(
    weights: str, reference: tuple[Card, Path], other_seed: Card, tmp_path: Path, rival: str
) -> None:
    """Over two seeds of both: of 200 samples one or two fall to one seed of either and not to the next."""
    plan = written(tmp_path, PGD) if rival == "pgd" else rival
    cards = [attacked(weights, tmp_path, plan, n=200, seed=seed)[0] for seed in (0, 1)]
    ours = (reference[0].robust_accuracy + other_seed.robust_accuracy) / 2
    assert ours <= sum(card.robust_accuracy for card in cards) / 2 < cards[0].clean_accuracy


@pytest.mark.slow
def test_a_masked_gradient_is_named_and_costs_the_attacker_nothing(weights: str, tmp_path: Path) -> None:
    """Images cut to 8 grey levels and logits times 1e4: at least as many fall as to 2000 queries of Square alone."""
    reference = wrapped(tmp_path, weights, MASKED_DIGITS)
    fast, _ = attacked(reference, tmp_path, n=100, seed=1)
    square, _ = attacked(reference, tmp_path, written(tmp_path, SQUARE), n=100, seed=1)
    assert fast.attacks[0].masked.startswith("black-box search broke ")
    # All that stands had more than that.
    assert "closing" not in {round.stage for round in fast.attacks[0].rounds}
    assert fast.robust_accuracy <= square.robust_accuracy < fast.clean_accuracy - 0.2


@pytest.fixture
def labels_alone(weights: str, tmp_path: Path) -> str:
    return wrapped(tmp_path, weights, LABELS)


@pytest.fixture
def opaque(weights: str, tmp_path: Path) -> str:
    """It answers in another thread, where nothing of what it computes is seen."""
    return wrapped(tmp_path, weights, OPAQUE)


@pytest.mark.slow
@pytest.mark.parametrize(("shown", "arms"), [("opaque", {"rays", "hop-skip-jump"}), ("labels_alone", {"inner-1"})])
def test_a_network_that_shows_its_label_alone_falls_all_the_same(
    weights: str, shown: str, arms: set[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """To searches on labels, or, where the network behind them is seen, to attacks on that.

    Scores of 0 and 1 tell Square nothing; it loses what the honest network loses, with no certain difference.
    """
    reference = request.getfixturevalue(shown)
    (hidden, one), (honest, other) = (attacked(reference, tmp_path, n=60) for reference in (reference, weights))
    assert arms & {round.arm for round in hidden.attacks[0].rounds}
    assert not {"rays", "hop-skip-jump"} & {round.arm for round in honest.attacks[0].rounds}
    lost, fell = (
        set(read_tensors(path.parent / card.archive.file)[0]["ids"].tolist()) for card, path in ((hidden, one), (honest, other))
    )
    spared, more = len(fell - lost), len(lost - fell)
    assert spared <= more or mcnemar(spared, more) > 0.01


def test_no_gradient_is_a_masked_one_whatever_else_gives_it_away(labels_alone: str, tmp_path: Path) -> None:
    """Here nothing does: the plan has no search without gradients."""
    net, data = resolve(labels_alone, (1, 8, 8), 10).net, load("digits", "test").first(60)
    made = searched(net, data, tmp_path, SMALL | {"arms": SMALL["arms"][:3]})
    assert made.results[0].masked == "16 of 16 pilot samples have no gradient"  # type: ignore[attr-defined]


class Steps(nn.Module):
    """Two classes of 4x4 images that are cut to 8 grey levels: scores tell, no gradient survives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Rng(1, torch.arange(1)).normal((16,))[0]

    def forward(self, x: Tensor) -> Tensor:
        score = (torch.floor(x * 8) / 8).flatten(1) @ self.weight - 0.5 * self.weight.sum()
        return 1e4 * torch.stack([score, -score], 1)

    def reached(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Which images fall: every pixel counts by itself, and its best value is an end of its interval."""
        toward = self.weight.view(1, 4, 4).sign() * torch.where(y == 0, -1, 1).view(-1, 1, 1, 1)
        return self(x + eps * toward).argmax(1) != y


def stepped(n: int) -> tuple[Steps, Dataset]:
    net, x = Steps(), 0.3 + 0.4 * Rng(2, torch.arange(n)).uniform((1, 4, 4))
    return net, Dataset("points", "test", x, net(x).argmax(1), torch.arange(n), 2, "made here")


@pytest.mark.slow
def test_everything_in_reach_falls_behind_a_masked_gradient(tmp_path: Path) -> None:
    net, data = stepped(120)
    threat = ThreatModel.parse("linf", "0.04")
    made = searched(net, data, tmp_path, load_plan("fast").attacks[0].model_dump(), threat=threat)
    within = net.reached(data.x, data.y, threat.radius)
    assert 20 < within.sum() < 100
    assert made.results[0].masked  # type: ignore[attr-defined]
    assert torch.equal(made.broken, within)


class Guarded(Steps):
    """Two classes of 4x4 images; the nearer the boundary, the surer, so that nothing seems less close than what falls next."""

    def plane(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight - 0.5 * self.weight.sum()
        return torch.stack([score, -score], 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.plane(x)
        return logits.sign() * (20 - logits.abs())

    def reached(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        toward = self.weight.view(1, 4, 4).sign() * torch.where(y == 0, -1, 1).view(-1, 1, 1, 1)
        return self.plane(x + eps * toward).argmax(1) != y


def test_what_falls_inside_is_looked_for_where_nothing_seems_close(tmp_path: Path) -> None:
    """In closed form all that is in reach falls; the pilot, on what the margins call the closest, saw next to nothing of it."""
    net, x, threat = Guarded(), 0.3 + 0.4 * Rng(2, torch.arange(300)).uniform((1, 4, 4)), ThreatModel.parse("linf", "0.003")
    y = net(x).argmax(1)
    data = Dataset("points", "test", x, y, torch.arange(300), 2, "made here")
    made = searched(
        net, data, tmp_path, load_plan("fast").attacks[0].model_dump(), threat=threat, first=(x[:64], y[:64])
    )  # fmt: skip
    seen = {stage: sum(round.broken for round in rounds(made) if round.stage == stage) for stage in ("adaptive", "inside")}
    assert torch.equal(made.broken, net.reached(x, y, threat.radius))
    assert 20 < made.broken.sum() < 60
    assert (seen["adaptive"] < 4, seen["inside"] > 20) == (True, True)
    assert made.results[0].masked.startswith("attacks on a reading of the network broke ")  # type: ignore[attr-defined]
    assert made.results[0].masked.endswith(" samples that no other broke")  # type: ignore[attr-defined]


def spent(rounds: Sequence[Round]) -> list[float]:
    """What had been spent, pilot included, before each round of the sweeps."""
    costs = [(round.stage, round.cost * round.samples) for round in rounds if round.stage != "opening"]
    return [sum(cost for _, cost in costs[:k]) for k, (stage, _) in enumerate(costs) if stage == "sweep"]


@pytest.mark.parametrize("budget", [1, 100, 300])
def test_no_round_is_begun_when_the_budget_is_spent(weights: str, tmp_path: Path, budget: int) -> None:
    net, data = resolve(weights, (1, 8, 8), 10).net, load("digits", "test").first(90)
    made = searched(net, data, tmp_path, SMALL | {"budget": budget})
    whole = [round for round in rounds(made) if round.stage == "opening"]
    survivors = int(made.clean.sum()) - sum(round.broken for round in whole)
    # Costs are told per sample, rounded to a tenth.
    slack = 0.05 * sum(round.samples for round in rounds(made))
    assert all(before < budget * max(survivors, CHARGED) + slack for before in spent(rounds(made)))
    assert bool(spent(rounds(made))) == (budget > 1)


@pytest.mark.parametrize("budget", [10, 50])
def test_a_masked_gradient_has_ten_times_the_budget(tmp_path: Path, budget: int) -> None:
    """Also where the pilot alone took more than the budget of a sound model."""
    net, data = stepped(120)
    spec = load_plan("fast").attacks[0].model_dump() | {"budget": budget}
    made = searched(net, data, tmp_path, spec, threat=ThreatModel.parse("linf", "0.04"))
    survivors = int(made.clean.sum()) - sum(round.broken for round in rounds(made) if round.stage == "opening")
    pilot = sum(round.cost * round.samples for round in rounds(made) if round.stage == "pilot")
    slack = 0.05 * sum(round.samples for round in rounds(made))
    assert survivors < CHARGED
    assert budget * CHARGED < pilot
    most = budget * (CHARGED + (MASKED - 1) * survivors)
    assert all(before < most + slack for before in spent(rounds(made)))
    assert bool(spent(rounds(made))) == (pilot < most)
    assert budget == 10 or spent(rounds(made))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.01"), ("l2", "0.03"), ("l1", "0.06")])
def test_few_classes_and_every_norm(tmp_path: Path, classes: int, norm: str, eps: str) -> None:
    """Closed form: a linear model falls where some class catches up by eps times the dual norm of the difference."""
    with isolated(classes, "linear"):
        linear = nn.Linear(16, classes)
        x = 0.4 + 0.2 * torch.rand(40, 1, 4, 4)
    net = nn.Sequential(nn.Flatten(), linear).requires_grad_(False)
    linear.bias -= net(x).mean(0)
    logits = net(x)
    y, threat = logits.argmax(1), ThreatModel.parse(norm, eps)
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    reach = (linear.weight - linear.weight[y].unsqueeze(1)).norm(dual, dim=2)
    best = (logits - logits.gather(1, y[:, None]) + threat.radius * reach).scatter(1, y[:, None], -torch.inf).amax(1)
    clear = best.abs() > 1e-4
    data = Dataset("points", "test", x, y, torch.arange(40), classes, "made here")
    made = searched(net, data, tmp_path, load_plan("fast").attacks[0].model_dump(), threat=threat)
    assert 4 < (best > 0).sum() < 36
    assert torch.equal(made.broken[clear], (best > 0)[clear])
    assert made.results[0].masked == ""  # type: ignore[attr-defined]
    blind = "square" in {round.arm for round in rounds(made)}
    assert blind == (norm != "l1")


LINEAR = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
"""


@pytest.mark.parametrize(("eps", "shift", "robust"), [("0.4", 0, 0.0), ("0.01", 1, 0.0), ("0", 0, 1.0)])
def test_nothing_left_to_attack(tmp_path: Path, eps: str, shift: int, robust: float) -> None:
    """A model that falls to the opening, a model that is wrong everywhere, and a ball that holds one image."""
    (tmp_path / "linear.py").write_text(LINEAR)
    x = Rng(0, torch.arange(40)).uniform((4, 4, 1)).mul(0.2).add(0.4)
    net = resolve(f"py:{tmp_path}/linear.py:net", (1, 4, 4), 3).net
    y = (net(x.permute(0, 3, 1, 2)).argmax(1) + shift) % 3
    np.savez(tmp_path / "points.npz", x=x.numpy(), y=y.numpy())
    card, _ = evaluate(
        f"py:{tmp_path}/linear.py:net", dataset=f"{tmp_path}/points.npz", eps=eps, results=tmp_path / "r", quiet=True
    )
    (result,) = card.attacks
    assert (card.clean_accuracy, card.robust_accuracy) == (1.0 - shift, robust)
    assert result.attempted == 40 * (1 - shift)
    assert result.masked == ""
    if not robust:
        assert {round.samples for round in result.rounds if round.stage != "opening"} <= {0}
        assert (result.forwards > 0) == (result.attempted > 0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_samples(weights: str, tmp_path: Path, n: int) -> None:
    card, path = attacked(weights, tmp_path, n=n)
    assert card.n == n
    assert card.robust_accuracy <= card.clean_accuracy
    tensors, _ = read_tensors(path.parent / card.archive.file)
    assert len(tensors["ids"]) == round_half((card.clean_accuracy - card.robust_accuracy) * n)


HEAD = '[[attacks]]\nattack = "portfolio"\n{extra}'
OPENING = '[[attacks.opening]]\nattack = "pgd"\n'
ARM = '[[attacks.arms]]\nattack = "pgd"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + OPENING + ARM + ARM, "two arms of a portfolio are called 'pgd'; give each a name of its own"),
        (HEAD + OPENING + OPENING + ARM, "two arms of a portfolio are called 'pgd'; give each a name of its own"),
        (HEAD + OPENING + ARM.replace('"pgd"', '"pdg"'), "unknown attack 'pdg': did you mean 'pgd'"),
        (HEAD + OPENING + ARM + "parametres = { steps = 3 }\n", r"key in plan .*: 'parametres': did you mean 'parameters'"),
        (HEAD + OPENING + "nam = 'x'\n" + ARM, r"key in plan .*: 'nam': did you mean 'name'"),
        (HEAD + OPENING + ARM + "parameters = { setps = 3 }\n", "parameter of attack 'pgd' 'setps': did you mean 'steps'"),
        (HEAD + OPENING + ARM + "parameters = { steps = 0 }\n", "attack 'pgd': steps = 0"),
        (HEAD + OPENING + ARM + "restarts = 3\n", r"key in plan .*: 'restarts'.*known are attack, name, parameters"),
        (HEAD.replace("{extra}", "budgets = 3\n") + OPENING + ARM, r"key in plan .*: 'budgets': did you mean 'budget'"),
        (HEAD.replace("{extra}", "budget = 0\n") + OPENING + ARM, r"attacks\.0\.portfolio\.budget: .*greater than or equal"),
        (HEAD + OPENING, r"attacks\.0\.portfolio\.arms: Field required"),
        (HEAD + ARM, r"attacks\.0\.portfolio\.opening: Field required"),
        (HEAD.replace('"portfolio"', '"pgd"') + ARM, r"key in plan .*: 'arms'.*known are attack, .*restarts"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_plan_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GauntletError, match=message):
        load_plan(written(tmp_path, text.replace("{extra}", ""))).resolved(LINF)


def test_arms_of_another_norm_are_left_out_unless_none_is_left(tmp_path: Path) -> None:
    square = ARM.replace("pgd", "square")
    plan = load_plan(written(tmp_path, HEAD.format(extra="") + OPENING + ARM + square))
    for norm, kept in (("linf", ["pgd", "square"]), ("l1", ["pgd"])):
        (spec,) = plan.resolved(ThreatModel.parse(norm, "0.1")).attacks
        assert [arm.label for arm in spec.arms] == kept  # type: ignore[union-attr]
    with pytest.raises(BadInput, match="'square' works in l2, linf, not in l1"):
        load_plan(written(tmp_path, HEAD.format(extra="") + OPENING + square)).resolved(ThreatModel.parse("l1", "1"))


@pytest.fixture
def crafted() -> Iterator[None]:
    """Attacks whose outcome is written down."""
    registry.attack_names()
    before = dict(registry._attacks)

    @attack("column", access="score", norms={"linf"})
    def column(model: Score, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, *, k: int = 0) -> Tensor:
        """Fools the samples that column k of the table says."""
        return x + 0.09 * TABLE[rng.ids, k].float().view(-1, 1, 1, 1)

    yield
    registry._attacks.clear()
    registry._attacks.update(before)


TABLE = Rng(0, torch.arange(80)).uniform((5,)) < 0.25


@pytest.mark.parametrize("kind", ["attacks", "portfolio", "both"])
def test_the_worst_case_of_a_card_is_per_sample(crafted: None, tmp_path: Path, kind: str) -> None:
    """T41: the mean over samples of the minimum over attacks, not the minimum of the means."""
    (tmp_path / "threshold.py").write_text(
        "import torch\n\nclass Threshold(torch.nn.Module):\n    def forward(self, x):\n        first = x[:, 0, 0, 0]\n"
        "        return torch.stack([0.5 - first, first - 0.5], 1)\n\ndef net():\n    return Threshold()\n"
    )
    np.savez(tmp_path / "points.npz", x=np.full((80, 2, 2, 1), 0.45, np.float32), y=np.arange(80) * 0)
    arm = '[[attacks.{}]]\nattack = "column"\nname = "{}"\nparameters = {{ k = {} }}\n'
    single = '[[attacks]]\nattack = "column"\nname = "{0}"\non = "all"\nparameters = {{ k = {0} }}\n'
    arms = HEAD.format(extra="") + arm.format("opening", "o", 0) + "".join(arm.format("arms", k, k) for k in range(1, 5))
    plan = {"attacks": "", "portfolio": arms, "both": arms}[kind]
    plan += "".join(single.format(k) for k in range(5)) if kind != "portfolio" else ""
    card, path = evaluate(
        f"py:{tmp_path}/threshold.py:net", dataset=f"{tmp_path}/points.npz", eps="0.1", plan_name=written(tmp_path, plan),
        results=tmp_path / "r", quiet=True,
    )  # fmt: skip
    standing = ~TABLE
    assert card.robust_accuracy == pytest.approx(standing.all(1).double().mean().item())
    assert card.robust_accuracy < standing.double().mean(0).min()
    if kind != "portfolio":
        alone = [result.robust_accuracy for result in card.attacks[-5:]]
        assert alone == pytest.approx(standing.double().mean(0).tolist())
    rows = pd.read_parquet(path.parent / card.records.file)
    assert rows.groupby("id").broken.any().tolist() == TABLE.any(1).tolist()


@pytest.mark.parametrize(
    ("fooled", "other"), [(-5.0, -2.0), (float("nan"), -1.0), (0.2, 0.4), (0.2, 0.2), (-0.3, 0.4), (float("-inf"), -1.0)]
)
@pytest.mark.parametrize("first", [True, False], ids=["fooled first", "fooled last"])
def test_what_fooled_is_never_replaced_by_what_did_not(tmp_path: Path, fooled: float, other: float, first: bool) -> None:
    """The arms of a pilot share their samples. A margin need not tell who fooled: a logit that is not a number fools below
    0, and of a randomised network the majority may be right while the mean margin is above 0.
    """
    net, data = stepped(3)
    made = searched(net, data, tmp_path, SMALL | {"budget": 1}, threat=ThreatModel.parse("linf", 0))
    assert not made.broken.any()

    def unit(value: float, success: bool, at: float) -> Unit:
        flags, none = torch.tensor([success]), torch.zeros(1, dtype=torch.int64)
        z = torch.full((1, 1, 4, 4), at)
        return Unit(0, "x", "r", none, flags, torch.tensor([value]), none.float(), none, none, torch.tensor([True]), z)

    units = [unit(fooled, True, 0.25), unit(other, False, 0.75)]
    made.absorb(units if first else units[::-1])
    assert made.broken.tolist() == [True, False, False]
    assert (made.closest[0] == 0.25).all()


def test_a_small_network_is_searched_in_float32(weights: str) -> None:
    net = resolve(weights, (1, 8, 8), 10).net
    x, y = load("digits", "test").batch(torch.arange(64))
    reason = "the network is too small" if native_bf16(x.device) else "the device has no bfloat16"
    rough, told = to_low_precision(net, x, y)
    assert rough is None
    assert told.startswith(f"float32: {reason}")


def test_a_rough_network_is_the_network_to_its_precision(weights: str) -> None:
    """A layer rounds its images, its weights and its sums to 8 bits; the network has four."""
    net = resolve(weights, (1, 8, 8), 10).net
    x, _ = load("digits", "test").batch(torch.arange(200))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rough = LowPrecision(net).eval()
    with torch.no_grad():
        exact, close = net(x), rough(x)
    assert close.dtype == torch.float32
    assert ((close - exact).norm(dim=1) <= 4 * 3 * 2.0**-8 * exact.norm(dim=1)).all()
    assert (close != exact).any()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32


class Wide(nn.Module):
    """Enough work to gain from bfloat16."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        side = int((WORTHWHILE / 2) ** 0.5) + 1
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, side), nn.ReLU(), nn.Linear(side, side), nn.ReLU())
        self.last = nn.Linear(side, 10)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.net(self.before(x)))
        return logits


def _refusing(x: Tensor) -> Tensor:
    assert x.dtype == torch.float32
    return x


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (None, "bfloat16"),
        (_refusing, "float32: the network does not run in bfloat16: AssertionError"),
        (lambda x: x @ torch.eye(8), "float32: the network does not run in bfloat16: RuntimeError"),
        (lambda x: (x + 1024) - 1024, "float32: bfloat16 agrees on"),
        (lambda x: torch.round(x * 7) / 7, "float32: bfloat16 agrees on"),
    ],
)
def test_a_network_that_bfloat16_does_not_suit_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[Tensor], Tensor] | None, reason: str
) -> None:
    # Any processor can compute in bfloat16; the question is only whether that is faster.
    monkeypatch.setattr("bench.evaluation.low_precision.native_bf16", lambda _: True)
    x, y = load("digits", "test").batch(torch.arange(16))
    with isolated(0):
        net = Wide(before) if before else Wide()
    rough, told = to_low_precision(net.eval().requires_grad_(False), x, y)
    assert told.startswith(reason)
    assert (rough is not None) == (reason == "bfloat16")


class Claims(nn.Module):
    """Says that no image is of class 0; all else is the network's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits - 1000 * torch.eye(10)[0]


class Constant(nn.Module):
    """The same answer everywhere, with a gradient of 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(10)[3] + 0 * x.flatten(1).sum(1, keepdim=True)


def _pgd(net: nn.Module, rough: nn.Module | None, x: Tensor, y: Tensor, **parameters: Any) -> tuple[Tensor, Meter]:
    view = Gradient(net, meter := Meter(len(x), x.device))
    view.use_low_precision(rough, y)
    pgd = get_attack("pgd")
    return pgd.run(view, x, y, LINF, Rng(0, torch.arange(len(x))), **pgd.configure(parameters)), meter


def test_the_network_itself_decides_what_a_rough_one_claims(weights: str) -> None:
    """A rough network that calls every iterate a success, with the right gradients, changes the cost and nothing else."""
    net = resolve(weights, (1, 8, 8), 10).net
    data = load("digits", "test")
    zeros = data.y == 0
    x, y = data.batch(zeros.nonzero().squeeze(1))
    exact, cost = _pgd(net, None, x, y, loss="margin", steps=12)
    claimed, dear = _pgd(net, Claims(net), x, y, loss="margin", steps=12)
    assert 0 < (net(exact).argmax(1) != y).sum() < len(y)
    assert torch.equal(claimed, exact)
    assert torch.equal(dear.backwards, cost.backwards)
    # Every iterate with a gradient was shown to the network again.
    assert torch.equal(dear.forwards, cost.forwards + cost.backwards)


@pytest.mark.slow
def test_a_rough_network_that_is_wrong_breaks_nothing_that_stands(weights: str, tmp_path: Path) -> None:
    net, data = resolve(weights, (1, 8, 8), 10).net, load("digits", "test").first(60)
    made = searched(net, data, tmp_path, SMALL, low_precision=Constant())
    of = [round.rough for round in rounds(made) if round.arm != "square"]
    assert of == sorted(of, reverse=True)
    assert not rounds(made)[-1].rough
    # Small steps need exact scores, except where arms are only compared.
    assert all(round.rough == (round.stage == "pilot") for round in rounds(made) if round.arm == "square")
    proven = made.broken & made.clean
    x, y = data.batch(torch.arange(60))
    assert LINF.contains(made.closest[proven], x[proven]).all()
    with torch.no_grad():
        assert (net(made.closest[proven]).argmax(1) != y[proven]).all()
    # The network's own gradients go on where they found nothing.
    assert sum(round.broken for round in rounds(made) if not round.rough) > 0


def test_where_there_is_a_closing_it_alone_is_exact(weights: str, tmp_path: Path) -> None:
    net, data = resolve(weights, (1, 8, 8), 10).net, load("digits", "test").first(60)
    closing = [
        {"attack": "apgd", "name": "towards", "parameters": {"steps": 5, "targets": 2}},
        {"attack": "pgd", "name": "along", "parameters": {"steps": 5, "start": "known", "loss": "margin"}},
    ]
    made = searched(net, data, tmp_path, SMALL | {"closing": closing}, low_precision=net)
    assert [(round.arm, round.rough) for round in rounds(made) if round.stage == "closing"] == [
        ("towards", False),
        ("along", False),
    ]
    assert all(round.rough for round in rounds(made) if round.stage != "closing" and round.arm != "square")


def test_a_score_that_a_rough_network_claims_is_the_networks(weights: str) -> None:
    """Square sees the exact scores of what fools a rough network, and its queries stay as many."""
    net = resolve(weights, (1, 8, 8), 10).net
    x, y = load("digits", "test").first(40).batch(torch.arange(40))
    square, found = get_attack("square"), []
    for rough in (None, Claims(net)):
        view = Score(net, meter := Meter(len(x), x.device, 50))
        view.use_low_precision(rough, y)
        z = square.run(view, x, y, LINF, Rng(0, torch.arange(len(x))), **square.configure({"queries": 50}))
        found.append((z[y == 0], meter.forwards[y == 0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert (y == 0).any()
