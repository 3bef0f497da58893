"""A plan is checked before anything runs, whoever wrote it."""

from pathlib import Path

import pytest

from bench.core import ThreatModel
from bench.errors import BadInput
from bench.plans import AttackSpec, Plan, load

THREAT = ThreatModel.parse("linf", "0.1")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("parameters = {step = inf}", "step = inf is no number to run with"),
        ("parameters = {step = nan}", "step = nan is no number to run with"),
        ("parameters = {momentum = 1e300}", "momentum = 1e.300 is no number to run with"),
        ("parameters = {steps = 100000000000000000000}", "steps = 100000000000000000000 is no number"),
        ("parameters = {steps = 10000000000}", "steps = 10000000000 is no number"),
        ("grid = {step = [0.1, inf]}", "step = inf is no number to run with"),
        ("grid = {step = [0.1, nan]}", "step = nan is no number to run with"),
        ("restarts = 1e20", "attacks.0.attack.restarts"),
        ("restarts = 100000000000000000000", "attacks.0.attack.restarts"),
        ("samples = 1e20", "attacks.0.attack.samples"),
        ("probe = 1e20", "attacks.0.attack.probe"),
    ],
)
def test_a_number_that_no_attack_can_run_with_is_refused(line: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(f'[[attacks]]\nattack = "pgd"\n{line}\n')
    with pytest.raises(BadInput, match=told):
        load(tmp_path / "p.toml").resolved(THREAT)


@pytest.mark.parametrize("place", ["opening", "arms", "blind"])
def test_so_is_one_in_an_arm_of_a_portfolio(place: str, tmp_path: Path) -> None:
    arms = {"opening": '{attack = "pgd"}', "arms": '{attack = "pgd"}', "blind": '{attack = "rays"}'}
    arms[place] = '{attack = "pgd", parameters = {step = inf}}'
    lines = "".join(f"{key} = [{arm}]\n" for key, arm in arms.items())
    (tmp_path / "p.toml").write_text(f'[[attacks]]\nattack = "portfolio"\n{lines}')
    with pytest.raises(BadInput, match="step = inf"):
        load(tmp_path / "p.toml").resolved(THREAT)


def test_a_plan_made_in_python_is_checked_too() -> None:
    plan = Plan(name="own", attacks=(AttackSpec(attack="pgd", parameters={"step": float("inf")}),))
    with pytest.raises(BadInput, match="step = inf"):
        plan.resolved(THREAT)


@pytest.mark.parametrize("name", ["smoke", "fast", "standard", "full", "autoattack"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_built_in_plan_passes_and_so_does_what_it_resolves_to(name: str, norm: str) -> None:
    threat = ThreatModel.parse(norm, "0.1")
    resolved = load(name).resolved(threat)
    assert resolved.resolved(threat) == resolved


def test_no_column_is_called_as_another_attack() -> None:
    plan = Plan(name="mine", attacks=(AttackSpec(attack="pgd", name="autoattack"),))
    with pytest.raises(BadInput, match="attack 'pgd' fills a column called 'autoattack', which is another attack"):
        plan.resolved(THREAT)
