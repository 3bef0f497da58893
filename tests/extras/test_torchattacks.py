"""The adapter to torchattacks, on the package itself; `make extras` runs this in an environment that has it."""

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if importlib.util.find_spec("torchattacks") is None:
    pytest.skip("extra torchattacks is not installed", allow_module_level=True)

import torchattacks

from bench import evaluate
from bench.compat.torchattacks import NORMS
from bench.core.threat import ThreatModel
from bench.errors import BadInput, UnknownName
from bench.models import resolve
from bench.plans.plan import AttackSpec, Plan
from bench.plugins.registry import get_attack


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in sorted(NORMS) for norm in NORMS[name]])
def test_every_attack_keeps_the_contract(name: str, norm: str, keeps_the_contract: Callable[[str, str], None]) -> None:
    keeps_the_contract(f"torchattacks:{name}", norm)


def test_the_norms_are_those_the_package_documents() -> None:
    documented = {}
    for name in set(torchattacks.__all__) - set(torchattacks.__wrapper__):
        told = re.search(r"Distance Measure : (.*)", inspect.getdoc(getattr(torchattacks, name)) or "")
        norms = {norm.lower() for norm in re.findall(r"L(?:inf|\d)", told[1])} - {"l0"} if told else set()
        if norms:
            documented[name] = norms
    assert documented.pop("FAB") == {*NORMS["FAB"], "l1"}
    assert documented.pop("EADEN") == {*NORMS["EADEN"], "l1"}
    assert documented == {name: set(norms) for name, norms in NORMS.items() if name not in ("FAB", "EADEN")}


@pytest.mark.parametrize(
    ("name", "norm", "eps", "settings"),
    [
        ("BIM", "linf", "0.02", {"alpha": 0.005, "steps": 7}),
        ("MIFGSM", "linf", "0.02", {"alpha": 0.005, "steps": 7, "decay": 0.5}),
        ("PGD", "linf", "0.02", {"alpha": 0.01, "steps": 20, "random_start": False}),
        ("PGDL2", "l2", "0.3", {"alpha": 0.1, "steps": 20, "random_start": False}),
    ],
)
def test_candidates_equal_the_packages_own(trial: Any, name: str, norm: str, eps: str, settings: dict[str, Any]) -> None:
    expected = getattr(torchattacks, name)(trial.net, eps=float(eps), **settings)(trial.x, trial.y)
    got, meter = trial.attack(f"torchattacks:{name}", norm, eps=eps, **settings)
    # The package leaves the l2 ball by a rounding, and is brought back.
    torch.testing.assert_close(got, expected, rtol=0, atol=0 if norm == "linf" else 1e-7)
    assert trial.broken(got) > 0
    assert (meter.forwards == settings["steps"]).all()
    assert (meter.backwards == settings["steps"]).all()


def test_seeds_and_restarts_differ_and_restarts_go_on_with_the_survivors(trial: Any) -> None:
    settings = {"alpha": 0.001, "steps": 3}
    once, _ = trial.attack("torchattacks:PGD", "linf", eps="0.008", **settings)
    assert not torch.equal(once, trial.attack("torchattacks:PGD", "linf", seed=1, eps="0.008", **settings)[0])
    often, meter = trial.attack("torchattacks:PGD", "linf", eps="0.008", restarts=8, **settings)
    gone = trial.net(once).argmax(1) != trial.y
    assert 0 < gone.sum() < len(gone)
    assert torch.equal(often[gone], once[gone])
    assert trial.broken(often) >= trial.broken(once)
    assert not (often[~gone] == once[~gone]).flatten(1).all(1).any()
    assert meter.backwards.sum() < 8 * 3 * len(gone)


def test_seeds_reach_what_the_package_seeds_itself(trial: Any) -> None:
    """AutoAttack would take the time of day."""
    for name in ("APGD", "Square", "AutoAttack"):
        first, again, other = (trial.attack(f"torchattacks:{name}", "linf", seed=seed)[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_the_number_of_classes_is_the_models(trial: Any) -> None:
    """Nine targets, the package's default, do not exist for five classes."""
    z, _ = trial.attack("torchattacks:APGDT", "linf", steps=10)
    assert trial.broken(z) > 0


def test_parameters_are_the_packages_checked(trial: Any) -> None:
    attack = get_attack("torchattacks:PGD")
    assert attack.parameters == {
        "restarts": 1, "batch_size": 250, "alpha": 2 / 255, "steps": 10, "random_start": True
    }  # fmt: skip
    assert attack.configure({"steps": 20, "alpha": 0.01})["steps"] == 20
    with pytest.raises(UnknownName, match="parameter of attack 'torchattacks:PGD' 'step': did you mean 'steps'"):
        attack.configure({"step": 20})
    for given in ("eps", "model", "seed", "norm"):
        with pytest.raises(UnknownName, match="parameter of attack"):
            get_attack("torchattacks:APGD").configure({given: 1})
    with pytest.raises(BadInput, match="steps = 'many'"):
        attack.configure({"steps": "many"})
    with pytest.raises(BadInput, match=r"'torchattacks:PGD' fails on images of shape \[3, 16, 16\]: TypeError: .*parameters"):
        trial.attack("torchattacks:PGD", "linf", steps=2.5)


def test_unknown_attacks_and_norms_are_told() -> None:
    with pytest.raises(UnknownName, match="unknown attack of torchattacks 'PDG': did you mean 'PGD'"):
        get_attack("torchattacks:PDG")
    for pixels in ("OnePixel", "JSMA", "MultiAttack", "GN"):
        with pytest.raises(UnknownName, match="unknown attack of torchattacks"):
            get_attack(f"torchattacks:{pixels}")
    plan = Plan(name="p", attacks=(AttackSpec(attack="torchattacks:PGD"),))
    with pytest.raises(BadInput, match="'torchattacks:PGD' works in linf, not in l2"):
        plan.resolved(ThreatModel.parse("l2", "0.5"))


def test_a_plan_runs_it_beside_our_own(fast_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "cross.toml"
    file.write_text(
        '[[attacks]]\nattack = "pgd"\non = "all"\nparameters = {steps = 20, step = 0.25}\nrestarts = 3\n'
        '[[attacks]]\nattack = "torchattacks:PGD"\non = "all"\nparameters = {steps = 20, alpha = 0.05, restarts = 3}\n'
    )
    cards = [
        evaluate(str(fast_run), plan_name=str(file), n=100, results=tmp_path / str(size), batch_size=size, quiet=True)[0]
        for size in (100, 7)
    ]
    own, theirs = cards[0].attacks
    assert theirs.name == "torchattacks:PGD"
    assert theirs.parameters == {"restarts": 3, "batch_size": 250, "alpha": 0.05, "steps": 20, "random_start": True}
    assert theirs.broken > 0
    # The same attack with other noise; it scores its last iterate where ours keeps every one.
    assert abs(own.robust_accuracy - theirs.robust_accuracy) <= 0.03
    assert not theirs.notes
    assert [attack.broken for attack in cards[0].attacks] == [attack.broken for attack in cards[1].attacks]


def test_the_robustbench_inside_its_wheel_is_not_taken_for_the_zoo() -> None:
    assert importlib.util.find_spec("robustbench") is not None
    with pytest.raises(BadInput, match=r"needs the package robustbench: pip install 'gauntlet-bench\[zoo\]'"):
        resolve("robustbench:Wong2020Fast", (3, 32, 32), 10)
