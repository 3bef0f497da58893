"""A network that gives no gradient, or not that of its answers, is told under every plan, and never ranks beside sound ones."""

from pathlib import Path

import pytest

from bench import Card, evaluate
from bench.compare import ranks
from bench.diagnose.checks import NONE_RIGHT
from bench.diagnose.report import render
from bench.report import Entry, leaderboard, summary
from bench.report import render as rendered

PLANS = {
    "gradient alone": '[[attacks]]\nattack = "pgd"\non = "all"\nparameters = { steps = 5 }\n',
    "black box alone": '[[attacks]]\nattack = "square"\nparameters = { queries = 50 }\n',
    "smallest perturbation": '[[attacks]]\nattack = "fab"\non = "all"\nparameters = { steps = 3 }\n',
}
MODELS = """
import torch
from torch import nn
from bench.models import resolve

def base():
    return resolve({run!r}, (1, 8, 8), 10).net

class Around(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.net, self.call = base(), call

    def forward(self, x):
        return self.call(self.net, x)

class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 0.5).float()

    @staticmethod
    def backward(ctx, grad):
        return None

def sound():
    return Around(lambda net, x: net(x))

def shifted():
    # Of the three likeliest classes none is the one that is answered.
    return Around(lambda net, x: -net(x))

def backbone():
    return Around(lambda net, x: net(x.detach()))

def head():
    scale = torch.ones(10, requires_grad=True)
    return Around(lambda net, x: scale * net(x.detach()))

def spikes():
    return Around(lambda net, x: net(Spike.apply(x)))

def rounded():
    return Around(lambda net, x: net((x * 16).round() / 16))

def numpy():
    return Around(lambda net, x: torch.from_numpy(net(x).numpy()))

def beside():
    torch.manual_seed(0)
    weight = 0.02 * torch.randn(64, 10)
    return Around(lambda net, x: net(x.detach()) + x.flatten(1) @ weight)

def reversed():
    return Around(lambda net, x: net(2 * x.detach() - x))

def dynamic():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.copy_(templates())
        net[1].bias.copy_(-(net[1].weight ** 2).sum(1) / 2)
    return torch.ao.quantization.quantize_dynamic(net.eval(), {{nn.Linear}})

def templates():
    from bench.data.datasets import load
    data = load("digits", "train")
    x, y = data.batch(torch.arange(len(data)))
    return torch.stack([x[y == label].mean(0).flatten() for label in range(10)])

class Static(nn.Module):
    def __init__(self):
        super().__init__()
        quantization = torch.ao.quantization
        self.enter, self.leave = quantization.QuantStub(), quantization.DeQuantStub()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with torch.no_grad():
            self.net[1].weight.copy_(templates())
            self.net[1].bias.copy_(-(self.net[1].weight ** 2).sum(1) / 2)

    def forward(self, x):
        return self.leave(self.net(self.enter(x)))

def static():
    quantization = torch.ao.quantization
    engine = torch.backends.quantized.engine
    net = Static().eval()
    net.qconfig = quantization.get_default_qconfig("x86" if engine in ("x86", "none") else engine)
    quantization.prepare(net, inplace=True)
    net(torch.rand(64, 1, 8, 8))
    return quantization.convert(net, inplace=True)
"""
BLIND = ["backbone", "head", "spikes", "rounded", "numpy", "dynamic", "static"]
MISLED = ["beside", "reversed"]


@pytest.fixture(scope="module")
def models(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "models.py"
    file.write_text(MODELS.format(run=str(fast_run)))
    return file


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plans")
    for name, text in PLANS.items():
        (folder / f"{name.split()[0]}.toml").write_text(text)
    return {name: str(folder / f"{name.split()[0]}.toml") for name in PLANS}


def attacked(models: Path, name: str, plan: str, results: Path, n: int = 40) -> tuple[Card, Path]:
    reference = f"py:{models}:{name}"
    return evaluate(reference, dataset="digits", eps="0.1", plan_name=plan, n=n, results=results, quiet=True)


@pytest.mark.parametrize("plan", PLANS)
def test_a_network_without_a_gradient_is_told_under_every_plan(
    plan: str, models: Path, plans: dict[str, str], tmp_path: Path
) -> None:
    sound = attacked(models, "sound", plans[plan], tmp_path)
    assert sound[0].verdict is None
    assert [finding.verdict for finding in sound[0].noticed] == ["ok", "ok"]
    for name in BLIND if plan == "gradient alone" else ["head"]:
        card, path = attacked(models, name, plans[plan], tmp_path)
        assert card.verdict == "suspicious", name
        assert [finding.check for finding in card.noticed] == ["gradients"]
        told = "gradients: for 100% of the images the gradient of the margin is zero or not finite"
        assert card.notes[0].startswith(told), name
        assert "take no_grad, detach, rounding and integer arithmetic out of the forward pass" in card.notes[0]
        assert f"note: {told}" in summary([(card, path)])
        assert "suspicious" in summary([(card, path)])
        rows = [Entry(made, path, None) for made in (card, sound[0])]
        table = leaderboard(rows)
        assert list(table["defense"]) == ["sound", name]
        assert list(table["verdict"]) == ["", "suspicious"]
        assert ranks([card, sound[0]], [None, None]) == ["-", "1"]
        assert f"{name}: {told}" in rendered(rows, "md")


@pytest.mark.parametrize("name", MISLED)
def test_a_gradient_that_is_not_that_of_the_answers_is_told(
    name: str, models: Path, plans: dict[str, str], tmp_path: Path
) -> None:
    card, path = attacked(models, name, plans["gradient alone"], tmp_path)
    assert [finding.verdict == "ok" for finding in card.noticed] == [True, False]
    assert card.verdict == "suspicious"
    assert "the gradient is not that of the answers" in summary([(card, path)])


def test_a_diagnosis_has_the_last_word(models: Path, plans: dict[str, str], tmp_path: Path) -> None:
    card, _ = attacked(models, "sound", plans["gradient alone"], tmp_path)
    blind, _ = attacked(models, "backbone", plans["gradient alone"], tmp_path)
    diagnosis = {"verdict": "ok", "n": 1, "findings": [], "seconds": 0.0}
    cleared = Card.model_validate({**blind.model_dump(), "diagnosis": diagnosis})
    assert cleared.verdict == "ok"
    assert card.model_copy(update={"noticed": blind.noticed}).verdict == "suspicious"


def test_where_nothing_is_right_there_is_a_finding_and_no_traceback(
    models: Path, plans: dict[str, str], tmp_path: Path
) -> None:
    reference, plan = f"py:{models}:shifted", plans["gradient alone"]
    asked = {"dataset": "digits", "eps": "0.1", "plan_name": plan, "n": 40, "results": tmp_path, "quiet": True}
    card, path = evaluate(reference, diagnosed=True, active=True, **asked)
    assert card.clean_accuracy == 0
    assert card.noticed == ()
    assert card.diagnosis is not None
    assert card.diagnosis.findings == (NONE_RIGHT,)
    assert "order of the labels" in render(card, path)
    assert render(card, path).splitlines()[-1] == "verdict: suspicious"
