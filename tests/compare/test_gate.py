"""Evaluations paired sample by sample: what their records say, who wins, which ranks are open, and the gate."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from command import call
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.bands import Row, rank_bands, sections
from bench.compare.comparable import without_additions
from bench.compare.gate import check_regression
from bench.compare.gate_report import escaped, junit, markdown
from bench.compare.gate_report import render as told
from bench.compare.methods import best_of_each_model, methods
from bench.compare.pairs import compare_rows, render
from bench.core.threat import ThreatModel
from bench.errors import BadInput
from bench.files.atomic import sha256
from bench.plans.built_in import PLANS
from bench.report import Entry, leaderboard, write_leaderboard
from bench.results.archive import write_archive, write_records
from bench.results.card import Card, read_card
from bench.results.outcomes import read_outcomes
from bench.results.schema import Diagnosis
from bench.statistics.proportions import wilson

DIGEST = "d" * 64
LINF = ThreatModel.parse("linf", "0.3")
SMOKE = PLANS["smoke"].resolved(LINF)
PLAN = SMOKE.model_copy(update={"attacks": SMOKE.attacks[:1]})


def attempt(attack: str, run: str, ids: Sequence[int], broken: Sequence[bool]) -> pd.DataFrame:
    """Records of one run of an attack."""
    return pd.DataFrame({
        "id": np.asarray(ids, np.int64), "label": np.asarray(ids, np.int64) % 10, "attack": attack, "run": run,
        "broken": np.asarray(broken, bool), "margin": 0.0, "distance": 0.0, "forwards": np.int64(1), "backwards": np.int64(0),
    })  # fmt: skip


def written(folder: Path, tables: Sequence[pd.DataFrame], **changes: Any) -> Path:
    """A card with these records beside it; its numbers are theirs. The first table is the clean pass."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.concat(tables, ignore_index=True)
    n, clean = len(tables[0]), int((~tables[0].broken).sum())
    robust = n - int(rows.groupby("id").broken.any().sum())
    records = write_records(folder / "samples.parquet", rows)
    attack = {
        "name": "pgd-20", "attack": "pgd", "parameters": PLAN.attacks[0].parameters, "on": PLAN.attacks[0].on,
        "n": n, "attempted": clean,
        "broken": clean - robust, "robust_accuracy": robust / n, "interval": wilson(robust, n), "grid": None,
        "restarts": [{"restarts": 1, "robust_accuracy": robust / n}], "forwards": 1.0,
        "backwards": 0.0, "seconds": 1.0, "notes": [],
    }  # fmt: skip
    content = {
        "name": "mine", "dataset": "mnist", "threat": {"norm": "linf", "eps": "3/10"}, "n": n, "clean_accuracy": clean / n,
        "clean_interval": wilson(clean, n), "robust_accuracy": robust / n, "interval": wilson(robust, n), "attacks": [attack],
        "plan": PLAN.model_dump(), "plan_digest": PLAN.digest, "seed": 0,
        "model": {
            "reference": "r", "arch": "mnist_fast", "digest": DIGEST, "defense": "fast_at", "settings": {},
            "training": {"seed": 0},
        },
        "data": {"split": "test", "digest": DIGEST, "source": "s"}, "records": records.model_dump(),
        "archive": {"file": "archive.safetensors", "sha256": DIGEST, "rows": clean - robust},
        "seconds": 5.0, "device": "cpu", "versions": {}, "notes": [],
    }  # fmt: skip
    Card.model_validate({**content, **changes}).save(folder / "card.json")
    return folder


def evaluated(folder: Path, standing: Sequence[bool] | np.ndarray, **changes: Any) -> Path:
    """An evaluation of a model that is right on every clean image, and stands on these samples."""
    flags = np.asarray(standing, bool)
    ids = np.arange(len(flags))
    if "digest" in changes:
        given = {"digest": changes.pop("digest"), "training": {"seed": changes.pop("training_seed", 0)}}
        changes["model"] = {"reference": "r", "arch": "a", "defense": "fast_at", "settings": {}, **given}
    clean = attempt("clean", "", ids, np.zeros_like(flags))
    return written(folder, [clean, attempt("pgd-20", "restart 0", ids, ~flags)], **changes)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((folder / "card.json").read_text())
    change(content)
    (folder / "card.json").write_text(json.dumps(content))
    return folder


# What the records say.


def test_the_worst_case_is_the_mean_of_the_min(tmp_path: Path) -> None:
    """T41: two attacks that each leave 60 % standing leave 20 % together; a restart, a round or a smaller ball counts too."""
    ids = range(10)
    broke = {"a": {0, 1, 2, 3}, "b": {4, 5, 6, 7}}
    tables = [attempt("clean", "", ids, [False] * 10)]
    tables += [attempt(name, "restart 0", ids, [i in hit for i in ids]) for name, hit in broke.items()]
    found = read_outcomes(written(tmp_path / "two", tables) / "card.json")
    assert found.robust.mean() == 0.2 < min(1 - len(hit) / 10 for hit in broke.values())
    assert found.ids[found.robust].tolist() == [8, 9]
    further = attempt("a at 1/10", "round 3: apgd", [9], [True])
    assert read_outcomes(written(tmp_path / "more", [*tables, further]) / "card.json").robust.tolist() == [False] * 8 + [
        True,
        False,
    ]


def test_wrong_on_the_clean_image_is_broken_and_order_does_not_matter(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(20)
    clean = attempt("clean", "", ids, ids < 4)
    attacked = attempt("pgd-20", "restart 0", ids[ids >= 4], ids[ids >= 4] < 10)
    found = read_outcomes(written(tmp_path, [clean, attacked]) / "card.json")
    assert found.ids.tolist() == list(range(20))
    assert found.clean.tolist() == [False] * 4 + [True] * 16
    assert found.robust.tolist() == [False] * 10 + [True] * 10
    assert found.labels.tolist() == [i % 10 for i in range(20)]


def test_additions_lower_the_card_and_not_the_pairing(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "a", [True] * 8 + [False] * 2)
    file = write_archive(folder / "handed-in.safetensors", torch.tensor([2, 5]), torch.zeros(2, 1, 8, 8), {})

    def add(card: dict[str, Any]) -> None:
        card["additions"] = [{"by": "somebody", "broken": 2, "archive": file.model_dump()}]
        card["robust_accuracy"] = 0.6

    edit(folder, add)
    found = read_outcomes(folder / "card.json")
    assert found.ids[found.planned & ~found.robust].tolist() == [2, 5]
    other = evaluated(tmp_path / "b", [True] * 8 + [False] * 2)
    result = check_regression(other, folder)
    assert not result.lost
    assert "lost 2 more samples to examples handed in later" in " ".join(result.notes)
    assert without_additions([found, found], "A") == [
        "A lost 4 more samples to examples handed in later, its 2 seeds together; they do not count here"
    ]
    assert leaderboard([Entry(read_card(folder / "card.json"), folder, None)]).robust[0] == 60
    (folder / "handed-in.safetensors").unlink()
    with pytest.raises(BadInput, match=r"handed-in\.safetensors .* is not there"):
        check_regression(other, folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda home: (home / "samples.parquet").unlink(), r"samples\.parquet belongs to .* and is not there"),
        (lambda home: (home / "samples.parquet").write_bytes(b"PAR1"), "sha256 differs"),
        (lambda home: edit(home, lambda card: card.update(robust_accuracy=0.7)), "their numbers differ"),
        (lambda home: edit(home, lambda card: card.update(n=9)), "their numbers differ"),
        (lambda home: (home / "card.json").unlink(), "no card at"),
    ],
)
def test_records_that_are_not_the_cards_are_refused(tmp_path: Path, harm: Callable[[Path], Any], message: str) -> None:
    good, bad = (evaluated(tmp_path / name, [True] * 5 + [False] * 5) for name in ("good", "bad"))
    harm(bad)
    with pytest.raises(BadInput, match=message):
        check_regression(good, bad)
    with pytest.raises(BadInput, match=message):
        compare_rows(bad, good)


def test_a_row_twice_in_the_clean_pass_is_refused(tmp_path: Path) -> None:
    clean = attempt("clean", "", [0, 1, 1, 2], [False] * 4)
    with pytest.raises(BadInput, match="their numbers differ"):
        read_outcomes(written(tmp_path, [clean]) / "card.json")


# Comparisons.


def test_two_models_on_the_same_samples(tmp_path: Path) -> None:
    """T40's pair, b = 10 and c = 2: 24 of 40 against 32 of 40, exact p = 0.0386."""
    a = evaluated(tmp_path / "a", [True] * 22 + [True] * 2 + [False] * 16, name="weak", digest="a" * 64)
    b = evaluated(tmp_path / "b", [True] * 22 + [False] * 2 + [True] * 10 + [False] * 6, name="strong", digest="b" * 64)
    found = compare_rows(a, b / "card.json")
    assert (found.only_a, found.only_b, found.n, found.winner, found.needed) == (2, 10, 40, "B", None)
    assert found.p == pytest.approx(0.0386, abs=1e-4)
    assert found.difference == 0.2
    assert found.interval[0] < 0.2 < found.interval[1]
    text = render(found)
    assert "B (strong) beats A (weak) by 20.0 points of robust accuracy" in text
    assert "only A is right on 2 samples, only B on 10" in text
    back = compare_rows(b, a)
    assert (back.winner, back.p, back.difference) == ("A", found.p, -0.2)
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert "A (strong) beats B (weak) by 20.0 points" in render(back)
    assert compare_rows(a, b, "clean").difference == 0


def test_what_is_not_settled_says_what_would_settle_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flags = rng.random(500) < 0.5
    other = flags.copy()
    other[np.flatnonzero(flags)[:12]] = False
    other[np.flatnonzero(~flags)[:18]] = True
    a, b = evaluated(tmp_path / "a", flags), evaluated(tmp_path / "b", other, digest="b" * 64)
    found = compare_rows(a, b)
    assert found.winner is None
    assert found.needed == pytest.approx(7.849 * 0.06 / 0.012**2 + 2 / 0.012, rel=0.01)
    assert "Not settled: B less A is +1.2 points" in render(found)
    assert f"About {found.needed:,.0f} samples would settle it" in render(found)
    same = compare_rows(a, evaluated(tmp_path / "c", flags))
    assert (same.p, same.winner, same.needed) == (1, None, None)
    assert "right on exactly the same samples" in render(same)
    assert "A and B are the same model" in render(same)
    other[np.flatnonzero(flags)[:18]] = False
    equal = compare_rows(a, evaluated(tmp_path / "d", other))
    assert "no number of samples is known to settle it" in render(equal)


def seeds(home: Path, name: str, shares: Sequence[float], rng: np.random.Generator) -> Path:
    for number, share in enumerate(shares):
        digest = f"{name}{number}".ljust(64, "0")
        evaluated(
            home / name / f"s{number}" / "fast-1", rng.random(400) < share, name=name, digest=digest, training_seed=number
        )
    return home / name


def test_seeds_are_not_pooled(tmp_path: Path) -> None:
    """1,200 images in all would settle ten points many times over; three seeds that vary as much do not."""
    rng = np.random.default_rng(0)
    a, b = seeds(tmp_path, "a", [0.3, 0.5, 0.7], rng), seeds(tmp_path, "b", [0.4, 0.6, 0.8], rng)
    found = compare_rows(a, b)
    assert found.winner is None
    assert (found.only_a, found.only_b) == (None, None)
    assert found.interval[0] < -0.1 < 0.3 < found.interval[1]
    assert found.p is not None
    assert found.p > 0.3
    assert found.needed is not None
    assert found.needed > 10
    assert found.b.sd == pytest.approx(np.std(found.b.accuracies, ddof=1))
    assert (found.b.mean, found.b.lowest) == (np.mean(found.b.accuracies), min(found.b.accuracies))
    assert found.a.seeds == ("0", "1", "2")
    assert "seeds on either side would settle it" in render(found)
    steady = seeds(tmp_path, "c", [0.9, 0.9, 0.9], rng), seeds(tmp_path, "d", [0.7, 0.7, 0.7], rng)
    settled = compare_rows(*steady)
    assert settled.winner == "A"
    assert "A (c) beats B (d)" in render(settled)


def test_a_single_seed_does_not_speak_for_its_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = compare_rows(seeds(tmp_path, "a", [0.2], rng), seeds(tmp_path, "b", [0.8, 0.8, 0.8], rng))
    assert found.winner is None
    assert found.p is None
    assert "A has one seed" in render(found)


def test_a_pattern_names_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = seeds(tmp_path, "a", [0.5, 0.5], np.random.default_rng(0))
    evaluated(a / "s0" / "smoke-1", [True] * 400, digest="9" * 64, name="other")
    with pytest.raises(BadInput, match=r"3 cards at .* differ in more than the seed, in their names: a, other"):
        compare_rows(a, a)
    for start in (tmp_path, Path()):
        monkeypatch.chdir(tmp_path)
        assert len(compare_rows(f"{start}/a/*/fast-*", a / "s0" / "fast-1").a.cards) == 2
    shutil.copytree(a / "s0" / "fast-1", a / "s1" / "fast-2")
    with pytest.raises(BadInput, match="are of the same model, and attacked again it is no other training"):
        compare_rows(f"{a}/*/fast-*", a / "s0" / "fast-1")


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "data set": ({"dataset": "cifar10"}, "other data sets: mnist against cifar10"),
    "split": ({"data": {"split": "all", "digest": DIGEST, "source": "s"}}, "other splits: test against all"),
    "threat": ({"threat": {"norm": "linf", "eps": "1/10"}}, "other threat models: linf 0.3 against linf 0.1"),
    "norm": ({"threat": {"norm": "l2", "eps": "3/10"}}, "other threat models"),
    "samples": ({"data": {"split": "test", "digest": "e" * 64, "source": "s"}}, "other samples"),
    "plan": (
        {"plan": PLANS["fast"].resolved(ThreatModel.parse("linf", "0.3")).model_dump()},
        "other plans: smoke .* against fast",
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    change, message = DIFFERENT[what]
    a, b = evaluated(tmp_path / "a", [True] * 10), evaluated(tmp_path / "b", [True] * 10, **change)
    for command in (["compare", a, b], ["check", "--baseline", a, "--candidate", b],
                    ["check", "--baseline", a, "--candidate", b, "--metric", "seconds"]):  # fmt: skip
        code, out, err = call(capsys, monkeypatch, *command)
        assert (code, out) == (2, "")
        assert re.search(message, err)
        assert "Traceback" not in err


@pytest.mark.parametrize("where", ["code", "files"])
def test_attacks_that_came_with_other_code_or_files_are_other_attacks(tmp_path: Path, where: str) -> None:
    """A plan names what a plug-in and a file hold, and does not hold it."""
    standing = np.arange(40) % 2 == 0
    name = "attack zigzag" if where == "code" else "attack transfer sources"
    first = evaluated(tmp_path / "a", standing, **{where: {name: "1" * 64}})
    same = evaluated(tmp_path / "b", ~standing, digest="b" * 64, **{where: {name: "1" * 64, "defense mine": "3" * 64}})
    other = evaluated(tmp_path / "c", ~standing, digest="c" * 64, **{where: {name: "2" * 64}})
    compare_rows(first, same)
    check_regression(first, same)
    for refuse in (compare_rows, check_regression):
        with pytest.raises(
            BadInput, match=f"other {where.removesuffix('s')} of {name}, under one name; evaluate both with the same"
        ):
            refuse(first, other)
    cards = [read_card(folder / "card.json") for folder in (first, same, other)]
    one, another, third = sections(cards)
    assert one == another != third


def test_other_averages_over_answers_are_no_fair_fight(tmp_path: Path) -> None:
    standing = np.arange(40) % 2 == 0
    strong, weak = (evaluated(tmp_path / str(eot), standing, eot=eot) for eot in (20, 1))
    other = evaluated(tmp_path / "other", standing, digest="b" * 64, eot=5)
    plain = evaluated(tmp_path / "plain", standing, digest="c" * 64)
    for one, two in ((strong, weak), (weak, strong), (strong, other)):
        with pytest.raises(BadInput, match=r"other answers averaged for attacks \(--eot\)"):
            check_regression(one, two)
    # One that repeats itself needs no average.
    assert any("eot" in note for note in check_regression(strong, plain).notes)


def test_attacks_on_one_network_are_no_seeds_of_its_training(tmp_path: Path) -> None:
    for seed in (0, 1):
        evaluated(tmp_path / "a" / str(seed), np.arange(40) % 2 == 0, seed=0)
        evaluated(tmp_path / "b" / str(seed), np.arange(40) % 2 == 0, seed=seed)
    with pytest.raises(BadInput, match="of the same model, and attacked again it is no other training"):
        compare_rows(tmp_path / "a", tmp_path / "b")
    with pytest.raises(BadInput, match="differ in more than the seed, in their seeds of the evaluation"):
        compare_rows(tmp_path / "b", tmp_path / "a")


def test_a_pattern_against_itself_says_that_its_models_are_shared(tmp_path: Path) -> None:
    for seed in range(3):
        evaluated(tmp_path / str(seed), np.arange(40) % (seed + 2) == 0, digest=str(seed) * 64, training_seed=seed)
    found = compare_rows(tmp_path, tmp_path)
    assert (found.difference, found.winner) == (0, None)
    assert "A and B share 3 models, and the test takes all of theirs for independent" in found.notes


def test_where_samples_are_what_is_open_no_seeds_are_asked_for(tmp_path: Path) -> None:
    """Five seeds that agree on a difference of four points, on few samples that mostly differ."""
    for seed in range(5):
        for side, least in (("a", 100), ("b", 108 + seed % 2)):
            chosen = np.random.default_rng([seed, least]).permutation(200) < least
            evaluated(tmp_path / side / str(seed), chosen, digest=f"{side}{seed}" * 32, training_seed=seed, name=side)
    found = compare_rows(tmp_path / "a", tmp_path / "b")
    assert found.p is not None
    assert found.p < 0.05
    assert found.winner is None
    text = render(found)
    assert "what is open is the samples, so more seeds would not settle it: evaluate on more samples" in text
    assert "seeds on either side would settle" not in text
    assert "the interval adds what the samples leave open" in text


def test_other_samples_are_named_by_number_id_and_label(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", [True] * 10)
    with pytest.raises(BadInput, match="other numbers of samples: 10 against 12"):
        check_regression(a, evaluated(tmp_path / "more", [True] * 12))
    ids = np.arange(1, 11)
    moved = written(tmp_path / "ids", [attempt("clean", "", ids, [False] * 10), attempt("pgd-20", "r", ids, [False] * 10)])
    with pytest.raises(BadInput, match="other ids or labels"):
        check_regression(a, moved)


def test_a_plan_that_a_defense_extended_compares_but_does_not_gate(tmp_path: Path) -> None:
    longer = PLAN.extended([{"attack": "pgd", "name": "adaptive"}]).model_dump()
    a, b = evaluated(tmp_path / "a", [True] * 10), evaluated(tmp_path / "b", [True] * 10, plan=longer)
    assert "B was also attacked with adaptive" in render(compare_rows(a, b))
    with pytest.raises(BadInput, match="other plans"):
        check_regression(a, b)


def test_nothing_measured_is_told(tmp_path: Path) -> None:
    """An attack that was left out must not look like robustness."""
    a, b = evaluated(tmp_path / "a", [True] * 10), evaluated(tmp_path / "b", [True] * 10)
    edit(b, lambda card: card["attacks"][0].update(attempted=0))
    with pytest.raises(BadInput, match="the candidate measured nothing"):
        check_regression(a, b)
    assert not check_regression(a, b, "clean").regression
    edit(b, lambda card: card["attacks"][0].update(notes=["left out: too few classes"]))
    with pytest.raises(BadInput, match="other attacks left out: none against pgd-20"):
        check_regression(a, b)
    edit(a, lambda card: card.update(n=0))
    with pytest.raises(BadInput, match="n: "):
        check_regression(a, b)


# The gate.


def test_an_answer_that_depends_on_the_batch_is_told(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path / "a", np.arange(100) < 60), evaluated(tmp_path / "b", np.arange(100) < 60, digest="b" * 64)
    assert not any("in its batch" in note for note in check_regression(a, b).notes)
    edit(b, lambda card: card.update(batch_dependent=True))
    assert (
        "the candidate: the answer to an image depends on the others in its batch, and so does the number"
        in check_regression(a, b).notes
    )


def test_what_a_card_warns_of_is_told_wherever_it_is_compared(tmp_path: Path) -> None:
    plain, warned = (evaluated(tmp_path / name, [True] * 20, warnings=told) for name, told in (("a", ()), ("b", ("weak",))))
    assert "A: warning: weak" in compare_rows(warned, plain).notes
    assert "the candidate: warning: weak" in check_regression(plain, warned).notes
    assert not [note for note in check_regression(plain, plain).notes if "warning" in note]


def test_the_gate_names_what_was_lost(tmp_path: Path) -> None:
    was = np.arange(100) < 60
    now = (np.arange(100) >= 30) & (np.arange(100) < 62)
    a, b = evaluated(tmp_path / "a", was), evaluated(tmp_path / "b", now, digest="b" * 64, seed=3)
    found = check_regression(a, b)
    assert found.regression
    assert (found.lost, found.won) == (tuple(range(30)), (60, 61))
    assert found.p == pytest.approx(sum([1, 32, 496]) / 2**32)
    assert found.drop == pytest.approx(0.28)
    assert found.interval is not None
    assert found.interval[0] < 0.28 < found.interval[1]
    assert "seed of the evaluation: 0 for the baseline, 3 for the candidate" in found.notes
    text = told(found)
    assert text.startswith("regression: robust accuracy fell by 28.00 points, from 60.0% to 32.0% on 100 samples\n")
    assert "b = 30, won c = 2" in text
    assert "18, 19 and 10 more" in text
    assert json.loads(found.to_json())["b"] == 30
    assert not check_regression(b, a).regression
    assert not check_regression(a, b, tolerance=0.28).regression
    assert check_regression(a, b, tolerance=0.1).regression
    assert not check_regression(a, b, alpha=1e-8).regression


def test_the_same_outcomes_are_fine(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", np.arange(50) < 20)
    found = check_regression(a, a)
    assert (found.regression, found.p, found.drop, found.lost) == (False, 1, 0, ())
    assert "the same model" in told(found)
    nothing = evaluated(tmp_path / "zero", [False] * 10)
    assert "no drop could have been seen" in told(check_regression(nothing, nothing))
    few = evaluated(tmp_path / "few", [True] * 5 + [False] * 95)
    lost = check_regression(few, evaluated(tmp_path / "lost", [False] * 100))
    assert not lost.regression
    assert "no drop could have failed: were all 5 samples lost that the baseline is right on, p would be 0.031" in told(lost)
    six = evaluated(tmp_path / "six", [True] * 6 + [False] * 94)
    found = check_regression(six, evaluated(tmp_path / "gone", [False] * 100))
    assert found.regression
    assert "no drop could have failed" not in told(found)
    assert "or a smaller tolerance" in told(check_regression(six, six, tolerance=0.05))


def test_an_older_card_is_a_baseline_too(tmp_path: Path) -> None:
    def age(card: dict[str, Any]) -> None:
        card["schema_version"] = 2
        for key in ("additions", "eight_bit_accuracy", "diagnosis"):
            del card[key]

    old = edit(evaluated(tmp_path / "old", [True] * 10), age)
    assert not check_regression(old, evaluated(tmp_path / "new", [True] * 10)).regression


def test_seconds_are_a_plain_threshold(tmp_path: Path) -> None:
    a, b = (
        evaluated(tmp_path / "a", [True] * 5, seconds=10.0),
        evaluated(tmp_path / "b", [True] * 5, seconds=14.0, device="gpu"),
    )
    (a / "samples.parquet").unlink()
    slow = check_regression(a, b, "seconds", tolerance=0.3)
    assert slow.regression
    assert slow.drop == pytest.approx(0.4)
    assert "10.0 to 14.0 seconds, 40.0% slower" in told(slow)
    assert "a plain threshold, not a test" in told(slow)
    assert "device: cpu for the baseline, gpu for the candidate" in told(slow)
    assert not check_regression(a, b, "seconds", tolerance=0.5).regression
    with pytest.raises(BadInput, match="measured nothing"):
        check_regression(a, edit(b, lambda card: card.update(seconds=0.0)), "seconds")


RUNS, N, DROP = 100, 2000, 40


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.005, 0.01])
def test_two_points_on_two_thousand_samples(tmp_path: Path, noise: float) -> None:
    """Found in 99 of 100 runs, where as many samples flip either way besides; and 5 false alarms at most without a drop."""
    rng = np.random.default_rng(0)
    was = rng.random(N) < 0.5
    baseline, candidate = (evaluated(tmp_path / name, was) for name in ("baseline", "candidate"))
    rows = pd.read_parquet(candidate / "samples.parquet")

    def regressed(drop: int) -> bool:
        now = was.copy()
        now[rng.permutation(np.flatnonzero(was))[: drop + rng.binomial(N, noise)]] = False
        now[rng.permutation(np.flatnonzero(~was))[: rng.binomial(N, noise)]] = True
        rows.loc[N:, "broken"] = ~now
        rows.to_parquet(candidate / "samples.parquet", index=False)
        digest = sha256(candidate / "samples.parquet")
        edit(candidate, lambda card: (card["records"].update(sha256=digest), card.update(robust_accuracy=now.mean())))
        return check_regression(baseline, candidate).regression

    assert sum(regressed(DROP) for _ in range(RUNS)) >= 99
    assert sum(regressed(0) for _ in range(RUNS)) <= 5


def test_exit_codes_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    a, b = evaluated(tmp_path / "a", [True] * 40), evaluated(tmp_path / "b", [False] * 20 + [True] * 20, name='x"<&>\x1b|`')
    files = ["--junit", tmp_path / "gate.xml", "--summary", tmp_path / "gate.md"]
    expected = [((a, a), 0, "fine"), ((a, b), 1, "regression"), ((a, tmp_path / "none"), 2, "nothing measured")]
    for (first, second), code, word in expected:
        found, out, err = call(capsys, monkeypatch, "check", "--baseline", first, "--candidate", second, *files)
        assert found == code
        assert (word in out) == (code < 2)
        assert ("no card at" in err) == (code == 2)
        suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
        assert [int(suite.attrib[key]) for key in ("tests", "failures", "errors")] == [1, code == 1, code == 2]
        assert [part.tag for part in suite[0]] == [["system-out"], ["failure"], ["error"]][code]
        assert f"## Gauntlet: {word}" in (tmp_path / "gate.md").read_text()
    assert page.read_text().startswith("before\n## Gauntlet: fine")
    assert page.read_text().count("## Gauntlet") == 3
    assert r"x\"" not in page.read_text()
    assert 'x"&lt;&amp;&gt;?\\|\\`' in page.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "where"))
    code, out, err = call(capsys, monkeypatch, "check", "--baseline", a, "--candidate", a, "--json")
    assert code == 0
    assert json.loads(out)["regression"] is False
    assert "warning: no summary on the page of the job" in err


@given(st.text())
def test_any_name_can_be_told(name: str) -> None:
    """Whatever a card is called: one line of Markdown without live syntax, and XML that parses."""
    line = escaped(name)
    assert line.isprintable()
    assert not re.search(r"(?<!\\)(\\\\)*([<>|`*\[]|(?<![^\W_])_)", line)
    document = ElementTree.fromstring(junit(BadInput(name), name))
    assert document.find(".//error") is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "0"], "alpha 0.0"),
        (["--alpha", "nan"], "alpha nan"),
        (["--tolerance", "1"], "tolerance 1.0"),
        (["--tolerance", "-0.1"], "tolerance -0.1"),
        (["--metric", "robsut"], "did you mean 'robust'?"),
    ],
)
def test_misuse_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    a = evaluated(tmp_path / "a", [True] * 4)
    code, _, err = call(capsys, monkeypatch, "check", "--baseline", a, "--candidate", a, *options)
    assert code == 2
    assert message in err
    evaluated(tmp_path / "b", [True] * 4)
    with pytest.raises(BadInput, match="holds 2 cards"):
        check_regression(tmp_path, a)


def test_compare_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    a = evaluated(tmp_path / "a", [True] * 4)
    code, out, _ = call(capsys, monkeypatch, "compare", a, a, "--json")
    assert code == 0
    assert json.loads(out)["p"] == 1
    assert call(capsys, monkeypatch, "compare", a, a, "--metric", "speed")[0] == 2


# Rank bands.


def row(flags: np.ndarray, samples: str = "x", records: bool = True) -> Row:
    return Row((float(flags.mean()),), len(flags), samples, flags[None] if records else None)


def test_bands_are_as_narrow_as_the_samples_allow() -> None:
    """Paired, 60 against 45 of 100 with the 45 among them is settled; as independent samples it is not."""
    index = np.arange(100)
    flags = [index < 60, index < 45, (index < 44) | (index == 60)]
    assert rank_bands([row(flag) for flag in flags]) == [(1, 1), (2, 3), (2, 3)]
    assert rank_bands([row(flag, records=False) for flag in flags]) == [(1, 3)] * 3
    assert rank_bands([row(flag, str(place)) for place, flag in enumerate(flags)]) == [(1, 3)] * 3
    mixed = rank_bands([row(flags[0]), row(flags[1]), row(flags[2], records=False)])
    assert mixed == [(1, 2), (2, 3), (1, 3)]


def test_many_pairs_ask_for_more() -> None:
    """Eleven against one is p = 0.0063: enough for one pair, and not among 15."""
    index = np.arange(100)
    first, second = index < 60, (index < 49) | (index == 99)
    assert rank_bands([row(first), row(second)]) == [(1, 1), (2, 2)]
    others = [(index < 55) | ((index > 59 + place) & (index < 61 + place)) for place in range(4)]
    assert rank_bands([row(flag) for flag in (first, second, *others)])[0] == (1, 6)


@pytest.mark.parametrize(("seeds", "others"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 3)])
def test_copies_of_a_row_are_no_further_evidence(seeds: int, others: int) -> None:
    """Four samples apart leave two models open, and so they do however often the same outcomes are counted as seeds."""
    index = np.arange(100)
    flags = [np.stack([part] * count) for part, count in ((index < 60, seeds), (index < 56, others))]
    rows = [Row(tuple(part.mean(1).tolist()), 100, "x", part) for part in flags]
    assert rank_bands(rows) == [(1, 2), (1, 2)]


@pytest.mark.parametrize("count", [2, 3])
def test_without_a_difference_the_bands_of_several_seeds_are_open(count: int) -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        hard = rng.random(300)
        flags = [np.stack([hard + 0.3 * rng.random(300) < 0.6 for _ in range(seeds)]) for seeds in (count, count, 1)]
        rows = [Row(tuple(part.mean(1).tolist()), 300, "x", part) for part in flags]
        wrong += rank_bands(rows) != [(1, 3)] * 3
    assert wrong / 200 <= 0.05 + 0.02


@given(st.lists(st.lists(st.booleans(), min_size=30, max_size=30), min_size=1, max_size=6), st.randoms())
def test_a_band_holds_its_row_whatever_the_order(table: list[list[bool]], random: Any) -> None:
    rows = [row(np.array(flags)) for flags in table]
    bands = rank_bands(rows)
    for place, (best, worst) in zip(rows, bands, strict=True):
        above = sum(other.shares > place.shares for other in rows)
        level = sum(other.shares == place.shares for other in rows)
        assert 1 <= best <= above + 1 <= above + level <= worst <= len(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert rank_bands([rows[place] for place in order]) == [bands[place] for place in order]


def test_without_a_difference_the_bands_are_open() -> None:
    """Five models that are equally good: at most one leaderboard in twenty says that one is better than another."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        hard = rng.random(300)
        rows = [row(hard + 0.3 * rng.random(300) < 0.6) for _ in range(5)]
        wrong += rank_bands(rows) != [(1, 5)] * 5
    assert wrong / 200 <= 0.05 + 0.02


def test_the_leaderboard_has_bands(tmp_path: Path) -> None:
    """From the records where they are there; rows that a diagnosis doubts have none, and the bytes are always the same."""
    index = np.arange(200)
    doubt, sound = ({"verdict": verdict, "n": 10, "findings": [], "seconds": 1.0} for verdict in ("suspicious", "ok"))
    for name, flags, more in (
        ("first", index < 100, sound), ("second", (index < 96) | (index > 196), sound), ("third", index < 60, sound),
        ("doubted", index < 180, doubt),
    ):  # fmt: skip
        evaluated(tmp_path / name, flags, name=name, digest=name.ljust(64, "0"), diagnosis=more)
    write_leaderboard(tmp_path, ["csv", "md"])
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("defense")["rank"].to_dict()
    assert table == {"first": "1-2", "second": "1-2", "third": "3", "doubted": "-"}
    page = (tmp_path / "leaderboard.md").read_text()
    assert "exact McNemar for every pair, 5 % for all pairs together (Holm)\n" in page
    write_leaderboard(tmp_path, ["md"])
    assert (tmp_path / "leaderboard.md").read_text() == page
    records = tmp_path / "third" / "samples.parquet"
    # Another file in the place of the records is no file that is missing: the row is left out, and somebody is told.
    records.write_bytes(b"")
    _, refused = write_leaderboard(tmp_path, ["md"])
    assert len(refused) == 1
    assert "third/card.json contradicts itself: " in refused[0]
    assert "| third " not in (tmp_path / "leaderboard.md").read_text()
    records.unlink()
    write_leaderboard(tmp_path, ["md"])
    assert "3 of 3 rows lack records on the samples of the others" in (tmp_path / "leaderboard.md").read_text()
    # Without records at all the frame still has ranks, from the proportions alone.
    plain = leaderboard(tmp_path).set_index("defense")["rank"].to_dict()
    assert plain == {"first": "1-2", "second": "1-2", "third": "3", "doubted": "-"}


def test_two_hundred_rows_are_ranked_at_once() -> None:
    """19,900 pairs over 10,000 samples, as matrices; the first row is above all, the last below all."""
    rng = np.random.default_rng(0)
    hard = rng.random(10_000)
    rows = [row(hard < 0.9 - 0.004 * place) for place in range(200)]
    assert rank_bands(rows) == [(place + 1, place + 1) for place in range(200)]


def test_the_page_of_a_check_without_a_loss(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", [True] * 4)
    assert "| baseline | mine | 100.00% |" in markdown(check_regression(a, a))
    assert "details" not in markdown(check_regression(a, a))


@pytest.mark.parametrize("verdict", ["suspicious", "broken"])
def test_what_is_doubted_beats_nothing_and_passes_no_gate(tmp_path: Path, verdict: str) -> None:
    """A gate that hidden gradients open is none."""
    diagnosis = {"verdict": verdict, "n": 40, "findings": (), "seconds": 0.0}
    sound = evaluated(tmp_path / "sound", np.arange(40) % 2 == 0)
    hidden = evaluated(tmp_path / "hidden", np.arange(40) >= 0, digest="b" * 64, diagnosis=diagnosis)
    found = compare_rows(sound, hidden)
    assert (found.winner, found.doubted) == (None, True)
    assert "what hides from attacks beats nobody" in render(found)
    assert any(f"B: the verdict on its number is {verdict}" in note for note in found.notes)
    assert compare_rows(sound, hidden, "clean").doubted is False
    with pytest.raises(BadInput, match=f"the candidate: the verdict on its number is {verdict}"):
        check_regression(sound, hidden)
    # A drop is one all the same where the baseline is doubted as much or more.
    assert check_regression(hidden, sound).regression


# Which rows are one.


def test_of_copies_of_a_row_the_one_that_most_is_known_against_stands(tmp_path: Path) -> None:
    """Whatever they are called: a copy that was not diagnosed, or from before it was lowered, hid the verdict or the number."""
    high, low = np.arange(40) % 2 == 0, np.arange(40) % 4 == 0
    plain, lowered = (read_card(evaluated(tmp_path / str(len(f.nonzero()[0])), f) / "card.json") for f in (high, low))
    broken = plain.model_copy(update={"diagnosis": Diagnosis(verdict="broken", n=40, findings=(), seconds=0.0)})
    for cards in ([plain, lowered], [plain, broken], [lowered, broken], [plain, lowered, broken]):
        for order in (cards, cards[::-1]):
            (kept,) = best_of_each_model(order)
            assert order[kept] is cards[-1]


def test_a_seed_that_is_there_twice_is_no_further_seed(tmp_path: Path) -> None:
    """Two trainings of one seed, as two kinds of processors make them, are two rows and not two seeds of one."""
    cards = []
    for digest, seed, standing in (("a", 0, 20), ("b", 1, 20), ("c", 1, 10)):
        folder = evaluated(tmp_path / digest, np.arange(40) < standing, digest=digest * 64, training_seed=seed)
        cards.append(read_card(folder / "card.json"))
    assert methods(cards) == [[0, 2], [1]]
    assert methods(cards[:2]) == [[0, 1]]
