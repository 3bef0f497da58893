"""Rows of a dishonest harness: records, examples and card agree with each other, and only attacking again tells what was done.

What contradicts itself fails without that, in tests/verify/test_verify.py; the table of both is in docs/verify.md.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import evaluate
from bench.audit import Asked, audited
from bench.core import ThreatModel
from bench.evaluation.engine import Evaluation
from bench.evaluation.target import Work
from bench.plans import PLANS, Plan
from bench.results import Card, read_card
from bench.verify import Given, verify_card

HERE = Given(device="cpu")
N = 120
Batch = Callable[[Evaluation, Work], tuple[Tensor, ...]]

SEARCHED = {"attack": "pgd", "name": "searched", "parameters": {"steps": 20}, "grid": {"step": [0.1, 0.25]}, "restarts": 2}
WHOLE = {"attack": "pgd", "name": "pgd-20", "on": "all", "parameters": {"steps": 20}}
AFTER = {"attack": "apgd", "parameters": {"steps": 20}}


def _hidden(share: float, label: str = "") -> Callable[[Batch], Batch]:
    """Successes on so many of the samples are said to be failures, those of one attack or of all."""

    def change(plain: Batch) -> Batch:
        def lying(evaluation: Evaluation, work: Work) -> tuple[Tensor, ...]:
            fooled, margin, distance, forwards, backwards, kept, z, stray = plain(evaluation, work)
            if label and work.run.label != label:
                return fooled, margin, distance, forwards, backwards, kept, z, stray
            lie = fooled & (torch.rand(N, generator=torch.Generator().manual_seed(0))[work.rows] < share)
            margin = torch.where(lie, torch.full_like(margin, -0.05), margin)
            keep = ~lie[kept]
            return fooled & ~lie, margin, distance, forwards, backwards, kept & ~lie, z[keep], stray

        return lying

    return change


def _parameters(**changes: object) -> Callable[[Batch], Batch]:
    """Attacks run with other parameters than the plan's."""

    def change(plain: Batch) -> Batch:
        def weaker(evaluation: Evaluation, work: Work) -> tuple[Tensor, ...]:
            run = work.run
            other = {key: value for key, value in changes.items() if key in run.parameters}
            return plain(evaluation, work._replace(run=run._replace(parameters={**run.parameters, **other})))

        return weaker

    return change


def _smaller_ball(plain: Batch) -> Batch:
    """Attacks search half of the ball; what they find is a true example in all of it."""

    def smaller(evaluation: Evaluation, work: Work) -> tuple[Tensor, ...]:
        told, judge = evaluation.threat, evaluation.judge
        evaluation.threat = ThreatModel.parse(told.norm, str(told.radius / 2))
        evaluation.judge = replace(judge, threat=evaluation.threat)
        try:
            return plain(evaluation, work)
        finally:
            evaluation.threat, evaluation.judge = told, judge

    return smaller


CHEATS: dict[str, tuple[Callable[[Batch], Batch], list[object], str]] = {
    "fewer examples, and the records to match": (_hidden(0.5), [SEARCHED], "fall here that the records say stood"),
    "every attempt failed": (_hidden(1.0), [SEARCHED], "fall here that the records say stood"),
    "every attempt of a portfolio failed": (_hidden(1.0), [PLANS["fast"].attacks[0]], "fall here that the records say stood"),
    "the pgd column is forged": (_hidden(0.9, "pgd-20"), [WHOLE, AFTER], "fall here that the records say stood"),
    "a step of 1e-9": (_parameters(step=1e-9), [SEARCHED], "come closer here"),
    "a fifth of the steps": (_parameters(steps=4), [SEARCHED], "cost another number of passes"),
    "searched in half of the ball": (_smaller_ball, [SEARCHED], "come closer here"),
}


def made(run: Path, place: Path, attacks: list[object]) -> tuple[Card, Path]:
    home = place / run.name
    shutil.copytree(run, home, ignore=lambda folder, names: [name for name in names if (Path(folder) / name).is_dir()])
    plan = Plan.model_validate({"name": "own", "attacks": attacks})
    return evaluate(str(home), plan_name=plan, n=N, quiet=True, device_name="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_row_that_contradicts_nothing_is_caught_by_attacking_again(
    fast_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheat: str
) -> None:
    change, attacks, told = CHEATS[cheat]
    plan = [attack if isinstance(attack, dict) else attack.model_dump() for attack in attacks]  # type: ignore[attr-defined]
    monkeypatch.setattr(Evaluation, "_batch", change(Evaluation._batch))
    card, path = made(fast_run, tmp_path, plan)
    monkeypatch.undo()
    row = verify_card(path, HERE)
    assert row.verdict != "fails", row.checks
    (again,) = audited([row], Asked(60, 7), HERE, quiet=True)
    assert again.verdict == "fails"
    assert any(told in problem for problem in again.checks[-1].told), again.checks[-1].told
    assert read_card(path) == card
