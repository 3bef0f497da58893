"""The adapter to foolbox, on the package itself; `make extras` runs this in an environment that has it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if importlib.util.find_spec("foolbox") is None:
    pytest.skip("extra foolbox is not installed", allow_module_level=True)

import foolbox

from bench import evaluate
from bench.core.threat import ThreatModel
from bench.errors import BadInput, UnknownName
from bench.plans.plan import AttackSpec, Plan
from bench.plugins.registry import get_attack

NAMES = [name for name, found in vars(foolbox.attacks).items() if isinstance(found, type) and name != "Attack"]
UNABLE = {
    "BinarizationRefinementAttack": "requires starting_points",
    "DatasetAttack": "after data has been provided",
    "GenAttack": "unsupported criterion",
    "L1BrendelBethgeAttack": "No module named 'numba'",
    "L2BrendelBethgeAttack": "No module named 'numba'",
    "LinfinityBrendelBethgeAttack": "No module named 'numba'",
}
"""What some attacks need that no plan can give, in their own words."""
OTHERS = {"SpatialAttack", "PointwiseAttack", "L0BrendelBethgeAttack", "L0FMNAttack"}
"""Attacks in no norm of ours."""
needs_no_numba = importlib.util.find_spec("numba") is None


@pytest.mark.parametrize("name", sorted(set(NAMES) - OTHERS))
def test_every_attack_keeps_the_contract(name: str, keeps_the_contract: Callable[[str, str], None], trial: Any) -> None:
    attack = get_attack(f"foolbox:{name}")
    assert attack.norms
    for norm in sorted(attack.norms):
        if name in UNABLE and (needs_no_numba or "numba" not in UNABLE[name]):
            with pytest.raises(BadInput, match=f"'foolbox:{name}' fails on .*{UNABLE[name]}.*leave it out"):
                trial.attack(f"foolbox:{name}", norm)
        else:
            keeps_the_contract(f"foolbox:{name}", norm)


@pytest.mark.parametrize("name", [*sorted(OTHERS), "LinfPDG"])
def test_attacks_in_no_norm_of_ours_are_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown attack of foolbox .*LinfPGD"):
        get_attack(f"foolbox:{name}")


@pytest.mark.parametrize(
    ("name", "norm", "settings"),
    [
        ("LinfPGD", "linf", {"rel_stepsize": 0.25, "steps": 20, "random_start": False}),
        ("L2PGD", "l2", {"abs_stepsize": 0.1, "steps": 20, "random_start": False}),
        ("L2FMNAttack", "l2", {"steps": 30}),
        ("LInfFMNAttack", "linf", {"steps": 30}),
    ],
)
def test_candidates_equal_the_packages_own(trial: Any, name: str, norm: str, settings: dict[str, Any]) -> None:
    threat = ThreatModel.parse(norm, "0.02" if norm == "linf" else "0.3")
    model = foolbox.PyTorchModel(trial.net, bounds=(0, 1), device="cpu")
    raw, _, _ = getattr(foolbox.attacks, name)(**settings)(model, trial.x, trial.y, epsilons=threat.radius)
    got, _ = trial.attack(f"foolbox:{name}", norm, eps=threat.eps_text, **settings)
    assert torch.equal(got, threat.project(raw, trial.x))
    assert trial.broken(got) > 0


def test_an_attack_with_a_choice_of_norms_gets_the_threats(trial: Any) -> None:
    """HopSkipJump declares l1 whatever it minimises, so its clipped candidates would be weak in l2 and linf."""
    assert get_attack("foolbox:HopSkipJumpAttack").norms == {"linf", "l2"}
    assert get_attack("foolbox:InversionAttack").norms == {"linf", "l2", "l1"}
    settings = {"steps": 10, "initial_gradient_eval_steps": 20, "max_gradient_eval_steps": 200}
    for norm in ("linf", "l2"):
        z, _ = trial.attack("foolbox:HopSkipJumpAttack", norm, **settings)
        assert trial.broken(z) >= 5


def test_seeds_and_restarts_differ(trial: Any) -> None:
    settings = {"abs_stepsize": 0.001, "steps": 3}
    once, _ = trial.attack("foolbox:LinfPGD", "linf", eps="0.008", **settings)
    assert not torch.equal(once, trial.attack("foolbox:LinfPGD", "linf", seed=1, eps="0.008", **settings)[0])
    often, _ = trial.attack("foolbox:LinfPGD", "linf", eps="0.008", restarts=8, **settings)
    gone = trial.net(once).argmax(1) != trial.y
    assert 0 < gone.sum() < len(gone)
    assert torch.equal(often[gone], once[gone])
    assert not (often[~gone] == once[~gone]).flatten(1).all(1).any()


def test_parameters_are_the_packages_checked() -> None:
    attack = get_attack("foolbox:LinfPGD")
    assert attack.parameters == {
        "restarts": 1, "batch_size": 250, "rel_stepsize": 0.01 / 0.3, "abs_stepsize": None, "steps": 40, "random_start": True
    }  # fmt: skip
    with pytest.raises(UnknownName, match="parameter of attack 'foolbox:LinfPGD' 'stepz': did you mean 'steps'"):
        attack.configure({"stepz": 20})
    with pytest.raises(BadInput, match=r"'foolbox:LinfPGD': steps = 2\.5"):
        attack.configure({"steps": 2.5})
    with pytest.raises(BadInput, match="'foolbox:L2DeepFoolAttack': loss = 'hinge'"):
        get_attack("foolbox:L2DeepFoolAttack").configure({"loss": "hinge"})
    # It has no default, and no attack runs without it.
    with pytest.raises(BadInput, match="'foolbox:VirtualAdversarialAttack': steps = None"):
        get_attack("foolbox:VirtualAdversarialAttack").configure({})
    for given in ("distance", "init_attack", "tensorboard"):
        with pytest.raises(UnknownName):
            get_attack("foolbox:HopSkipJumpAttack").configure({given: None})


def test_a_norm_the_attack_does_not_have_is_refused() -> None:
    plan = Plan(name="p", attacks=(AttackSpec(attack="foolbox:LinfPGD"),))
    with pytest.raises(BadInput, match="'foolbox:LinfPGD' works in linf, not in l1"):
        plan.resolved(ThreatModel.parse("l1", "5"))


def test_a_plan_runs_it_beside_our_own(fast_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "cross.toml"
    file.write_text(
        '[[attacks]]\nattack = "pgd"\non = "all"\nparameters = {steps = 20, step = 0.25}\nrestarts = 3\n'
        '[[attacks]]\nattack = "foolbox:LinfPGD"\nname = "theirs"\non = "all"\n'
        "parameters = {steps = 20, rel_stepsize = 0.25, restarts = 3}\n"
    )
    cards = [
        evaluate(str(fast_run), plan_name=str(file), n=100, results=tmp_path / str(size), batch_size=size, quiet=True)[0]
        for size in (100, 7)
    ]
    own, theirs = cards[0].attacks
    assert (theirs.name, theirs.attack) == ("theirs", "foolbox:LinfPGD")
    assert theirs.broken > 0
    # The same attack with other noise; it scores its last iterate where ours keeps every one.
    assert abs(own.robust_accuracy - theirs.robust_accuracy) <= 0.03
    assert [attack.broken for attack in cards[0].attacks] == [attack.broken for attack in cards[1].attacks]
