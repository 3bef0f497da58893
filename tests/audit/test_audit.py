"""The audit: honest rows repeat themselves whatever the batch; rows of weaker attacks and edited records do not pass."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench import evaluate, train
from bench.audit import Asked, Row, audited, judge
from bench.audit.schedule import schedule_problems
from bench.cli.commands import main
from bench.evaluation.engine import Evaluation
from bench.evaluation.target import Run
from bench.files import Reporter
from bench.plans import PLANS, Plan
from bench.report import read_entries
from bench.results import Round, read_card, read_records
from bench.results.archive import write_records
from bench.statistics import wilson
from bench.verify import Check, Given, Verified, load_data, load_model, read_evidence, verify_card
from bench.verify.acceptance import Audit, Signed, accept

HERE = Given(device="cpu")
N = 120
PGD = {"attack": "pgd", "name": "searched", "parameters": {"steps": 10}, "grid": {"step": [0.05, 0.25]}, "restarts": 3}


@pytest.fixture(scope="module")
def run(fast_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("audit") / fast_run.name
    shutil.copytree(fast_run, home, ignore=lambda folder, names: [name for name in names if (Path(folder) / name).is_dir()])
    return home


def made(run: Path, *attacks: Any, **more: Any) -> Path:
    plan = Plan.model_validate({"name": "own", "attacks": attacks})
    return evaluate(str(run), plan_name=plan, n=more.pop("n", N), quiet=True, device_name="cpu", **more)[1]


def again(path: Path, count: int = 50, given: Given = HERE) -> Check:
    row = verify_card(path, given)
    assert row.verdict != "fails", row.checks
    return audited([row], Asked(count, 7), given, quiet=True)[0].checks[-1]


def repeated(found: Check) -> int:
    """How many samples were run again, all of which repeat theirs."""
    told = re.search(r"(\d+) of (\d+) samples repeat", found.told[0])
    assert told
    assert told[1] == told[2]
    return int(told[1])


@pytest.fixture(scope="module")
def honest(run: Path) -> Path:
    """A card of a grid with restarts and of a portfolio."""
    return made(run, PGD, PLANS["fast"].attacks[0].model_dump())


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many of them during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "threads"), [(None, 1), (32, 1), (7, 1), (7, 2)], indirect=["threads"])
def test_an_honest_row_repeats_itself_to_the_last_bit(honest: Path, batch_size: int | None, threads: int) -> None:
    """With as many threads, that is: some processors round in another way with more of them, and then it agrees up to that."""
    found = again(honest, 20, HERE._replace(batch_size=batch_size))
    assert found.ok
    exactly = "24 of 24 samples repeat theirs to the last bit" in found.told[0]
    assert exactly or (threads > 1 and "with other threads" in found.told[0])
    assert found.told[-1] == "samples chosen by --rerun-seed 7"


def test_a_sweep_and_a_test_time_defense_repeat_themselves(run: Path) -> None:
    swept = made(run, {"attack": "pgd", "parameters": {"steps": 5}, "restarts": 2}, eps_sweep=["0.05", "0.1"])
    assert repeated(again(swept)) > 50
    added = made(run, {"attack": "apgd", "parameters": {"steps": 10}}, test_time="rfi")
    assert repeated(again(added)) == 50


NOISY = """
import torch


class Noisy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 640).sin().reshape(10, 64))

    def forward(self, x):
        return (x + 0.1 * torch.randn_like(x)).flatten(1) @ self.weight.T


def net():
    return Noisy()
"""


@pytest.mark.slow
def test_what_cannot_repeat_itself_is_stated(run: Path, tmp_path: Path) -> None:
    whole = made(run, {"attack": "autoattack"}, n=16)
    found = again(whole, 5)
    assert found.ok is None
    assert "takes all samples at once and was not run again: stated" in found.told[0]
    file = tmp_path / "noisy.py"
    file.write_text(NOISY)
    reference = f"py:{file}:net"
    noisy = evaluate(
        reference, dataset="digits", plan_name="smoke", n=200, eot=1, results=tmp_path, quiet=True, device_name="cpu"
    )[1]  # fmt: skip
    found = again(noisy, 5, HERE._replace(model=reference))
    assert found.ok is None
    assert "depend on chance" in found.told[0]


def test_a_row_in_which_nothing_fell_is_proved_by_an_audit_alone(run: Path) -> None:
    spared = made(run, {"attack": "pgd", "parameters": {"steps": 1, "step": 1e-6, "start": "clean"}})
    row = verify_card(spared, HERE)
    assert (row.verdict, read_card(spared).archive.rows) == ("not checked", 0)
    assert "nothing here proves that one was run" in next(one.told[0] for one in row.checks if one.ok is None)
    assert audited([row], Asked(20, 7), HERE, quiet=True)[0].verdict == "holds"


def weakened(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Run], Run], *attacks: Any) -> Path:
    """A card whose attacks did something else than its plan says."""
    plain = Evaluation._batch
    monkeypatch.setattr(Evaluation, "_batch", lambda self, work: plain(self, work._replace(run=change(work.run))))
    home = tmp_path / run.name
    shutil.copytree(run, home, ignore=lambda folder, names: [name for name in names if (Path(folder) / name).is_dir()])
    path = made(home, *attacks)
    monkeypatch.undo()
    return path


def _with(**changes: Any) -> Callable[[Run], Run]:
    return lambda run: run._replace(parameters={**run.parameters, **{k: v for k, v in changes.items() if k in run.parameters}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_with(steps=2), "cost another number of passes than the records say"),
        (_with(step=1e-9), "the same attacks come closer here than the records say"),
        (lambda run: run._replace(parameters={**run.parameters, "step": run.parameters["step"] / 20}), "come closer here"),
    ],
)
def test_weaker_attacks_are_caught(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Run], Run], told: str
) -> None:
    path = weakened(run, tmp_path, monkeypatch, change, {"attack": "pgd", "parameters": {"steps": 20}, "restarts": 2})
    found = again(path)
    assert found.ok is False
    assert any(told in problem for problem in found.told)


def test_one_restart_passed_off_as_three_is_caught_on_this_kind_of_processor(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"attack": "pgd", "parameters": {"steps": 3, "step": 0.3}, "restarts": 3}
    path = weakened(run, tmp_path, monkeypatch, lambda run: run._replace(stream=("restart", "0")), spec)
    assert again(path).ok is False


def _dropped(path: Path, share: float) -> None:
    """Records in which samples that fell are said to have stood, with all numbers of the card to match."""
    rows = pd.read_parquet(path.parent / "samples.parquet")
    tried = rows["run"] != ""
    lost = rows.loc[rows["broken"] & tried, "id"].unique()
    saved = rows["id"].isin(lost[: int(share * len(lost))]) & tried
    rows.loc[saved & rows["broken"], "margin"] = -0.01
    rows.loc[saved, "broken"] = False
    write_records(path.parent / "samples.parquet", rows)


def test_samples_said_to_have_stood_that_fall_are_named(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest.parents[1], tmp_path / "sent")
    path = tmp_path / "sent" / honest.parent.name / "card.json"
    row = verify_card(path, HERE)
    _dropped(path, 0.5)
    # Whoever edits records edits the card with them; what judges the rest of it is not asked here.
    card = read_card(path)
    records = card.records.model_copy(update={"sha256": "0" * 64})
    row = row._replace(card=card.model_copy(update={"records": records}))
    found = audited([row], Asked(50, 7), HERE, quiet=True)[0].checks[-1]
    assert found.ok is False
    told = "samples fall here that the records say stood, and all others repeat theirs to the last bit"
    assert any(told in problem for problem in found.told)


def scheduled(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], rounds: Callable[[list[Round]], list[Round]]) -> str:
    """What the search itself says of the rounds of a card whose records and rounds were edited."""
    card, given = read_card(path), HERE
    evidence = read_evidence(card, path.parent)
    samples = load_data(card, path, evidence, given, [])
    assert samples is not None
    under = load_model(card, path, samples, given, [])
    assert under is not None
    attacks = [
        result.model_copy(update={"rounds": tuple(rounds(list(result.rounds)))}) if result.rounds else result
        for result in card.attacks
    ]
    rows, card = change(read_records(path.parent / card.records.file)), card.model_copy(update={"attacks": tuple(attacks)})
    with Reporter("audit", 1, quiet=True) as report:
        nothing = torch.zeros(len(samples), dtype=torch.bool)
        return "; ".join(schedule_problems(Row(card, card.dataset, under, samples, rows, nothing, 64, report)))


def _last(rows: pd.DataFrame) -> str:
    return max((run for run in rows["run"].unique() if run.startswith("round")), key=lambda run: int(run.split()[1].strip(":")))


def test_a_portfolio_that_stopped_early_is_caught(honest: Path) -> None:
    assert scheduled(honest, lambda rows: rows, lambda rounds: rounds) == ""
    pilot = [round.stage for round in read_card(honest).attacks[1].rounds].count("sweep")
    assert pilot > 0

    def no_sweep(rows: pd.DataFrame) -> pd.DataFrame:
        runs = sorted({run for run in rows["run"] if run.startswith("round")}, key=lambda run: int(run.split()[1].strip(":")))
        return rows[~rows["run"].isin(runs[-pilot:])]

    assert "its records end before round" in scheduled(honest, no_sweep, lambda rounds: rounds[:-pilot])
    assert "its records end before round" in scheduled(
        honest, lambda rows: rows[rows["run"] != _last(rows)], lambda rounds: rounds[:-1]
    )


def test_rounds_on_other_samples_or_with_less_effort_are_caught(honest: Path) -> None:
    def fewer(rows: pd.DataFrame) -> pd.DataFrame:
        mine = rows["run"] == _last(rows)
        return rows[~mine | (mine.cumsum() > 3)]

    assert "and the search takes on" in scheduled(honest, fewer, lambda rounds: rounds)
    weaker = scheduled(
        honest, lambda rows: rows, lambda rounds: [round.model_copy(update={"effort": 1, "rough": True}) for round in rounds]
    )
    assert "rough is True on the card, and its records lead to False" in weaker


@pytest.mark.slow
def test_the_search_of_a_masked_network_and_of_a_sweep_is_followed(run: Path, tmp_path: Path) -> None:
    masked = train("broken_gradient_kill", settings={"epochs": 2}, results=tmp_path, quiet=True)
    path = evaluate(str(masked), n=12, quiet=True, device_name="cpu")[1]
    assert read_card(path).attacks[0].masked
    assert scheduled(path, lambda rows: rows, lambda rounds: rounds) == ""
    swept = evaluate(str(run), n=40, eps_sweep=["0.1", "0.2"], quiet=True, device_name="cpu")[1]
    assert scheduled(swept, lambda rows: rows, lambda rounds: rounds) == ""


def rows_of(gaps: np.ndarray, fell: int = 0, *, said: bool = False) -> pd.DataFrame:
    """Attempts of one restart on as many samples, whose margins here differ by so much from those recorded."""
    size = len(gaps)
    margins = np.linspace(-3, -1, size)
    return pd.DataFrame({
        "id": range(size), "attack": "pgd", "run": "restart 0", "broken": np.arange(size) < fell, "margin": margins + gaps,
        "forwards": 20, "backwards": 20, "said_broken": said, "said_margin": margins, "said_forwards": 20, "said_backwards": 20,
    })  # fmt: skip


def test_what_falls_here_is_told_where_it_is_too_little_to_fail_a_row() -> None:
    gaps = np.random.default_rng(0).normal(0, 0.1, 50)
    found = judge(rows_of(gaps, 2))
    assert not found.problems
    assert "2 of the samples fall here that the records say stood" in found.seen
    assert "agree" not in found.seen
    assert "agree" in judge(rows_of(gaps)).seen


@pytest.mark.slow
def test_rounding_is_no_forgery_and_its_tests_have_their_level() -> None:
    """Elsewhere two of fifty survivors may fall by rounding, and margins may differ either way; honest rows fail 1 in 1000."""
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(500):
        gaps = rng.normal(0, 0.1, 50)
        failed += bool(judge(rows_of(gaps, rng.binomial(50, 0.02))).problems)
    assert failed <= 3
    assert not judge(rows_of(np.full(50, 0.01))).problems
    assert judge(rows_of(np.full(50, 0.1))).problems
    assert not judge(rows_of(np.full(50, -0.1))).problems
    assert judge(rows_of(rng.normal(0, 0.1, 50), 8)).problems
    assert judge(rows_of(np.zeros(50), 1)).problems
    assert not judge(rows_of(np.zeros(50), 1, said=True)).problems


def _claims(path: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy of a row whose card says something else."""
    shutil.copytree(path.parents[1], tmp_path / path.parents[1].name)
    copied = tmp_path / path.parents[1].name / path.parent.name / "card.json"
    read_card(copied).model_copy(update=changes).save(copied)
    return copied


@pytest.mark.slow
def test_a_certificate_is_made_again_on_some_samples(tmp_path: Path) -> None:
    proved = train("ibp", settings={"epochs": 12}, eps="0.05", results=tmp_path / "made", quiet=True)
    path = evaluate(str(proved), eps="0.1", plan_name="smoke", n=N, quiet=True, device_name="cpu")[1]
    said = read_card(path).certified
    assert said is not None
    (found,) = audited([verify_card(path, HERE)], Asked(60, 7), HERE, quiet=True)
    assert (found.verdict, found.checks[-1].name) == ("holds", "certificate")
    stands = read_card(path).robust_accuracy
    # As much as can be said without a contradiction to the attacks.
    forged = said.model_copy(update={"accuracy": stands, "interval": wilson(round(stands * N), N)})
    assert said.accuracy < stands - 0.2
    (found,) = audited([verify_card(_claims(path, tmp_path, certified=forged), HERE)], Asked(60, 7), HERE, quiet=True)
    assert "samples proved again, and the card says" in found.checks[-1].told[0]
    none = said.model_copy(update={"defense": "smoothing"})
    (found,) = audited([verify_card(_claims(path, tmp_path / "none", certified=none), HERE)], Asked(60, 7), HERE, quiet=True)
    assert "has no part in this model" in found.checks[-1].told[0]


@pytest.mark.slow
def test_a_verdict_that_is_better_than_it_is_here_fails(tmp_path: Path) -> None:
    masked = train("broken_gradient_kill", settings={"epochs": 2}, results=tmp_path / "made", quiet=True)
    card, path = evaluate(str(masked), plan_name="smoke", n=60, quiet=True, device_name="cpu", diagnosed=True)
    assert card.diagnosis is not None
    assert card.diagnosis.verdict == "broken"
    (found,) = audited([verify_card(path, HERE)], Asked(diagnosis=True), HERE, quiet=True)
    assert (found.verdict, found.checks[-1].told) == ("holds", ("broken, as the card says",))
    forged = _claims(path, tmp_path, diagnosis=card.diagnosis.model_copy(update={"verdict": "ok"}))
    (found,) = audited([verify_card(forged, HERE)], Asked(diagnosis=True), HERE, quiet=True)
    assert found.verdict == "fails"
    assert "broken here, and the card says ok" in found.checks[-1].told[0]


@pytest.mark.slow
def test_a_board_takes_no_row_that_does_not_stand_an_audit(
    honest: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"attack": "pgd", "parameters": {"steps": 20}, "restarts": 2}
    forged = weakened(run, tmp_path, monkeypatch, _with(step=1e-9), spec)
    board = tmp_path / "board"
    board.mkdir()
    audit = Audit(30, lambda row: audited([row], Asked(30, None), HERE, quiet=True)[0])
    refused = accept(forged, board, Signed("Eve"), HERE, audit=audit, quiet=True)
    assert refused.path is None
    assert "attacked again" in refused.told
    taken = accept(honest, board, Signed("Ada"), HERE, audit=audit, quiet=True)
    assert taken.path is not None
    assert "30 of its samples attacked again" in taken.told
    assert [entry.backing for entry in read_entries([board])[0]] == ["audited"]


def test_the_command_says_what_it_did(
    honest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gauntlet", "verify", str(honest), "--rerun", "5", "--rerun-seed", "3", "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["checks"][-1]["name"], row["checks"][-1]["ok"]) == ("holds", "audit", True)


def test_a_row_that_does_not_hold_is_not_audited(honest: Path) -> None:
    failing = Verified(honest, read_card(honest), [Check("card", False, ("no",))])
    assert audited([failing], Asked(5, 1), HERE, quiet=True) == [failing]
