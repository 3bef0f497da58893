"""A folder of results as one value, and its pictures: what falls adds up."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import BadInput, GauntletError
from bench.pictures.paper import save
from bench.report import Falls, figures, leaderboard, read_entries, read_leaderboard, render
from bench.report.history import read_history
from bench.report.plots import KINDS, plot
from bench.results import AttackResult, outcomes_of
from bench.verify import contradictions, proved


def test_a_board_is_the_leaderboard(shown_results: Path) -> None:
    board = read_leaderboard(shown_results)
    (section,) = board.sections
    (part,) = section.parts
    assert [len(method.rows) for method in part.methods if method.cells["defense"] == "fast_at"] == [3]
    assert [row.cells["seed"] for row in part.methods[0].rows] in (["0", "1", "2"], ["0"])
    frame = leaderboard(shown_results)
    pd.testing.assert_frame_equal(
        pd.DataFrame([dict(method.cells) for method in part.methods])[list(frame.columns)], frame, check_dtype=False
    )
    assert len({row.key for row in board.rows}) == len(board.rows) == 6
    assert all(row.key.replace("-", "").isalnum() for row in board.rows)
    assert part.methods[-1].cells["verdict"] == "suspicious"


def test_reading_once_says_what_reading_each_says(shown_results: Path) -> None:
    """The evidence of a card holds what `contradictions`, `outcomes_of` and `proved` read by themselves."""
    entries, _ = read_entries([shown_results])
    for entry in entries:
        assert contradictions(entry.card, entry.path.parent) == []
        outcomes = outcomes_of(entry.card, entry.path)
        assert entry.outcomes is not None
        for key in ("ids", "labels", "clean", "planned", "robust"):
            np.testing.assert_array_equal(getattr(entry.outcomes, key), getattr(outcomes, key))
        assert entry.backing == ("proved" if proved(outcomes) else "stated") == "proved"


def test_what_each_attack_took_adds_up(shown_results: Path) -> None:
    for row in read_leaderboard(shown_results, read=read_entries([shown_results], falls=True)).rows:
        card, falls = row.entry.card, row.entry.falls
        assert falls is not None
        assert falls.standing.sum() == round(card.robust_accuracy * card.n)
        assert falls.clean.sum() - sum(falls.taken.values()) == falls.standing.sum()
        bars = figures.waterfall(row, falls).bars
        assert bars[-2].start == pytest.approx(bars[-1].end)
        assert all(0 <= bar.start <= bar.end <= 100 for bar in bars)
        assert sum(count for _, count, _, _ in falls.per_class()) == card.n


def test_arms_that_ran_beside_each_other_are_counted_once(shown_results: Path) -> None:
    """A portfolio's pilot runs every arm on the same samples, which may fall to several."""
    row = read_leaderboard(shown_results).rows[0]
    common = {"effort": 1, "rough": False, "samples": 2, "progress": 1.0, "cost": 10.0, "reach": 2}
    arms = [{"stage": "pilot", "arm": arm, "broken": 1, **common} for arm in ("ce", "margin")]
    plan = {"name": "fast", "attack": "portfolio", "on": "survivors", "rounds": arms}
    attack = AttackResult.model_validate({**row.entry.card.attacks[0].model_dump(), **plan})
    card = row.entry.card.model_copy(update={"n": 3, "attacks": (attack,), "clean_accuracy": 2 / 3, "robust_accuracy": 1 / 3})
    runs = [(number, "clean", "", number == 2) for number in range(3)]
    runs += [
        (number, "fast", f"round {place}: {arm}", number == 0)
        for place, arm in enumerate(("ce", "margin"))
        for number in (0, 1)
    ]
    rows = pd.DataFrame(runs, columns=["id", "attack", "run", "broken"]).assign(label=0, margin=0.0)
    falls = Falls(card, rows)
    assert falls.taken == {("fast", "round 0: ce"): 1, ("fast", "round 1: margin"): 0}
    assert falls.standing.tolist() == [False, True, False]
    own = row._replace(entry=row.entry._replace(card=card))
    assert [bar.value for bar in figures.waterfall(own, falls).bars] == ["66.7", "\u221233.3", "0", "33.3"]
    chart = figures.rounds([(own, falls)])
    assert chart is not None
    np.testing.assert_allclose(chart.curves[0].points, [(0, 200 / 3), (20 / 3, 100 / 3), (40 / 3, 100 / 3)])
    assert figures.overlap(falls) is None, "one sample shows no overlap"


def test_an_overlap_is_of_the_samples_that_both_were_run_on(shown_results: Path) -> None:
    card = read_leaderboard(shown_results).rows[0].entry.card
    attacks = tuple(attack.model_copy(update={"on": "all"}) for attack in card.attacks)
    runs = [(number, "clean", "", False) for number in range(10)]
    runs += [(number, "pgd-20", "", number < 8) for number in range(10)]
    rows = pd.DataFrame(runs, columns=["id", "attack", "run", "broken"])
    rows.loc[10:, "run"] = "restart 0"
    square = pd.DataFrame([(n, "square", "restart 0", n < 2) for n in range(4)], columns=rows.columns)
    rows = pd.concat([rows, square], ignore_index=True).assign(label=0, margin=0.0)
    heat = figures.overlap(Falls(card.model_copy(update={"n": 10, "attacks": attacks}), rows))
    assert heat is not None
    assert heat.rows == ("pgd-20", "square")
    # Square was run on four of the eight that PGD broke, and broke two; PGD broke both of those.
    assert heat.texts == (("100", "50"), ("100", "100"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"history": 3}',
        '{"history": [{"clean": "x"}]}',
        '{"history": [{"clean": 1e999}]}',
        '{"history": [1, 2]}',
        "[" * 9999,
    ],
)
def test_a_damaged_history_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(BadInput, match="holds no history"):
        read_history(tmp_path / "train.json")


def test_a_history_knows_the_learning_rate(tmp_path: Path) -> None:
    history = [{"epoch": k, "clean": 0.5, "fgsm": 0.4, "pgd": 0.3, "loss": 1.0, "seconds": k} for k in range(1, 5)]
    content = {"history": history, "settings": {"lr": 0.4, "schedule": "triangular:0.5", "epochs": 4}}
    (tmp_path / "train.json").write_text(json.dumps(content))
    found = read_history(tmp_path / "train.json")
    assert found is not None
    assert found.rate == pytest.approx((0.1, 0.3, 0.3, 0.1))
    assert found.curves["pgd"] == (0.3,) * 4
    assert found.budget == ()
    content["settings"]["eps_schedule"] = "linear:0,1"  # type: ignore[index]
    (tmp_path / "train.json").write_text(json.dumps(content))
    again = read_history(tmp_path / "train.json")
    assert again is not None
    assert again.budget == pytest.approx((0.125, 0.375, 0.625, 0.875))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("rounds", "restarts", "steps", "eps", "overlap", "cost", "measure")]
)
def test_every_kind_is_drawn_or_says_what_it_needs(kind: str, shown_results: Path, tmp_path: Path) -> None:
    save(plot(kind, [str(shown_results / "digits" / "linf-0.2" / "seed-1")]), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("kind", "where", "told"),
    [
        ("rounds", "seed-1", "needs a portfolio"),
        ("restarts", "seed-1", "needs an attack with restarts"),
        ("eps", "seed-1", "needs a sweep"),
        ("loss", "*", "picture of one row"),
        ("pie", "seed-1", "pie"),
    ],
)
def test_what_cannot_be_drawn_is_told(kind: str, where: str, told: str, shown_results: Path) -> None:
    with pytest.raises(GauntletError, match=told):
        plot(kind, [str(shown_results / "digits" / "linf-0.2" / where)])


def test_more_curves_than_tell_apart_are_refused(shown_results: Path, tmp_path: Path) -> None:
    rows = [
        str(shown_results / "digits" / "linf-0.2" / name) for name in ("one", "seed-1", "seed-2", "doubted", "hostile", "long")
    ]
    assert len(plot("training", rows).curves) == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("width", [30, 60, 80, 100, 140])
def test_tables_fit_the_terminal(width: int, shown_results: Path) -> None:
    entries, _ = read_entries([shown_results / "digits" / "linf-0.2" / name for name in ("one", "doubted")])
    text = render(entries, "text", width=width)
    table = text.splitlines()[1:5]
    assert max(map(len, table)) <= max(width, 30)
    heads = table[0].split()
    assert {"defense", "robust"} <= set(heads)
    whole = render(entries, "text").splitlines()[1].split()
    assert all((head in heads) or (head in text.partition("left out to fit")[2]) for head in whole)
