"""The leaderboard is a pure function of the cards."""

import csv
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import escape
from bench.cli.options import tell
from bench.compare import sections
from bench.compare.pairs import compare_rows
from bench.core.threat import ThreatModel
from bench.errors import BadInput, GauntletError
from bench.plans.built_in import PLANS, load
from bench.plans.plan import Plan
from bench.plugins.registry import get_attack
from bench.report.entries import Entry, read_entries
from bench.report.pages import FORMATS, read_skips, render, summary, write_leaderboard
from bench.report.tables import leaderboard
from bench.results.card import Card, read_card
from bench.results.outcomes import Outcomes
from bench.runs.jobs import skip
from bench.statistics.proportions import wilson
from bench.training.request import TrainingRequest
from bench.verify.cards import verify_cards
from bench.verify.loading import Given

LINF = ThreatModel.parse("linf", "0.3")


def card(name: str, robust: float, **changes: Any) -> Card:
    """A card that does not contradict itself, whose numbers are chosen here; its records are not there."""
    n = changes.pop("n", 1000)
    clean, plan = round(0.98 * n), PLANS["smoke"].resolved(LINF)
    shares = {"pgd-20": robust + 0.01, "square": robust}
    attacks = [
        {
            "name": spec.label, "attack": spec.attack, "parameters": {}, "on": "all", "n": n, "attempted": clean, "broken": 0,
            "robust_accuracy": shares[spec.label], "interval": wilson(round(shares[spec.label] * n), n), "grid": None,
            "restarts": [], "forwards": 1.0, "backwards": 1.0, "seconds": 1.0, "notes": [],
        }
        for spec in plan.attacks
    ]  # fmt: skip
    file = {"file": "x", "sha256": "0", "rows": clean - round(robust * n)}
    content = {
        "name": name, "dataset": "mnist", "threat": {"norm": "linf", "eps": "0.3"}, "n": n, "clean_accuracy": clean / n,
        "clean_interval": wilson(clean, n), "robust_accuracy": robust, "interval": wilson(round(robust * n), n),
        "attacks": attacks, "plan": plan.model_dump(), "plan_digest": plan.digest, "seed": 0,
        "model": {
            "reference": "r", "arch": "mnist_fast", "digest": name, "defense": name, "settings": {},
            "training": {"seed": 0, "collapse_epoch": None, "backwards_per_sample": 20.0},
        },
        "data": {"split": "test", "digest": "0", "source": "s"}, "records": file, "archive": file, "seconds": 5.0,
        "device": "cpu", "versions": {}, "notes": [],
    }  # fmt: skip
    return Card.model_validate({**content, **changes})


def entries(*cards: Card) -> list[Entry]:
    return [Entry(card, Path(card.name), None) for card in cards]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for made in (card("weak", 0.1), card("strong <b>&_%", 0.8), card("l2", 0.5, threat={"norm": "l2", "eps": "1.5"})):
        made.save(tmp_path / "mnist" / made.model.digest[:2] / "card.json")
    return tmp_path


def test_the_same_cards_give_the_same_bytes(results: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """T43, also when the cards were written elsewhere, in another order and by another run."""
    write_leaderboard(results, FORMATS)
    other = tmp_path_factory.mktemp("other")
    for path in sorted(results.rglob("card.json"), reverse=True):
        copy = json.loads(path.read_text())
        copy["seconds"], copy["attacks"][0]["seconds"] = 99.0, 42.0
        target = other / path.relative_to(results)
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(copy))
    write_leaderboard(other, FORMATS)
    for form in FORMATS:
        first = (results / f"leaderboard.{form}").read_bytes()
        assert first == (other / f"leaderboard.{form}").read_bytes()
        write_leaderboard(results, [form])
        assert first == (results / f"leaderboard.{form}").read_bytes()


def test_golden_markdown() -> None:
    assert render(entries(card("weak", 0.1), card("strong", 0.8)), "md") == (
        "# Leaderboard\n\n## mnist · linf 0.3 · plan smoke\n\n"
        "|   rank | defense   | model      |    n |   clean |   pgd-20 |   square |   robust | 95% interval   | collapse   "
        "|   train passes | proof   |\n"
        "|--------|-----------|------------|------|---------|----------|----------|----------|----------------|------------"
        "|----------------|---------|\n"
        "|      1 | strong    | mnist_fast | 1000 |    98.0 |     81.0 |     80.0 |     80.0 | 77.4-82.4      | no         "
        "|             20 | stated  |\n"
        "|      2 | weak      | mnist_fast | 1000 |    98.0 |     11.0 |     10.0 |     10.0 | 8.3-12.0       | no         "
        "|             20 | stated  |\n"
        "\n"
        "rank: the places that the samples leave open; exact McNemar for every pair, 5 % for all pairs together (Holm); "
        "2 of 2 rows lack records on the samples of the others, so they count as independent samples there\n"
        "\n"
        "proof: audited, where the board's maintainer also attacked some samples again; proved, where records and examples lie "
        "beside the card and agree with it (`gauntlet verify` judges them by the model); stated, where the number is the card's "
        "word alone\n"
        "\n"
        "Accuracies in percent over n test samples. robust: right on the clean image and against every attack of the plan, "
        "per sample; the interval is Wilson's. train passes: backward passes per training sample. "
        "collapse and train passes are stated by the card; no example proves them.\n"
    )


def test_csv_and_pandas_agree(results: Path) -> None:
    write_leaderboard(results, ["csv"])
    with (results / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["threat"], row["defense"], row["robust"]) for row in rows] == [
        ("l2 1.5", "l2", "50.00"), ("linf 0.3", "strong <b>&_%", "80.00"), ("linf 0.3", "weak", "10.00"),
    ]  # fmt: skip
    table = leaderboard(results)
    assert isinstance(table, pd.DataFrame)
    assert table.robust.tolist() == [50.0, 80.0, 10.0]


def test_names_are_escaped(results: Path) -> None:
    write_leaderboard(results, ["html", "tex"])
    page = (results / "leaderboard.html").read_text()
    assert "strong &lt;b&gt;&amp;_%" in page
    assert "<b>" not in page
    assert r"\&\_\%" in (results / "leaderboard.tex").read_text()


def test_a_damaged_card_is_left_out_by_name_and_the_rest_is_ranked(results: Path) -> None:
    (results / "mnist" / "bad").mkdir()
    (results / "mnist" / "bad" / "card.json").write_text("{")
    found, refused = read_entries([results])
    assert len(found) == 3
    assert len(refused) == 1
    assert "bad" in refused[0]
    assert "not JSON" in refused[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"n": "many"}, "n: "),
        ({"robust_accuracy": None}, "robust_accuracy"),
        ({"surprise": 1}, "surprise"),
        ({"model.training": {"seed": [1, 2]}}, "seed = .* is no number of a training"),
        ({"model.training": {"backwards_per_sample": "20 | 30"}}, "backwards_per_sample = .* is no number of a training"),
        ({"model.training": {"collapse_epoch": True}}, "collapse_epoch"),
        ({"model.training": {"seed": 10**30}}, "seed"),
        ({"model.settings": {"epochs": "x" * 5000}}, "'epochs' is no setting"),
        ({"model.settings": {"k" * 101: 1}}, "is no setting"),
    ],
)
def test_cards_of_another_kind_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(card("x", 0.5).to_json())
    for key, value in change.items():
        place, _, last = key.rpartition(".")
        (content[place] if place else content)[last] = value
    (tmp_path / "card.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        read_card(tmp_path / "card.json")


def test_a_skipped_defense_says_why(results: Path) -> None:
    skip("it only knows linf", TrainingRequest(defense="noise_fgsm", norm="l2", eps="1.5"), results)
    made = card("pgd_at", 0.5, dataset="digits", threat={"norm": "l2", "eps": "1.5"})
    made.save(results / "digits" / "card.json")
    for form in ("md", "html"):
        write_leaderboard(results, [form])
        assert "noise_fgsm skipped: it only knows linf" in (results / f"leaderboard.{form}").read_text()


def test_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no cards below"):
        write_leaderboard(tmp_path, ["md"])
    with pytest.raises(BadInput, match="no results folder"):
        write_leaderboard(tmp_path / "none", ["md"])


def test_wilson_against_tabulated_values() -> None:
    """T40: 8 of 10."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[attacks]]\natack = "pgd"', "did you mean 'attack'"),
        ('[[attacks]]\nattack = "pdg"', "did you mean 'pgd'"),
        ('[[attacks]]\nattack = "pgd"\nparameters = { stps = 3 }', "did you mean 'steps'"),
        ('[[attacks]]\nattack = "pgd"\nparameters = { steps = 0 }', "steps = 0"),
        ('[[attacks]]\nattack = "pgd"\ngrid = { step = [] }', "has no values"),
        ('[[attacks]]\nattack = "pgd"\nrestarts = 0', "restarts"),
        ('[[attacks]]\nattack = "autoattack"\nrestarts = 2', "brings its own restarts"),
        ('naem = "x"\n[[attacks]]\nattack = "pgd"', "did you mean 'name'"),
        ("attacks = []", "at least 1"),
        ("attacks = 3", "attacks"),
        ("= x", "not TOML"),
    ],
)
def test_bad_plans_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(GauntletError, match=message):
        load(str(path)).resolved(LINF)


@pytest.mark.parametrize("optional", ["", "optional = true"])
def test_a_plan_knows_what_it_cannot_do(tmp_path: Path, optional: str) -> None:
    """Not even an optional attack is left out where nothing else is there."""
    (tmp_path / "mine.toml").write_text(f'[[attacks]]\nattack = "rays"\n{optional}')
    with pytest.raises(BadInput, match="works in linf, not in l1"):
        load(str(tmp_path / "mine.toml")).resolved(ThreatModel.parse("l1", "5"))


def test_an_optional_attack_is_left_out_where_it_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[[attacks]]\nattack = "pgd"\n[[attacks]]\nattack = "rays"\noptional = true')
    (tmp_path / "strict.toml").write_text('[[attacks]]\nattack = "pgd"\n[[attacks]]\nattack = "rays"')
    mine, strict = (load(str(tmp_path / f"{name}.toml")) for name in ("mine", "strict"))
    assert [spec.attack for spec in mine.resolved(ThreatModel.parse("l1", "5")).attacks] == ["pgd"]
    with pytest.raises(BadInput, match="works in linf, not in l1"):
        strict.resolved(ThreatModel.parse("l1", "5"))
    # Where both run the same attacks, they are the same evaluation.
    assert mine.resolved(LINF).digest == strict.resolved(LINF).digest


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", PLANS)
def test_built_in_plans_leave_out_only_what_does_not_exist(name: str, norm: str) -> None:
    resolved = PLANS[name].resolved(ThreatModel.parse(norm, "0.3"))
    left = [spec.label for spec in resolved.attacks]
    assert left == [
        spec.label for spec in PLANS[name].attacks if spec.attack == "portfolio" or norm in get_attack(spec.attack).norms
    ]
    assert Plan.model_validate_json(resolved.model_dump_json()) == resolved


@pytest.mark.parametrize("name", PLANS)
def test_built_in_plans_resolve_and_their_digest_is_of_what_runs(name: str) -> None:
    resolved = PLANS[name].resolved(LINF)
    assert resolved.digest == PLANS[name].resolved(LINF).digest
    attacks = [arm for spec in resolved.attacks for arm in getattr(spec, "arms", [spec])]
    assert all(arm.parameters or arm.attack == "fgsm" for arm in attacks)
    changed = resolved.model_copy(update={"attacks": resolved.attacks[:1]})
    assert (changed.digest == resolved.digest) == (len(resolved.attacks) == 1)
    assert resolved.model_copy(update={"about": "other words"}).digest == resolved.digest


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"collapse_epoch": None, "single_step_gap": 0.1}, "no"),
        ({"collapse_epoch": 8, "single_step_gap": 0.1}, "8"),
        ({"collapse_epoch": None, "single_step_gap": 0.9}, "masked"),
        ({}, ""),
    ],
)
def test_a_training_that_withstands_single_steps_only_is_told(training: dict[str, Any], told: str) -> None:
    made = card("x", 0.5)
    model = made.model.model_copy(update={"training": training})
    assert str(leaderboard(entries(made.model_copy(update={"model": model}))).collapse[0]) == told


def test_attacks_of_every_plan_stand_between_clean_and_robust() -> None:
    first, second = card("one", 0.1), card("two", 0.2)
    other = second.attacks[0].model_copy(update={"name": "rays"})
    columns = list(leaderboard(entries(first, second.model_copy(update={"attacks": (other,)}))).columns)
    assert columns[columns.index("clean") + 1 : columns.index("robust")] == ["pgd-20", "square", "rays"]


def answering(share: float) -> dict[str, Any]:
    return {"answers": {"label": 0, "share": share, "elsewhere": share}}


def test_a_constant_network_never_stands_above_one_that_classifies() -> None:
    """Not even above one that is broken: it has robust accuracy of a kind, and the other recognises images."""
    broken, sound = (
        {"diagnosis": {"verdict": verdict, "n": 100, "findings": [], "seconds": 1.0}} for verdict in ("broken", "ok")
    )
    cards = [
        card("constant", 0.11, **answering(1.0)), card("almost", 0.2, **answering(0.93)),
        card("weak", 0.003, **answering(0.3), **sound),
        card("told", 0.9, **answering(1.0), **broken), card("broken", 0.001, **broken),
        card("tied", 0.01, batch_dependent=True),
    ]  # fmt: skip
    table = leaderboard(entries(*cards))
    assert list(table["defense"]) == ["weak", "broken", "tied", "told", "almost", "constant"]
    assert list(table["rank"]) == ["1", "-", "-", "-", "-", "-"]
    assert list(table["verdict"]) == ["ok", "broken", "not comparable", "broken", "constant", "constant"]
    assert "constant: one class is answered to (almost) every image, whatever it shows; no rank" in render(
        entries(*cards), "md"
    )
    assert "constant:" not in render(entries(card("weak", 0.003, **answering(0.3))), "md")


def test_warnings_stand_below_their_table_and_on_the_terminal(tmp_path: Path) -> None:
    made = card("x", 0.5, warnings=["no pixel is brighter than 0.1"])
    other = card("y", 0.5, threat={"norm": "l2", "eps": "1"})
    told = "x: warning: no pixel is brighter than 0.1"
    for form in ("md", "html", "text"):
        text = render(entries(made, other), form)
        assert text.count(told) == 1
    data = made.data.model_copy(update={"taken": "5 of 9: the classes take turns"})
    text = summary([(made.model_copy(update={"data": data}), tmp_path)])
    assert told in text
    assert "samples: 5 of 9: the classes take turns" in text


def test_a_doubtful_row_never_stands_above_a_sound_one() -> None:
    def diagnosed(verdict: str) -> dict[str, Any]:
        return {"diagnosis": {"verdict": verdict, "n": 100, "findings": [], "seconds": 1.0}}

    cards = [
        card("broken", 0.9, **diagnosed("broken")), card("suspicious", 0.8, **diagnosed("suspicious")),
        card("sound", 0.3, **diagnosed("ok")), card("undiagnosed", 0.5),
    ]  # fmt: skip
    table = leaderboard(entries(*cards))
    assert list(table["defense"]) == ["sound", "undiagnosed", "suspicious", "broken"]
    assert list(table["verdict"]) == ["ok", "", "suspicious", "broken"]
    assert list(table["rank"]) == ["1", "-", "-", "-"]
    assert "rank: 1 without a verdict have none beside rows that have one; gauntlet diagnose" in render(entries(*cards), "md")
    # Where nobody has looked at any, they rank among themselves.
    assert list(leaderboard(entries(card("a", 0.5), card("b", 0.3)))["rank"]) == ["1", "2"]


def test_a_method_with_a_seed_that_nobody_looked_at_has_no_verdict() -> None:
    sound = {"verdict": "ok", "n": 100, "findings": [], "seconds": 1.0}
    looked = Card.model_validate(trained(0, 0.7).model_dump() | {"diagnosis": sound})
    other = Card.model_validate(card("other", 0.3).model_dump() | {"diagnosis": sound})
    table = leaderboard(entries(looked, trained(1, 0.8), other)).set_index("defense")
    assert table["rank"].to_dict() == {"fast_at": "-", "other": "1"}
    assert table["verdict"].to_dict() == {"fast_at": "", "other": "ok"}


def trained(seed: int, robust: float, name: str = "fast_at", **settings: Any) -> Card:
    """One seed of a training."""
    made = card(name, robust)
    training = {"seed": seed, "collapse_epoch": None, "backwards_per_sample": 20.0, "threat": "linf 0.3"}
    model = {"digest": f"{name} {seed} {settings}", "settings": {"epochs": 10, **settings}, "training": training}
    return made.model_copy(update={"model": made.model.model_copy(update=model)})


def test_seeds_of_a_training_are_one_row_that_unfolds() -> None:
    rows = entries(trained(0, 0.784), trained(1, 0.791), trained(2, 0.595), card("other", 0.5))
    table = leaderboard(rows)
    assert table["seeds"].tolist() == [3, 1]
    assert table["robust"].tolist() == pytest.approx([72.333, 50.0], abs=1e-3)
    assert table["sd"][0] == pytest.approx(11.120, abs=1e-3)
    # Three seeds that differ as much do not settle a difference of 22 points from a single seed.
    assert table["rank"].tolist() == ["1-2", "1-2"]
    each = leaderboard(rows, by="seed")
    assert each["robust"].tolist() == pytest.approx([79.1, 78.4, 59.5, 50.0])
    page = render(rows, "md")
    assert "plan smoke · each seed" in page
    assert page.count("| fast_at") == 4


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_several_seeds_claim_no_more_than_their_samples_show(share: float) -> None:
    """Every draw of seeds and samples of which none stands says 0, with any number of samples."""
    n, rows = 1000, []
    flags = np.arange(n) < share * n
    for seed in range(3):
        made = trained(seed, min(share, 0.9))
        ids = np.arange(n)
        rows.append(Entry(made, Path(made.name), Outcomes(made, Path(made.name), ids, ids % 10, flags, flags, flags)))
    low, _, high = leaderboard(rows)["95% interval"][0].partition("-")
    widest = [100 * end for end in wilson(round(share * n), n)]
    assert float(low) <= widest[0] + 0.05
    assert float(high) >= widest[1] - 0.05


def test_rows_of_one_name_say_in_what_they_differ() -> None:
    other = trained(0, 0.4, epochs=5)
    elsewhere = {**other.model.training, "threat": "linf 0.1"}
    small = other.model_copy(update={"model": other.model.model_copy(update={"training": elsewhere, "digest": "d"})})
    table = leaderboard(entries(trained(0, 0.5), small)).set_index("robust")["differs in"]
    assert table[50.0] == "epochs 10, trained at linf 0.3"
    assert table[40.0] == "epochs 5, trained at linf 0.1"
    assert leaderboard(entries(trained(0, 0.5), trained(1, 0.6)))["differs in"].tolist() == [""]


def test_one_quick_look_is_not_a_rival_of_the_same_model(tmp_path: Path) -> None:
    card("m", 0.5).save(tmp_path / "long" / "card.json")
    card("m", 0.7, n=100).save(tmp_path / "quick" / "card.json")
    card("r", 0.4).save(tmp_path / "rival" / "card.json")
    _, left = write_leaderboard(tmp_path, ["csv"])
    assert pd.read_csv(tmp_path / "leaderboard.csv")["n"].tolist() == [1000, 1000]
    assert any("1 evaluation of a model that has one of as many or more samples" in sentence for sentence in left)
    write_leaderboard(tmp_path, ["csv"], every=True)
    assert pd.read_csv(tmp_path / "leaderboard.csv")["n"].tolist() == [100, 1000, 1000]


def test_a_row_that_contradicts_itself_is_left_out_and_named(results: Path) -> None:
    path = next(results.rglob("card.json"))
    forged = json.loads(path.read_text()) | {"robust_accuracy": 0.97}
    path.write_text(json.dumps(forged))
    _, refused = write_leaderboard(results, ["csv"])
    assert len(refused) == 1
    assert f"{path} contradicts itself: robust accuracy: " in refused[0]
    assert 97.0 not in pd.read_csv(results / "leaderboard.csv")["robust"].tolist()


@pytest.mark.parametrize("name", ["rank", "robust", "a|b", "two\nlines", "\x1b[31mred", "clean"])
def test_names_of_attacks_break_no_table(name: str) -> None:
    made = card(name, 0.5)
    odd = made.attacks[0].model_copy(update={"name": name})
    rows = entries(made.model_copy(update={"attacks": (odd, made.attacks[1])}))
    table = leaderboard(rows)
    assert table["robust"].tolist() == [50.0]
    assert table["rank"].tolist() == ["1"]
    for form in ("md", "text"):
        body = render(rows, form)
        assert "\x1b" not in body
        lines = [line for line in body.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in lines}) <= 1


def test_what_is_not_there_is_a_dash() -> None:
    first, second = card("one", 0.1), card("two", 0.2)
    other = second.attacks[0].model_copy(update={"name": "rays"})
    page = render(entries(first, second.model_copy(update={"attacks": (other,)})), "md")
    assert "nan" not in page
    assert re.search(r"\|\s+-\s*\|", page)


def test_data_are_their_content() -> None:
    """A renamed copy is the same data set; two files of one name are two."""

    def of(name: str, dataset: str, whole: str) -> Card:
        made = card(name, 0.5, dataset=dataset)
        return made.model_copy(update={"data": made.data.model_copy(update={"whole": whole})})

    same = leaderboard(entries(of("a", "./mine.npz", "1" * 64), of("b", "mine.npz", "1" * 64), of("c", "copy.npz", "1" * 64)))
    assert len(set(same["dataset"])) == 1
    two = leaderboard(entries(of("a", "mine.npz", "1" * 64), of("b", "old/mine.npz", "2" * 64)))
    assert sorted(two["dataset"]) == ["mine 11111111", "mine 22222222"]


HOSTILE = "x</td><script>a()</script> ![i](http://e/p.png) [l](javascript:a) `a`\n\n# Hi|\x1b[2J\x00\u202e _e_ {: onclick=a}"


def hostile(name: str, plan: str = "smoke", **changes: Any) -> list[Entry]:
    made = card("x", 0.5, **changes)
    odd = made.attacks[0].model_copy(update={"name": name})
    named = {"name": name, "plan": made.plan.model_copy(update={"name": plan}), "attacks": (odd, made.attacks[1])}
    return entries(made.model_copy(update=named))


def test_markdown_of_a_strangers_names_is_text() -> None:
    page = render(hostile(HOSTILE, HOSTILE, warnings=["look"]), "md")
    assert not re.search(r"[<>]", page)
    assert not re.search(r"(?<!\\)[\[\]{}]", page)
    assert next(row for row in page.splitlines() if row.startswith("#")) == "# Leaderboard"
    assert sum(row.startswith("#") for row in page.splitlines()) == 2
    assert not re.search(r"(?<!\\)\|[^\n]*Hi(?<!\\)\|", page)
    for start in ("# a", "- a", "1. a", "===", "```", "    a", "~~~", "> a", "+ a", "* a"):
        assert not re.match(r"(\s|#|-|=|`|~|>|\+|\*|\d+[.)])", escape.markdown(start)), start
    assert escape.markdown("fast_at pgd-20 (0.5 %) 8/255") == "fast_at pgd-20 (0.5 %) 8/255"


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@x", "\t=1", "\r=1", " =1", "a;=1", "\uff1d1"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str) -> None:
    text = render(hostile(name, name), "csv")
    assert "'" in escape.csv(name)
    cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
    assert not [cell for cell in cells if re.search(r"(^|;)\s*[=+\-@\uff1d]", cell) and cell != "-"]
    assert escape.csv("-0.5") == "-0.5"
    assert escape.csv("-") == "-"


def test_tex_of_a_strangers_names_runs_no_command() -> None:
    page = render(hostile(r"\input{/etc/hostname}", r"p}\input{/etc/hostname}{$^~"), "tex")
    assert "\\input" not in page
    assert r"plan p\}\textbackslash{}input\{/etc/hostname\}\{\$\^{}\textasciitilde{}" in page


@pytest.mark.parametrize("form", [*FORMATS, "text"])
def test_no_form_holds_what_steers_a_terminal(form: str) -> None:
    page = render(hostile(HOSTILE, HOSTILE, warnings=["look"]), form)
    assert all(row.isprintable() for row in page.splitlines())
    assert page.encode()
    if form == "html":
        assert "<script" not in page


def test_every_command_tells_lines_that_steer_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"{HOSTILE}\ud800\nnext")
    with pytest.raises(BadInput) as caught:
        write_leaderboard(tmp_path / "\x1b[2J", ["md"])
    tell(caught.value, err=True)
    out, err = capsys.readouterr()
    assert all(row.isprintable() for row in [*out.split("\n"), *err.split("\n")])
    assert out.endswith("next\n")
    assert "no results folder" in err


CERTIFIED = {"defense": "x", "accuracy": 0.5, "interval": [0.4, 0.6], "curve": [], "contradicted": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 10**30}, {"seed": -(10**30)}, {"eot": 10**30}, {"name": "a\ud800"}, {"dataset": "a\ud800"},
        {"dataset": "a" * 5000}, {"model": {"reference": "ckpt:" + "a" * 5000}}, {"model": {"arch": "\udfff"}},
        {"model": {"training": {"single_step_gap": "wide"}}}, {"model": {"training": {"backwards_per_sample": [1]}}},
        {"versions": {"gauntlet-bench": "\ud800"}}, {"certified": {**CERTIFIED, "n": 0}}, {"certified": {**CERTIFIED, "n": 10**400}},
        {"certified": {**CERTIFIED, "n": -5}}, {"certified": {**CERTIFIED, "n": 5, "accuracy": 1e300}},
    ],
)  # fmt: skip
def test_one_bad_card_stops_nobody(results: Path, change: dict[str, Any]) -> None:
    """Each is named with what is wrong with it; the others have their rows, and verify and compare say as much."""
    content = json.loads(card("bad", 0.4).to_json())
    for key, value in change.items():
        content[key] = {**content[key], **value} if key == "model" else value
    path = results / "mnist" / "bad" / "card.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    _, refused = write_leaderboard(results, FORMATS)
    assert len(refused) == 1
    assert refused[0].startswith(f"card {path}")
    assert len(pd.read_csv(results / "leaderboard.csv")) == 3
    found = {row.path: row.verdict for row in verify_cards([results], Given(device="cpu"), quiet=True)}
    assert found.pop(path) == "fails"
    assert len(found) == 3
    with pytest.raises(BadInput, match=re.escape(f"card {path}")):
        compare_rows(path, next(iter(found)))


def test_a_note_that_is_a_pipe_or_huge_is_passed_over(results: Path) -> None:
    os.mkfifo(results / "pipe-skipped.json")
    (results / "huge-skipped.json").write_text(json.dumps({"name": "huge", "reason": "x" * 10**6}))
    kept = {"name": "kept\ud800", "dataset": "mnist", "threat": "linf 0.3", "reason": "because"}
    (results / "kept-skipped.json").write_text(json.dumps(kept))
    (results / "link-skipped.json").symlink_to("/dev/zero")
    found: list[Any] = []
    worker = threading.Thread(target=lambda: found.append(read_skips(results)), daemon=True)
    worker.start()
    worker.join(20)
    assert found == [[{**kept, "name": "kept?"}]]
    write_leaderboard(results, ["md"])
    assert "kept? skipped: because" in (results / "leaderboard.md").read_text()


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "../up", "a/b", "x" * 101, "\u202egnp", " ", "-rf", ".hidden"])
def test_a_plan_and_its_attacks_have_safe_names(tmp_path: Path, name: str) -> None:
    """Refused where a plan is read, and in a card from elsewhere."""
    content = json.loads(card("x", 0.5).to_json())
    path = tmp_path / "card.json"
    changed = [{**content, "plan": {**content["plan"], "name": name}}]
    if name:
        spec = {**content["plan"]["attacks"][0], "name": name}
        changed.append({**content, "plan": {**content["plan"], "attacks": [spec]}})
    if name not in ("../up", "a/b", "x" * 101, "-rf", ".hidden"):
        changed.append({**content, "attacks": [{**content["attacks"][0], "name": name}]})
    for one in changed:
        path.write_text(json.dumps(one))
        with pytest.raises(BadInput, match="name: "):
            read_card(path)
    (tmp_path / "mine.toml").write_text(f'name = {json.dumps(name)}\n[[attacks]]\nattack = "pgd"')
    with pytest.raises(BadInput, match="name"):
        load(str(tmp_path / "mine.toml"))


def test_columns_of_ours_are_ours() -> None:
    made = card("x", 0.5)
    attacks = [made.attacks[0].model_copy(update={"name": name}) for name in ("rank", "rank (attack)", "threat", "robust")]
    named = {"attacks": tuple(attacks), "plan": made.plan.model_copy(update={"name": "robust"})}
    rows = entries(made.model_copy(update=named))
    table = leaderboard(rows)
    assert len(set(table.columns)) == len(table.columns)
    assert table["robust"].tolist() == [50.0]
    assert table["threat"].tolist() == ["linf 0.3"]
    assert {"rank (attack)", "rank (attack) (attack)", "threat (attack)", "robust (attack)"} <= set(table.columns)
    assert "|   robust |" in render(rows, "md")


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.3"), ("l2", "2"), ("l1", "10")])
def test_a_plan_that_borrows_a_name_has_a_section_of_its_own(norm: str, eps: str) -> None:
    threat = ThreatModel.parse(norm, eps)
    cheap, dear = (PLANS[name].resolved(threat) for name in ("smoke", "standard"))
    borrowed = cheap.model_copy(update={"name": "standard"})
    extended = dear.model_copy(update={"attacks": (*dear.attacks, *cheap.attacks)})
    about: dict[str, Any] = {"threat": {"norm": norm, "eps": eps}}
    rows = [
        card(name, 0.5, **about, plan=plan.model_dump(), plan_digest=plan.digest)
        for name, plan in (("honest", dear), ("adaptive", extended), ("forged", borrowed))
    ]
    assert [place[2] for place in sections(rows)] == ["standard", "standard", f"standard {borrowed.digest[:8]}"]
    ours = [row.model_copy(update={"plan": row.plan.model_copy(update={"name": "ours"})}) for row in rows]
    assert len({place[2] for place in sections(ours)}) == 3


def test_what_is_broken_on_purpose_stands_apart_and_is_ranked_nowhere() -> None:
    shares = {"pgd_at": 0.5, "broken_jpeg": 0.9, "trades": 0.49}
    rows = entries(*(card(name, share) for name, share in shares.items()))
    table = leaderboard(rows)
    assert list(table["defense"]) == ["pgd_at", "trades", "broken_jpeg"]
    assert list(table["plan"]) == ["smoke", "smoke", "smoke, broken on purpose"]
    assert list(table["rank"]) == ["1-2", "1-2", "-"]
    assert "plan smoke, broken on purpose" in render(rows, "text")


@pytest.mark.parametrize("spelt", ["0.30", "3/10", "3e-1", "0.3"])
def test_a_threat_is_one_value_however_it_is_spelt(spelt: str) -> None:
    assert card("x", 0.5, threat={"norm": "linf", "eps": spelt}).threat.eps == "0.3"
