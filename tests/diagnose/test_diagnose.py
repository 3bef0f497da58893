"""Each check of a diagnosis is tripped by a network or an attack made to trip it, and passed by honest ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta
from torch import Tensor, nn

from bench import evaluate
from bench.cli.commands import main
from bench.core.iterates import Live
from bench.core.judge import VOTES, Judge
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.core.views import Gradient
from bench.data.datasets import load
from bench.diagnose import ACTIVE, CHECKS, Probe, agreement, answers, checks, choose, gradients, paths, searches
from bench.diagnose.binarization import binarization
from bench.diagnose.finding import Check, Inapplicable, Measured
from bench.diagnose.planned import gradient_attacks
from bench.diagnose.report import render, to_json
from bench.diagnose.substitute import transferred
from bench.files import Reporter
from bench.models import resolve
from bench.plans.built_in import PLANS
from bench.plugins.registry import _attacks, attack
from bench.results.card import read_card
from bench.results.schema import AttackResult, Finding
from bench.statistics import clopper_pearson

LINF = ThreatModel.parse("linf", "0.2")
DATA = load("digits", "test").first(96)


class Net(nn.Module):
    """An honest network with something done to its images and its logits."""

    def __init__(self, net: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def same(value: Tensor) -> Tensor:
    return value


def quantised(x: Tensor) -> Tensor:
    return (x * 16).round() / 16


class Reversed(torch.autograd.Function):
    """The identity, whose gradient points the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Rippled(nn.Module):
    """Logits under ripples that are too fine to follow and too low to change many labels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(2000 * x).flatten(1).sum(1, keepdim=True)
        logits: Tensor = self.net(x)
        return logits + torch.cat([wave, torch.zeros(len(x), logits.shape[1] - 1)], 1)


class TwoFaced(nn.Module):
    """Rolled labels for whoever takes gradients."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits.roll(1, 1) if x.requires_grad else logits


class Averaged(nn.Module):
    """Images lose the mean of their batch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x - 0.2 * x.mean(0))
        return logits


@pytest.fixture(scope="module")
def net(fast_run: Path) -> nn.Module:
    return resolve(str(fast_run), DATA.shape, 10).net


def probe(net: nn.Module, *, draws: int = 1, **rest: Any) -> Probe:
    broken = torch.zeros(len(DATA), dtype=torch.bool)
    judge = Judge(net, LINF, draws)
    return choose(DATA, judge, broken, pool=load("digits", "train"), **rest)


def indicators(found: Probe) -> dict[str, Finding]:
    """Those of Pintor et al. 2022, in their order."""
    every = (
        gradients.unavailable, answers.unstable, paths.silent, paths.unfinished, paths.seeming, searches.unbounded,
    )  # fmt: skip
    return {check.name: check(found) for check in every}


@pytest.fixture
def attacks() -> Any:
    """Leaves no attack of a test behind."""
    before = dict(_attacks)
    yield
    _attacks.clear()
    _attacks.update(before)


def last_iterate(model: Gradient, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng, *, steps: int = 30) -> Tensor:
    """PGD that ends where it ends: its last step leads back to the image."""
    z = threat.random_start(x, rng)
    for number in range(steps):
        ascent = model.grad(z, lambda logits, y: torch.nn.functional.cross_entropy(logits, y, reduction="none"), y)
        z = threat.project(z + 0.1 * threat.radius * threat.steepest(ascent.grad), x) if number < steps - 1 else x
    return z


def three_steps(model: Gradient, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
    """PGD that stops on its way."""
    live, z = Live(x), x
    for _ in range(3):
        ascent = model.grad(z, lambda logits, y: torch.nn.functional.cross_entropy(logits, y, reduction="none"), y)
        live.keep(z, ascent.loss, torch.zeros_like(y, dtype=torch.bool))
        z = threat.project(z + 0.01 * threat.radius * threat.steepest(ascent.grad), x)
    return live.result


def own(name: str) -> Any:
    """What a card says of an attack that a plan ran."""
    return (AttackResult.model_construct(name=name, attack=name, parameters={}),)


@pytest.mark.parametrize(
    ("broken", "tripped"),
    [
        (lambda net: Net(net, quantised, same), "gradients"),
        (Rippled, "stable under noise"),
        ("last_iterate", "silent success"),
        ("three_steps", "path ends too early"),
        (TwoFaced, "same model for attack and judge"),
        (lambda net: Net(net, Reversed.apply, same), "unbounded attack"),
    ],
    ids=["quantised input", "ripples", "last iterate", "three steps", "surrogate", "reversed gradient"],
)
def test_each_indicator_of_attack_failure_has_a_defense_that_trips_it(
    net: nn.Module, broken: Any, tripped: str, attacks: None
) -> None:
    """T38; a network without gradient or with another face trips those too that follow from it."""
    if isinstance(broken, str):
        attack(broken, access="gradient", norms={"linf"})({"last_iterate": last_iterate, "three_steps": three_steps}[broken])
        found = indicators(probe(net, own=own(broken)))
        assert broken in found[tripped].told
    else:
        found = indicators(probe(broken(net)))
    assert found[tripped].verdict != "ok", found
    follow = {name: {"unbounded attack"} for name in ("gradients", "stable under noise")}
    follow |= {"same model for attack and judge": {"unbounded attack"}}
    others = {name for name, finding in found.items() if finding.verdict != "ok"} - {tripped}
    assert others <= follow.get(tripped, set()), found


def test_an_honest_network_trips_nothing(fast_run: Path, tmp_path: Path) -> None:
    card, path = evaluate(str(fast_run), n=96, diagnosed=True, active=True, results=tmp_path, quiet=True)
    assert card.diagnosis is not None
    assert card.diagnosis.verdict == "ok", card.diagnosis
    assert {finding.check for finding in card.diagnosis.findings} >= {ACTIVE, "plain PGD", "float64"}
    assert read_card(path) == card
    assert render(card, path).splitlines()[-1] == "verdict: ok"
    assert json.loads(to_json(card, path))["verdict"] == "ok"


@pytest.mark.parametrize(
    ("broken", "check", "verdict"),
    [
        (lambda net: Net(net, same, lambda logits: logits * 1e4), gradients.saturated, "broken"),
        (lambda net: Net(net, same, lambda logits: logits * 1e4), searches.overestimate, "broken"),
        (lambda net: Net(net, Reversed.apply, same), gradients.faithful, "broken"),
        (lambda net: Net(net, Reversed.apply, same), searches.blind, "broken"),
        (lambda net: Net(net, Reversed.apply, same), transferred, "suspicious"),
        (Averaged, answers.company, "broken"),
        (TwoFaced, answers.two_faced, "broken"),
        (lambda net: Net(net, same, lambda logits: (logits * 10).sigmoid() * 10), searches.losses_apart, "suspicious"),
        (lambda net: Net(net, same, lambda logits: (logits * 10).sigmoid() * 10), searches.exact, "suspicious"),
    ],
)
def test_what_is_broken_is_told_by_the_check_made_for_it(
    net: nn.Module, broken: Callable[[nn.Module], nn.Module], check: Callable[[Probe], Finding], verdict: str
) -> None:
    assert check(probe(net)).verdict == "ok"
    found = check(probe(broken(net)))
    assert found.verdict == verdict, found


def test_random_answers_are_told(net: nn.Module) -> None:
    noisy = Net(net, lambda x: x + 0.3 * torch.randn_like(x), same)
    found = answers.stochastic(probe(noisy, draws=VOTES))
    assert found.verdict == "suspicious"
    assert found.value is not None
    assert 0 < found.value < 1


def test_an_attack_that_leaves_things_undone_is_told_so(net: nn.Module) -> None:
    """Of an evaluation that broke nothing, further searches break as many as a good one would have."""
    found = probe(net)
    assert searches.converged(found).verdict == "broken"
    assert searches.searched(found).verdict == "broken"
    found.broken = found.best
    assert searches.searched(found).value == 0
    assert searches.converged(found).verdict == "ok"


@pytest.mark.slow
def test_the_binarization_test_tells_weak_attacks_from_strong_ones(net: nn.Module) -> None:
    """T39: honest gradients find what was planted, a reversed gradient does not, and chance does not either."""
    honest = binarization(probe(net))
    assert honest.verdict == "ok"
    assert honest.value is not None
    masked = binarization(probe(Net(net, Reversed.apply, same)))
    assert masked.verdict == "broken"


def of_plan(name: str, **parameters: Any) -> AttackResult:
    return AttackResult.model_construct(name=name, attack=name, parameters=parameters)


@pytest.mark.slow
def test_the_example_is_planted_for_the_attack_of_the_evaluation(net: nn.Module) -> None:
    """A step of a hundredth of eps misses what was planted, which a stronger attack finds on the same network."""
    weak = of_plan("pgd", steps=1, step=0.01)
    told = binarization(probe(net, own=(weak,)))
    assert told.verdict == "broken"
    assert "the evaluation's own gradient attacks miss" in told.told
    strong = [of_plan("pgd", steps=100, decay="cosine", **rest) for rest in ({"loss": "margin"}, {"loss": "ce", "step": 2.0})]
    better = binarization(probe(net, own=(weak, *strong, of_plan("apgd", steps=50))))
    assert better.verdict == "ok"
    assert "no gradient attack" in binarization(probe(net, own=(of_plan("square"),))).told
    assert "cannot be shown a problem of two classes" in binarization(probe(net, own=(of_plan("pgd", loss="dlr"),))).told


@pytest.mark.slow
def test_a_portfolio_is_its_opening_and_the_arms_of_its_rounds(fast_run: Path, net: nn.Module, tmp_path: Path) -> None:
    card, _ = evaluate(str(fast_run), n=40, results=tmp_path, quiet=True)
    (result,), spec = card.attacks, card.plan.attacks[0]
    ran = {round.arm for round in result.rounds if round.stage != "closing"}
    found = gradient_attacks(probe(net, own=card.attacks, plan=card.plan))
    assert [planned.name for planned in found][:2] == ["margin-20", "ce-40"]
    assert {planned.name for planned in found} == {name for name in ran if "square" not in name}
    assert found[0].parameters == spec.opening[0].parameters  # type: ignore[union-attr]
    assert binarization(probe(net, own=card.attacks, plan=card.plan)).verdict == "ok"


def test_a_path_of_one_point_is_the_least_finished(net: nn.Module) -> None:
    """But where the plan goes on, it is not what the number rests on."""
    single, long = of_plan("fgsm"), of_plan("pgd", steps=50, step=0.1)
    found = paths.unfinished(probe(net, own=(single,)))
    assert (found.value, found.verdict) == (1.0, "broken")
    assert "fgsm" in found.told
    two = paths.unfinished(probe(net, own=(of_plan("pgd", steps=2, step=0.1),), batch_size=16))
    assert two.verdict == "broken"
    assert paths.unfinished(probe(net, own=(single, long))).verdict == "ok"


def test_a_ball_of_one_point_has_no_path(net: nn.Module) -> None:
    broken = torch.zeros(len(DATA), dtype=torch.bool)
    point = choose(DATA, Judge(net, ThreatModel.parse("linf", "0"), 1), broken, own=(of_plan("pgd", steps=2, step=0.1),))
    assert paths.unfinished(point).told == "does not apply: the ball is a single point"


@pytest.mark.slow
def test_a_diagnosis_is_added_to_a_card_that_is_there(fast_run: Path, tmp_path: Path) -> None:
    arguments = {"plan_name": "smoke", "n": 40, "seed": 5, "results": tmp_path, "quiet": True}
    card, path = evaluate(str(fast_run), **arguments)
    assert card.diagnosis is None
    again, same_path = evaluate(str(fast_run), diagnosed=True, **arguments)
    assert (again.diagnosis is not None, same_path) == (True, path)
    assert again.model_copy(update={"diagnosis": None}) == card
    third, _ = evaluate(str(fast_run), **arguments)
    assert third == again


def test_standard_and_full_diagnose() -> None:
    assert {name for name, plan in PLANS.items() if plan.diagnose} == {"standard", "full"}


@pytest.mark.slow
def test_a_diagnosis_repeats(net: nn.Module) -> None:
    """Same seed, same findings, whatever the batch size."""
    first, second = (
        [searches.overestimate(probe(net, batch_size=size)), transferred(probe(net, batch_size=size))] for size in (96, 20)
    )
    assert first == second


def test_the_command_ends_with_the_verdict_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a network that gives no gradient and whose labels alone tell anything."""
    (tmp_path / "model.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return 3 * torch.eye(10)[self.layer(x.detach().flatten(1)).argmax(1)]\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    net = Net()\n"
        "    from bench.data.datasets import load\n"
        "    data = load('digits', 'train')\n"
        "    x, y = data.batch(torch.arange(len(data)))\n"
        "    solved = torch.linalg.lstsq(x.flatten(1), torch.eye(10)[y]).solution\n"
        "    net.layer.weight.data, net.layer.bias.data = solved.T.contiguous(), torch.zeros(10)\n"
        "    return net\n"
    )
    arguments = ["diagnose", f"py:{tmp_path}/model.py:make", "--plan", "smoke", "--n", "60", "--results", str(tmp_path)]
    for more in ([], ["--json"]):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("sys.argv", ["gauntlet", *arguments, *more])
            with pytest.raises(SystemExit) as stopped:
                main()
        assert not stopped.value.code
        out = capsys.readouterr().out
        if more:
            told = json.loads(out)
            assert told["verdict"] == "broken"
            assert {"check", "value", "threshold", "verdict", "told"} == set(told["findings"][0])
        else:
            assert out.rstrip().splitlines()[-1] == "verdict: broken"
            assert "broken: gradients: for 100% of the images" in out


def test_one_class_for_all_images_is_told_before_any_gradient(net: nn.Module) -> None:
    def finding(after: Callable[[Tensor], Tensor]) -> Finding:
        return answers.constant(probe(Net(net, same, after)))

    leaning = torch.zeros(10).index_fill(0, torch.tensor([3]), 1e3)
    told = finding(lambda logits: logits + leaning)
    assert (told.verdict, told.value) == ("broken", 1.0)
    assert told.told.startswith("it answers class 3 to 100% of all images")
    assert CHECKS[0] is answers.constant
    assert finding(same).verdict == "ok"
    shifted = finding(lambda logits: logits.roll(1, 1))
    assert shifted.verdict == "suspicious"
    assert "no more than the commonest label gives" in shifted.told


def test_almost_always_one_class_is_told_too_and_a_frequent_class_is_not(net: nn.Module) -> None:
    unsure = Net(
        net,
        same,
        lambda logits: torch.where(
            logits.amax(1, keepdim=True) < logits.amax(1).quantile(0.96), logits * 0 + torch.eye(10)[7], logits
        ),
    )
    told = answers.constant(probe(unsure))
    assert told.verdict == "broken"
    assert told.told.startswith("it answers class 7 to 9")
    mostly = DATA.select(torch.cat([(DATA.y == 0).nonzero().squeeze(1).repeat(20), (DATA.y == 1).nonzero().squeeze(1)]))
    found = choose(mostly, Judge(net, LINF), torch.zeros(len(mostly), dtype=torch.bool))
    assert answers.constant(found).verdict == "ok"
    alone = DATA.select((DATA.y == 0).nonzero().squeeze(1))
    found = choose(alone, Judge(net, LINF), torch.zeros(len(alone), dtype=torch.bool))
    assert answers.constant(found).told == "does not apply: all images have one label"


def test_a_network_that_has_nothing_right_is_diagnosed(net: nn.Module) -> None:
    """Every check is made, and those on right images say that there is none."""
    found = probe(Net(net, same, lambda logits: -logits))
    assert len(found.y) == 0
    findings = [check(found) for check in CHECKS]
    assert findings[0].verdict == "suspicious"
    assert {finding.told for finding in findings[1:]} == {"does not apply: the network has none of the images right"}


def test_a_single_sample_proves_nothing_and_two_of_few_do() -> None:
    found = Probe(Judge(nn.Identity(), LINF), torch.zeros(12, 1), torch.zeros(12), torch.zeros(12), Rng(0, torch.arange(12)))

    def finding(k: int, **rest: Any) -> Finding:
        return Check("check", (0.0, 0.1), "fine", "wrong", lambda _: k / 12, **rest)(found)

    assert [finding(k).verdict for k in range(4)] == ["ok", "ok", "broken", "broken"]
    assert finding(1, share=False).verdict == "suspicious"


def test_a_diagnosis_of_one_right_sample_trusts_nothing(net: nn.Module) -> None:
    """No share of one is more than an accident, so that every check would let it pass."""
    right = (net(DATA.batch(torch.arange(len(DATA)))[0]).argmax(1) == DATA.y).nonzero().squeeze(1)
    single = choose(DATA.select(right[:1]), Judge(Net(net, quantised, same), LINF), torch.zeros(1, dtype=torch.bool))
    found = checks.diagnose(single, Reporter("", 1, quiet=True))
    assert found.verdict == "suspicious"
    assert "a single sample right" in found.findings[0].told


def test_a_check_says_its_sentences_and_where_it_does_not_apply() -> None:
    found = Probe(Judge(nn.Identity(), LINF), torch.zeros(12, 1), torch.zeros(12), torch.zeros(12), Rng(0, torch.arange(12)))

    def refuse(_: Probe) -> float:
        raise Inapplicable("it is blue")

    told = Check("check", (0.1, 0.5), "", "{value:.0%} of {name}", lambda _: Measured(0.7, {"name": "x"}))(found)
    assert (told.told, told.verdict, told.threshold) == ("70% of x", "broken", 0.125)
    assert Check("check", (0.1, 0.5), "", "", refuse)(found).told == "does not apply: it is blue"
    random = Probe(Judge(nn.Identity(), LINF, 11), *[torch.zeros(12)] * 3, Rng(0, torch.arange(12)))
    assert Check("check", (0.1, 0.5), "", "", refuse, repeatable=True)(random).told == "does not apply: the answers are random"
    assert len({check.name for check in CHECKS}) == len(CHECKS) == 24


@pytest.mark.slow
def test_a_gap_to_plain_pgd_is_a_remark_where_the_row_was_not_deceived(net: nn.Module) -> None:
    """And a reason to doubt as soon as a single sample that the row left falls to something."""
    found = probe(Net(net, same, lambda logits: logits * 1e4))
    found.broken = found.best.clone()
    fine = searches.overestimate(found)
    assert (fine.verdict, fine.value is not None and fine.value > searches.SOUND) == ("ok", True)
    assert "that alone would have been far off" in fine.told
    found.broken[found.best.nonzero()[0]] = False
    doubtful = searches.overestimate(found)
    assert doubtful.verdict == "suspicious"
    assert "1.1% of which the evaluation had left" in doubtful.told
    honest = probe(net)
    assert "far off" not in searches.overestimate(honest).told


@pytest.mark.slow
def test_what_no_attack_found_is_estimated_from_two_that_have_nothing_in_common(net: nn.Module) -> None:
    """Where half of the images have no gradient, and a search on labels finds only a part of what there is."""

    clean, _ = DATA.batch(torch.arange(len(DATA)))

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net(x)
            label = F.one_hot(logits.argmax(1), 10).to(logits.dtype)
            nearest = torch.cdist(x.flatten(1), clean.flatten(1)).argmin(1)
            return torch.where((nearest % 2 == 0)[:, None], logits, label)

    found = probe(Hidden())
    known = found.broken | found.white
    finding = agreement.hidden(found)
    would_fall = probe(net).white | probe(net).attack("pgd", steps=50, step=0.5, loss="margin")
    hidden = would_fall & ~known & ~found.black
    assert finding.value is not None
    assert finding.verdict != "ok", (finding, hidden)
    # An estimate from so few images lies in the interval of what is hidden among them.
    assert finding.value <= clopper_pearson(int(hidden.sum()), len(hidden))[1], hidden
    assert agreement.hidden(probe(net)).value == 0


@pytest.mark.parametrize(("alone", "again"), [(6, 12), (6, 24), (1, 3), (0, 0), (2, 0)])
def test_capture_and_recapture_is_arithmetic(alone: int, again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty known of 128; r by the upper end of its exact interval, one sample alone nothing."""
    every = torch.arange(128)

    def attack(_: Probe, among: Tensor | None = None) -> Tensor:
        return (every >= 128 - alone) if among is None else (every < again)

    monkeypatch.setattr(agreement, "UNRELATED", {"an attack": attack})
    found = Probe(Judge(nn.Identity(), LINF), torch.zeros(128, 1), every, every < 40, Rng(0, every))
    found.__dict__["white"] = torch.zeros(128, dtype=torch.bool)
    most = 1.0 if again == 24 else beta.ppf(0.975, again + 1, 24 - again)
    expected = alone * (1 / most - 1) / 128 if alone > 1 else 0.0
    assert agreement.hidden(found).value == pytest.approx(expected, abs=1e-4)


def test_a_smooth_gradient_that_is_not_that_of_the_answers_is_told(net: nn.Module) -> None:
    """It leads up, too: along it the margin changes within a factor of 3 of what it says."""
    torch.manual_seed(0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).requires_grad_(False)

    def lengths(part: nn.Module) -> Tensor:
        found = probe(part)
        return gradients.gradient(found, found.x, gradients.margin).flatten(1).norm(dim=1).median()

    scale = 2 * lengths(net) / lengths(other)

    class Led(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            away = scale * other(x)
            logits: Tensor = net(x)
            return logits + away - away.detach()

    told = gradients.faithful(probe(Led()))
    assert told.verdict != "ok", told


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Flatten(), nn.Linear(64, 10)],
        lambda: [nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10)],
        lambda: [
            nn.Flatten(), nn.Linear(64, 128), nn.Unflatten(1, (32, 4)), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
            nn.Linear(32, 10),
        ],
        lambda: [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)],
    ],
    ids=["linear", "gelu", "maxout", "max pooling"],
)  # fmt: skip
def test_honest_gradients_are_those_of_the_answers(layers: Callable[[], list[nn.Module]]) -> None:
    torch.manual_seed(0)
    part = nn.Sequential(*layers())
    x, y = load("digits", "train").batch(torch.arange(1000))
    optimiser = torch.optim.Adam(part.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(part(x), y).backward()
        optimiser.step()
    found = gradients.faithful(probe(part.eval().requires_grad_(False)))
    assert found.value is not None
    assert found.value < 0.1, found
