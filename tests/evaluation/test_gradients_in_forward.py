"""A network may take gradients in its forward, however it is written: it answers whoever asks, and has what gradient it has."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import evaluate
from bench.cli.commands import main
from bench.compat.autoattack import run_autoattack
from bench.core import Double, Expectation, Judge, Rng, ThreatModel, ask, boundary, forward, isolated, margin, slopes
from bench.core.views import VIEWS, Gradient, Meter
from bench.data.datasets import load
from bench.errors import AttackWarning
from bench.evaluation import low_precision
from bench.plans import PLANS
from bench.plugins import get_attack, load_plugin

LINF = ThreatModel.parse("linf", "0.1")
SIZE = 0.05

MODEL = """
import torch
from torch import Tensor, nn

SIZE = 0.05


def energy(net: nn.Module, z: Tensor) -> Tensor:
    return torch.logsumexp(net(z), 1).sum()


def enabled(net, x):
    with torch.enable_grad():
        return bare(net, x)


def bare(net, x):
    z = x.detach().clone().requires_grad_()
    return x + SIZE * torch.autograd.grad(energy(net, z), z)[0]


def second_order(net, x):
    with torch.enable_grad():
        return bare_second_order(net, x)


def bare_second_order(net, x):
    z = x if x.requires_grad else x.requires_grad_()
    for _ in range(2):
        z = z + SIZE * torch.autograd.grad(energy(net, z), z, create_graph=True)[0]
    return z


def backward(net, x):
    z = x.detach().clone().requires_grad_()
    energy(net, z).backward()
    return x + SIZE * z.grad


def of_the_given(net, x):
    x.requires_grad_()
    energy(net, x).backward()
    return x + SIZE * x.grad


def taken_for_granted(net, x):
    return x + SIZE * torch.autograd.grad(energy(net, x), x)[0]


def cut_off(net, x):
    return bare(net, x).detach()


def thawed(net, x):
    net.requires_grad_(True)
    return of_the_given(net, x)


FORMS = (enabled, bare, second_order, bare_second_order, backward, of_the_given, taken_for_granted, cut_off, thawed)


class Moved(nn.Module):
    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        return self.net(self.form(self.net, x))


def made(form):
    torch.manual_seed(0)
    from bench.data.datasets import load

    data = load("digits", "train")
    x, y = data.batch(torch.arange(len(data)))
    features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.SiLU(), nn.Flatten())
    head = nn.Linear(288, 10)
    with torch.no_grad():
        given = torch.cat([features(x), torch.ones(len(x), 1)], 1)
        solved = torch.linalg.lstsq(given, torch.eye(10)[y]).solution
        head.weight.copy_(solved[:-1].T)
        head.bias.copy_(solved[-1])
    return Moved(nn.Sequential(features, head), form)


def taking():
    return made(taken_for_granted)
"""
SPACE: dict[str, object] = {}
exec(MODEL, SPACE)
FORMS: tuple[Callable[[nn.Module, Tensor], Tensor], ...] = SPACE["FORMS"]  # type: ignore[assignment]
made: Callable[[object], nn.Module] = SPACE["made"]  # type: ignore[assignment]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def network(form: object) -> nn.Module:
    return made(form).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    return load("digits", "test").first(24).batch(torch.arange(24))


def by_hand(net: nn.Module, x: Tensor, *, steps: int = 1) -> Tensor:
    """What all forms answer, worked out once more."""
    for _ in range(steps):
        z = x.detach().clone().requires_grad_()
        x = z.detach() + SIZE * torch.autograd.grad(torch.logsumexp(net(z), 1).sum(), z)[0]
    return net(x).detach()


@every_form
def test_it_answers_where_nobody_wants_a_gradient(form: Callable[..., Tensor], batch: tuple[Tensor, Tensor]) -> None:
    net, x = network(form), batch[0]
    expected = by_hand(net.net, x, steps=2 if "second" in form.__name__ else 1)
    before = x.clone()
    for _ in range(2):
        with torch.no_grad():
            logits = forward(net, x)
        assert not logits.requires_grad
        assert torch.allclose(logits, expected, atol=1e-5)
        logits.numpy()
    assert torch.equal(x, before)
    assert not x.requires_grad
    with torch.no_grad():
        assert len(ask(net, x[:1])) == 1
        assert not Expectation(net, 3)(x).requires_grad
        assert Double(net)(x).dtype == torch.float64
    assert Judge(net, LINF).correct(*batch)[0].any()


TOWARDS = """
import torch
from bench.defense import Defense, defense


@defense("towards_itself")
class Towards(Defense):
    test_time = True

    def wrap(self, net):
        return Mover(net)


class Mover(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        z = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(self.net(z).amax(1).sum(), z)
        return self.net(x + 0.02 * grad.sign())
"""


@every_form
def test_attacks_get_the_gradient_of_what_is_differentiable(form: Callable[..., Tensor], batch: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = network(form), batch
    grad = slopes(net, x, y, margin)
    assert grad.isfinite().all()
    assert bool((grad != 0).any()) == (form.__name__ != "cut_off")
    again = slopes(net, x, y, margin)
    assert torch.equal(grad, again)
    if "second" in form.__name__:
        z = x.clone().requires_grad_()
        (own,) = torch.autograd.grad(margin(net(z), y).sum(), z)
        assert torch.allclose(grad, own, atol=1e-5)


@every_form
@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "rays", "fab"])
def test_every_kind_of_attack_runs_on_it(form: Callable[..., Tensor], name: str, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = network(form), batch
    attack = get_attack(name)
    chosen = attack.configure({"queries": 20} if attack.access in ("score", "decision") else {"steps": 3})
    view, rng = VIEWS[attack.access](net, Meter(len(y), x.device)), Rng(0, torch.arange(len(y)))
    with warnings.catch_warnings(), isolated(0):
        warnings.simplefilter("ignore", AttackWarning)
        z = attack.run(view, x, y, LINF, rng, **chosen)
    assert z.isfinite().all()


@every_form
def test_the_reference_of_autoattack_runs_on_it(form: Callable[..., Tensor], batch: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("pyautoattack")
    net, (x, y) = network(form), batch
    view = VIEWS["module"](net, Meter(4, x.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        z, _ = run_autoattack(
            view.module, x[:4], y[:4], ThreatModel.parse("linf", "0.3"), version="standard", seed=0, batch_size=4
        )
    assert z.isfinite().all()


def test_what_it_needs_is_found_once_and_costs_others_nothing(batch: tuple[Tensor, Tensor]) -> None:
    calls: list[tuple[bool, bool]] = []

    def watched(net: nn.Module, x: Tensor) -> Tensor:
        calls.append((torch.is_grad_enabled(), x.requires_grad))
        return FORMS[6](net, x)

    net, x = network(watched), batch[0]
    with torch.no_grad():
        forward(net, x)
        assert calls == [(False, False), (True, False), (True, True)]
        forward(net, x)
        assert calls[3:] == [(True, True)]
        honest = network(lambda net, x: calls.append((torch.is_grad_enabled(), x.requires_grad)) or x)
        forward(honest, x)
        assert calls[4:] == [(False, False)]
    known = set(boundary._NEEDS)
    assert id(net) in known
    assert id(honest) not in known
    gone = id(net)
    del net, watched
    gc.collect()
    assert gone not in boundary._NEEDS


def test_what_a_network_raises_for_another_reason_is_what_is_told(batch: tuple[Tensor, Tensor]) -> None:
    calls = []

    def wrong(net: nn.Module, x: Tensor) -> Tensor:
        calls.append(1)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with torch.no_grad(), pytest.raises(RuntimeError, match="mat1"):
        forward(network(wrong), batch[0])
    assert len(calls) == 1

    def never(net: nn.Module, x: Tensor) -> Tensor:
        return torch.autograd.grad(net(x.detach()).sum(), x.detach())[0]

    with torch.no_grad(), pytest.raises(RuntimeError, match="element 0"):
        forward(network(never), batch[0])


class Fussy(nn.Module):
    """Refuses bfloat16 where an image is bright, which the first batch need not be."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        with isolated(0):
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and (self.always or x.max() > 2):
            raise ValueError("no such kernel")
        logits: Tensor = self.body(x)
        return logits


class Uncountable(Fussy):
    """Cannot be run under a mode of torch's dispatcher."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:  # type: ignore[no-untyped-call]
            raise KeyError("mode")
        return super().forward(x)


class Uncopied(Fussy):
    """Holds what cannot be copied."""

    def __deepcopy__(self, memo: object) -> "Uncopied":
        raise TypeError("cannot be copied")


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (Fussy(), "bfloat16"),
        (Fussy(always=True), "float32: the network does not run in bfloat16: "),
        (Uncountable(), "float32: the network's operations cannot be counted: KeyError"),
        (Uncopied(), "float32: the network does not run in bfloat16: TypeError: cannot be copied"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_faster_copy_that_cannot_be_had_says_why(
    net: nn.Module, told: str, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_precision, "native_bf16", lambda _: True)
    monkeypatch.setattr(low_precision, "WORTHWHILE", 0)
    faster, reason = low_precision.to_low_precision(net, *batch)
    assert reason.startswith(told)
    assert (faster is not None) == (reason == "bfloat16")


def test_a_faster_copy_that_raises_later_leaves_it_to_the_network(batch: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = Fussy().eval().requires_grad_(False), batch
    view = Gradient(net, Meter(len(y), x.device))
    exact = view.grad(3 * x, margin, y).grad
    faster = low_precision.LowPrecision(net).eval().requires_grad_(False)
    assert {parameter.dtype for parameter in faster.parameters()} == {torch.bfloat16}
    view.use_low_precision(faster, y)
    with pytest.warns(AttackWarning, match="no such kernel"):
        assert torch.equal(view.grad(3 * x, margin, y).grad, exact)


@pytest.fixture(scope="module")
def towards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A defense that takes gradients at test time, by name."""
    file = tmp_path_factory.mktemp("towards") / "towards.py"
    file.write_text(TOWARDS)
    load_plugin(file)
    return "towards_itself"


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_runs_on_it_and_on_a_defense_that_adds_it(plan: str, towards: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    card, _ = evaluate(
        f"py:{tmp_path}/model.py:taking", dataset="digits", norm="linf", eps="0.1", plan_name=plan, n=4,
        test_time=towards, results=tmp_path / "results", quiet=True,
    )  # fmt: skip
    assert [attack.name for attack in card.attacks] == [spec.label for spec in PLANS[plan].attacks]
    assert card.robust_accuracy < card.clean_accuracy


@pytest.mark.slow
def test_it_is_evaluated_diagnosed_verified_and_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    card, path = evaluate(
        f"py:{tmp_path}/model.py:taking", dataset="digits", norm="linf", eps="0.05", plan_name="smoke", n=24, diagnosed=True,
        active=True, results=tmp_path / "results", quiet=True,
    )  # fmt: skip
    assert card.clean_accuracy > 0.7
    assert card.robust_accuracy < card.clean_accuracy
    assert card.diagnosis is not None
    assert card.diagnosis.n
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "sys.argv", ["gauntlet", "verify", str(path.parent), "--model", f"py:{tmp_path}/model.py:taking", "--rerun", "4"]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
    assert not stopped.value.code, capsys.readouterr()
