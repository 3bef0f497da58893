"""The deliberately broken defenses: each looks robust under plain PGD and is not, and none is taken for a real one.

The standard network of the same architecture stands for each network without its trick; all but a few wrap that very one.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import ThreatModel, train
from bench.cli.catalogue import catalogue
from bench.core.rng import isolated
from bench.data.datasets import load
from bench.defenses.pgd_at import PGDTraining
from bench.defenses.standard import Standard
from bench.errors import UnknownName
from bench.models.subject import load_subject
from bench.plugins.registry import broken_names, defense_names, get_defense, make_defense
from bench.plugins.userfile import import_file

EPS = 0.2
SAMPLES = load("digits", "test").first(264)
# After the 64 that a network is checked on when it is loaded, and that one with a memory would know.
X, Y = SAMPLES.batch(torch.arange(64, 264))
SINGLE_DRAWS = {"broken_noise_layer", "broken_random_resize_pad"}
"""Plain PGD averages their draws on digits."""
AROUND_ROBUST = [name for name in broken_names() if issubclass(get_defense(name), PGDTraining)]
"""These mask a network that has some robustness of its own."""
QUERIES = {"broken_hedge": "?reach=0.2"}
"""As far as the attack goes, like its paper; at half of that it masks so little that some processors' networks show none."""
NATURAL = sorted(set(broken_names()) - set(AROUND_ROBUST))
catch_rate: Any = import_file(Path(__file__).parents[1] / "catch_rate.py")
Loader = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Makes the network of a defense as it answers at test time, fresh for every call."""
    results = tmp_path_factory.mktemp("broken")
    standard = str(train("standard", settings={"epochs": "5"}, results=results, quiet=True))

    def make(name: str, query: str = "", seed: int = 0) -> nn.Module:
        if name == "standard":
            return load_subject(standard, SAMPLES, "digits", 0).model.net
        if get_defense(name).loss is Standard.loss:
            return load_subject(standard, SAMPLES, "digits", 0, name + query).model.net
        made = train(name, settings={"epochs": "5"}, results=results, quiet=True, seed=seed)
        return load_subject(str(made), SAMPLES, "digits", 0).model.net

    return make


def fooling(net: nn.Module) -> Tensor:
    with isolated(0):
        z: Tensor = catch_rate.plain_pgd(net, X, Y, EPS)
        return z


def under_attack(net: nn.Module) -> float:
    return float(catch_rate.accuracy(net, fooling(net), Y))


@pytest.fixture(scope="module")
def transferred(loader: Loader) -> Tensor:
    """What plain PGD finds on the standard network."""
    return fooling(loader("standard"))


@pytest.fixture(scope="module")
def undefended(loader: Loader, transferred: Tensor) -> float:
    """The accuracy that it leaves there."""
    return float(catch_rate.accuracy(loader("standard"), transferred, Y))


@pytest.mark.parametrize("name", sorted(set(NATURAL) - SINGLE_DRAWS))
def test_it_looks_robust_under_plain_pgd(name: str, loader: Loader, undefended: float) -> None:
    """On average over three trainings, where the defense has one of its own."""
    assert undefended < 0.1
    seeds = range(1) if get_defense(name).loss is Standard.loss else range(3)
    assert mean(under_attack(loader(name, seed=seed)) for seed in seeds) > undefended + 0.3


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder of a short PGD training."""
    settings = {"epochs": "8", "steps": "3", "step": "0.5"}
    return str(train("pgd_at", settings=settings, results=tmp_path_factory.mktemp("robust"), quiet=True))


@pytest.mark.parametrize("name", AROUND_ROBUST)
def test_it_masks_a_robust_network(name: str, robust: str) -> None:
    """PGD-20 finds less on it than a fair attacker does, who finds about what there is to find inside."""
    net = load_subject(robust, SAMPLES, "digits", 0, name + QUERIES.get(name, "")).model.net
    x, y = X[:96], Y[:96]
    with isolated(0):
        plain = catch_rate.accuracy(net, catch_rate.plain_pgd(net, x, y, EPS), y)
    up = catch_rate.adaptive.standing(name, net, x, y, ThreatModel.parse("linf", str(EPS)), restarts=1, targets=2)
    assert plain > float(up.double().mean()) + 0.05
    assert catch_rate.accuracy(net, x, y) > 0.8


@pytest.mark.parametrize("name", NATURAL)
def test_it_falls_to_what_fools_the_standard_network(name: str, loader: Loader, transferred: Tensor) -> None:
    with isolated(0):
        assert catch_rate.accuracy(loader(name), transferred, Y) < 0.35
        assert catch_rate.accuracy(loader(name), X, Y) > 0.6


@pytest.mark.parametrize("query", ["?bits=3", "?bits=5"])
def test_coarser_rounding_looks_robust_too(query: str, loader: Loader, undefended: float) -> None:
    assert under_attack(loader("broken_quantiser", query)) > undefended + 0.3


def test_moving_ripples_look_robust_too(loader: Loader, undefended: float) -> None:
    net = loader("broken_ripples", "?moving=true")
    assert not torch.equal(net(X), net(X))
    assert under_attack(net) > undefended + 0.3


@pytest.mark.parametrize("name", sorted(SINGLE_DRAWS))
def test_what_does_not_look_robust_answers_at_random(name: str, loader: Loader, undefended: float) -> None:
    net = loader(name)
    assert under_attack(net) < undefended + 0.3
    assert not torch.equal(net(X), net(X))
    assert "does not look robust" in " ".join((sys.modules[get_defense(name).__module__].__doc__ or "").split())


def test_broken_defenses_are_listed_apart() -> None:
    assert not set(broken_names()) & set(defense_names())
    assert len(broken_names()) >= 13
    for name in broken_names():
        assert name in catalogue("broken")
        assert name not in catalogue("all")
    with pytest.raises(UnknownName, match="broken_jpeg"):
        get_defense("broken_jpg")


@pytest.mark.slow
def test_they_are_imported_when_one_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys; from bench import registry; registry.get_defense('standard'), registry.defense_names();"
        "loaded = lambda: [name for name in sys.modules if name.startswith('bench.defenses.broken')];"
        "assert not loaded(), loaded(); registry.get_defense('broken_jpeg'); assert loaded()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_jpeg_at_a_fine_step_changes_nothing() -> None:
    x = torch.rand(3, 2, 13, 16)
    jpeg = make_defense("broken_jpeg", {"step": 1e-5})
    assert torch.allclose(jpeg.compressed(x), x, atol=1e-4)  # type: ignore[attr-defined]


def test_winners_are_the_largest_of_each_image() -> None:
    activation = make_defense("broken_k_winners", {"share": 0.25}).wrap(nn.ReLU())
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5, -1.0, -3.0, 2.0, 0.0], [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]])
    kept = torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 2.0, 0.0], [-1.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(activation(x), kept)


def row(name: str, verdict: str, *, broken: bool, truth: float = 0.4, autoattack: float | None = None) -> Any:
    card = SimpleNamespace(diagnosis=SimpleNamespace(verdict=verdict), robust_accuracy=0.5)
    return catch_rate.Row(catch_rate.Case(name, broken), 0.9, card, truth, autoattack)


def test_the_catch_rate_is_1_where_something_slips_or_a_sound_defense_is_wronged() -> None:
    caught, doubted = row("broken_jpeg", "broken", broken=True), row("broken_ripples", "suspicious", broken=True)
    missed, sound = row("broken_stateful", "ok", broken=True), row("pgd_at", "ok", broken=False)
    wronged = row("trades", "suspicious", broken=False)
    assert catch_rate.summary([caught, doubted, sound]) == (
        ["caught 2 of 2 broken", "of these 0 by a number that is true, without a warning", "false alarms 0 of 1 sound"],
        0,
    )
    lines, code = catch_rate.summary([caught, missed, sound])
    assert (lines[0], code) == ("caught 1 of 2 broken (missed: broken_stateful)", 1)
    lines, code = catch_rate.summary([caught, sound, wronged])
    assert (lines[-1], code) == ("false alarms 1 of 2 sound (wronged: trades)", 1)


def test_a_true_number_needs_no_warning() -> None:
    true = row("broken_jpeg", "ok", broken=True, truth=0.48)
    lines, code = catch_rate.summary([true])
    assert (lines[:2], code) == (["caught 1 of 1 broken", "of these 1 by a number that is true, without a warning"], 0)
    assert not row("broken_jpeg", "ok", broken=True, truth=0.479).true
    assert not row("broken_jpeg", "ok", broken=True, truth=0.5, autoattack=0.47).true


def test_what_cannot_be_evaluated_counts_against_the_harness() -> None:
    refused = [catch_rate.Refused(catch_rate.Case(name, broken), "no") for name, broken in (("a", True), ("b", False))]
    lines, code = catch_rate.summary(refused)
    assert (lines[0], lines[-1], code) == ("caught 0 of 1 broken (missed: a)", "false alarms 1 of 1 sound (wronged: b)", 1)


def test_the_catch_rate_covers_every_broken_defense_and_every_sound_one() -> None:
    cases = catch_rate.cases(mnist=False)
    assert {case.defense for case in cases if case.broken} == set(broken_names())
    assert {"standard", "pgd_at", "trades", "smoothing"} < {case.defense for case in cases if not case.broken}
    assert len({case.label for case in cases}) == len(cases)


@pytest.mark.slow
def test_a_row_of_the_catch_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "broken_gradient_kill", "--epochs", "1", "--n", "10", "--results", str(tmp_path)]
    assert catch_rate.main(arguments) == 0
    told = capsys.readouterr().out
    assert "broken_gradient_kill" in told
    assert "gradients" in told
    assert "caught 1 of 1 broken\n" in told
    assert told.endswith("false alarms 0 of 0 sound\n")
    assert catch_rate.main(arguments) == 0
    assert capsys.readouterr().out == told
