"""Schedules in closed form, and what a defense is trained with."""

import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.threat import ThreatModel
from bench.errors import GauntletError
from bench.plugins.registry import defense_names, get_defense, make_defense
from bench.plugins.schedules import learning_rate, position_in_period, ramp
from bench.results.collapse import collapsed
from bench.training.recipe import configure


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("constant", {0: 1, 0.5: 1, 1: 1}),
        ("cosine", {0: 1, 0.5: 0.5, 1: 0, 0.25: (1 + math.sqrt(0.5)) / 2}),
        ("triangular:0.5", {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1: 0}),
        ("triangular:0.4", {0: 0, 0.2: 0.5, 0.4: 1, 0.7: 0.5, 1: 0}),
        ("piecewise:0.5,0.75", {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01}),
        ("periodic:0.5,1", {0: 1, 0.24: 1, 0.25: 0.1, 0.375: 0.01, 0.49: 0.01, 0.5: 1, 0.75: 0.1, 0.9: 0.01}),
    ],
)
def test_learning_rates_in_closed_form(text: str, values: dict[float, float]) -> None:
    rate = learning_rate(text)
    for progress, factor in values.items():
        assert rate(progress) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("piecewise", "write constant"),
        ("triangular:0.5,0.6", "write constant"),
        ("piecewise:0.5,0.4", "rising"),
        ("piecewise:5", "fractions"),
        ("piecewise:half", "not a list of numbers"),
        ("constant:0.5", "write constant"),
    ],
)
def test_bad_schedules_are_told(text: str, message: str) -> None:
    with pytest.raises(GauntletError, match=message):
        learning_rate(text)


@given(st.floats(0, 1, exclude_max=True))
def test_the_position_in_a_period_runs_from_zero_to_one(progress: float) -> None:
    ends = (0.5, 0.75, 1.0)
    ratio = position_in_period(progress, ends)
    assert 0 <= ratio < 1
    assert position_in_period(0.5, ends) == position_in_period(0.75, ends) == 0


def test_the_budget_of_a_period_follows_the_published_curves() -> None:
    """T25: MNIST, one period, cosine from 0 to 1.5 eps clipped at eps = 0.4: reached at r = arccos(-1/3) / pi."""
    target = ThreatModel.parse("linf", "0.4")
    cosine = make_defense("periodic_budget", {"eps_max": 1.5, "periods": (1.0,)})
    linear = make_defense("periodic_budget", {"eps_max": 2.0, "periods": (1.0,), "schedule_eps": "linear"})
    const = make_defense("periodic_budget", {"eps_max": 1.0, "periods": (1.0,), "schedule_eps": "const"})
    reach = math.acos(-1 / 3) / math.pi
    assert round(reach, 3) == 0.608
    for ratio, eps in {0: 0.0, 0.25: 0.3 * (1 - math.sqrt(0.5)), 0.5: 0.3, reach: 0.4, 0.8: 0.4, 0.999: 0.4}.items():
        assert cosine.budget(target, ratio).radius == pytest.approx(eps, abs=1e-9)
    for ratio, eps in {0: 0.0, 0.25: 0.2, 0.5: 0.4, 0.75: 0.4}.items():
        assert linear.budget(target, ratio).radius == pytest.approx(eps, abs=1e-9)
    assert {const.budget(target, ratio) for ratio in (0, 0.3, 0.99)} == {target}


def test_the_budget_starts_again_in_every_period() -> None:
    target = ThreatModel.parse("linf", "8/255")
    defense = make_defense("periodic_budget", {"schedule_eps": "linear"})
    assert [defense.budget(target, p).radius * 255 for p in (0, 0.125, 0.25, 0.4, 0.5, 0.5625, 0.74, 0.75)] == pytest.approx(
        [0, 4, 8, 8, 0, 4, 8, 0]
    )
    assert defense.snapshots() == (0.5, 0.75, 1.0)
    assert make_defense("periodic_budget", {"ensemble": False}).snapshots() == ()


@given(st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_ramps_rise_from_zero_to_one(ratio: float, kind: str) -> None:
    assert 0 <= ramp(kind, ratio) <= 1
    assert ramp(kind, 0) == 0
    assert ramp(kind, 1) == 1
    assert ramp(kind, ratio) >= ramp(kind, ratio / 2)


def test_published_defaults_reach_the_recipe() -> None:
    mnist, recipe, model = configure("pgd_at", "mnist", "mnist", {})
    assert (mnist.steps, mnist.step) == (40, pytest.approx(0.01 / 0.3))
    assert (recipe.optimizer, recipe.lr, recipe.batch_size, model) == ("adam", 1e-4, 50, "lenet?width=16")
    cifar, recipe, _ = configure("fast_at", "cifar10", "cifar", {})
    assert (cifar.step, recipe.lr, recipe.schedule, recipe.epochs) == (1.25, 0.2, "triangular:0.5", 15)
    assert configure("fast_at", "svhn", "cifar", {})[1].lr == 0.05
    assert {configure(name, "svhn", "cifar", {})[1].augment for name in defense_names()} == {"crop", "none"}
    _, recipe, model = configure("periodic_budget", "cifar10", "cifar", {"epochs": "3"})
    assert (recipe.epochs, recipe.weight_decay, recipe.craft, model) == (3, 1e-3, "eval", "resnet18?width=32")


PGI: dict[str, Any] = {
    "step": 1.0, "epochs": 110, "lr": 0.1, "schedule": f"piecewise:{100 / 110},{105 / 110}", "model": "resnet18",
}  # fmt: skip
PGK: dict[str, Any] = {"ema": 0.999, "ema_buffers": True}
TE: dict[str, Any] = {"epochs": 200, "lr": 0.1, "schedule": "piecewise:0.5,0.75", "craft": "eval", "model": "resnet18"}
PUBLISHED: list[tuple[str, str, dict[str, Any]]] = [
    ("pgd_at", "cifar10", {"steps": 10, "step": 0.25, "epochs": 200, "lr": 0.1, "schedule": "piecewise:0.5,0.75"}),
    ("pgd_at", "svhn", {"step": 1 / 8, "epochs": 200, "lr": 0.01, "schedule": "piecewise:0.5,0.75", "augment": "crop"}),
    *[
        (name, "mnist", {
            "model": "lenet?width=16", "steps": 40, "step": 1 / 30, "epochs": 83, "batch_size": 50, "lr": 1e-4,
            "schedule": "constant", "weight_decay": 0.0, "optimizer": "adam",
        })
        for name in ("pgd_at", "clean_warmup", "rfi")
    ],
    ("fgsm_at", "cifar10", {"step": 1.0, "epochs": 30, "lr": 0.2, "schedule": "triangular:0.4"}),
    ("fgsm_at", "svhn", {"epochs": 15, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,3.75"}),
    ("fast_at", "cifar10", {"step": 1.25, "epochs": 15, "lr": 0.2, "schedule": "triangular:0.5", "batch_size": 128}),
    (
        "fast_at", "mnist",
        {"step": 1.25, "box_start": False, "epochs": 10, "lr": 5e-3, "schedule": "triangular:0.4", "batch_size": 100},
    ),
    ("fast_at", "svhn", {"epochs": 15, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,3"}),
    ("free_at", "cifar10", {"replays": 8, "step": 1.0, "epochs": 10, "lr": 0.04, "schedule": "triangular:0.5"}),
    (
        "free_at", "svhn",
        {"replays": 8, "epochs": 6, "lr": 0.01, "schedule": "triangular:0.4", "eps_schedule": "linear:0,9"},
    ),
    ("gradalign", "cifar10", {"weight": 0.2, "growth": 10.0, "epochs": 30, "lr": 0.3, "schedule": "triangular:0.4"}),
    (
        "gradalign", "svhn",
        {
            "weight": 2.5, "growth": 1.6, "epochs": 15, "lr": 0.05, "schedule": "triangular:0.4",
            "eps_schedule": "linear:0,3.75",
        },
    ),
    ("n_fgsm", "cifar10", {"k": 2.0, "step": 1.0, "clip": False, "epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"}),
    ("n_fgsm", "svhn", {"epochs": 30, "lr": 0.05, "schedule": "triangular:0.4", "eps_schedule": "linear:0,6"}),
    ("zerograd", "cifar10", {"q": 0.35, "step": 2.0, "epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"}),
    ("zerograd", "cifar100", {"q": 0.45, "epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"}),
    ("zerograd", "svhn", {"q": 0.7, "epochs": 15, "lr": 0.01, "schedule": "triangular:0.4", "augment": "none"}),
    ("multigrad", "cifar10", {"points": 3, "step": 2.0, "epochs": 30, "lr": 0.2, "schedule": "triangular:0.5"}),
    ("multigrad", "svhn", {"epochs": 15, "lr": 0.01, "schedule": "triangular:0.4", "augment": "none"}),
    ("fgsm_pgi", "cifar10", {**PGI, "penalty": 10.0, "decay": 0.3, "confidence": 0.6, "reset": 40}),
    ("fgsm_pgi", "cifar100", {**PGI, "reset": 10}),
    (
        "fgsm_pgk", "cifar10",
        {**PGI, **PGK, "penalty": 5.6, "confidence": 0.5, "decay": 0.3, "reset": 10, "threshold": 0.82},
    ),
    (
        "fgsm_pgk", "cifar100",
        {**PGI, **PGK, "penalty": 1.0, "confidence": 0.8, "decay": 0.1, "reset": 40, "threshold": 0.9},
    ),
    (
        "trades", "mnist",
        {
            "steps": 40, "step": 1 / 30, "beta": 1.0, "epochs": 100, "batch_size": 128, "optimizer": "sgd", "lr": 0.01,
            "schedule": "piecewise:0.54,0.74,0.89", "weight_decay": 0.0, "craft": "eval",
        },
    ),
    (
        "trades", "cifar10",
        {
            "steps": 10, "step": 0.25, "beta": 6.0, "epochs": 110, "lr": 0.1, "weight_decay": 5e-4, "craft": "eval",
            "schedule": f"piecewise:{100 / 110},{105 / 110}",
        },
    ),
    (
        "mart", "cifar10",
        {
            "beta": 5.0, "steps": 10, "step": 7 / 31, "epochs": 120, "lr": 0.01, "weight_decay": 3.5e-3, "craft": "eval",
            "schedule": f"piecewise:{74 / 120},{89 / 120},{99 / 120}", "model": "resnet18",
        },
    ),
    ("temporal_ensembling", "cifar10", {**TE, "weight": 300.0, "keep": 0.9, "augment": "crop_flip"}),
    ("temporal_ensembling", "svhn", {**TE, "augment": "none"}),
    (
        "periodic_budget", "cifar10",
        {
            "steps": 10, "step": 0.25, "eps_max": 2.0, "periods": (0.5, 0.75, 1.0), "epochs": 200, "lr": 0.1,
            "schedule": "periodic:0.5,0.75,1", "weight_decay": 1e-3, "craft": "eval", "model": "resnet18?width=32",
        },
    ),
    (
        "periodic_budget", "mnist",
        {
            "steps": 50, "step": 0.025, "eps_max": 1.5, "periods": (1.0,), "epochs": 100, "batch_size": 128, "lr": 1e-4,
            "schedule": "constant", "optimizer": "adam", "weight_decay": 0.0, "craft": "eval", "model": "lenet",
        },
    ),
    (
        "smoothing", "cifar10",
        {
            "selection": 100, "estimation": 100_000, "alpha": 0.001, "epochs": 90, "batch_size": 400, "lr": 0.1,
            "schedule": "piecewise:0.3334,0.6667", "weight_decay": 1e-4,
        },
    ),
    (
        "ibp", "mnist",
        {
            "kappa": 0.5, "stretch": 1.1, "epochs": 200, "batch_size": 200, "optimizer": "adam", "lr": 1e-3,
            "weight_decay": 0.0, "schedule": "piecewise:0.25,0.4167",
        },
    ),
]  # fmt: skip
OWN = {
    *((name, "digits") for name in ("pgd_at", "free_at", "gradalign", "temporal_ensembling", "periodic_budget")),
    *((name, "digits") for name in ("smoothing", "ibp")),
    *((name, "mnist") for name in ("free_at", "gradalign", "mart", "temporal_ensembling")),
    *((name, "default") for name in ("trades", "mart", "temporal_ensembling", "fgsm_pgk")),
    *((name, "cifar") for name in ("standard", "noise_fgsm", "ibp")),
}
"""Presets that no source gives, and that say so where they stand."""


@pytest.mark.parametrize(("name", "dataset", "wanted"), PUBLISHED, ids=lambda value: value if isinstance(value, str) else "")
def test_published_constants(name: str, dataset: str, wanted: dict[str, Any]) -> None:
    """Those of the papers' scripts, as far as they could be read."""
    family = "mnist" if dataset == "mnist" else "cifar"
    defense, recipe, model = configure(name, dataset, family, {})
    found = {**asdict(recipe), **asdict(defense), "model": model}  # type: ignore[call-overload]
    assert {key: found[key] for key in wanted} == wanted


def test_every_preset_is_published_or_our_own() -> None:
    """And of a published one, every value is in the table."""
    rows = {(name, dataset): set(wanted) for name, dataset, wanted in PUBLISHED}
    for name in defense_names():
        own = vars(get_defense(name)).get("presets", {}) if not name.startswith("broken_") else {}
        for key, preset in own.items():
            if (name, key) not in OWN:
                assert {*preset} <= rows[name, "cifar10" if key == "cifar" else key], (name, key)
            else:
                assert (name, "cifar10" if key == "cifar" else key) not in rows, (name, key)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stpe": "1"}, "did you mean 'step'"),
        ({"epochs": "0"}, "epochs = 0"),
        ({"epochs": "many"}, "epochs = 'many'"),
        ({"step": "-1"}, "step = -1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "fp8"}, "precision = 'fp8'"),
        ({"lr": "nan"}, "lr ="),
        ({"batch_size": "1"}, "batch_size = 1"),
        ({"model": "3"}, "model = 3 is no architecture"),
        ({"ema_buffers": "true"}, "set ema, or leave it out"),
        ({"awp_warmup": "0.1"}, "set awp, or leave it out"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, str], message: str) -> None:
    with pytest.raises(GauntletError, match=message):
        configure("fast_at", "digits", "digits", settings)


def test_periods_must_rise_and_end_at_one() -> None:
    for periods in ("[0.5]", "[0.7, 0.5, 1]", "[]", "[0.5, 0.5, 1]"):
        with pytest.raises(GauntletError, match="periods"):
            configure("periodic_budget", "digits", "digits", {"periods": periods})


def history(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"fgsm": fgsm, "pgd": pgd} for fgsm, pgd in pairs]


def test_a_scripted_collapse_is_found_in_its_epoch() -> None:
    """T37: FGSM high, PGD gone; slow robust overfitting and a weak start are not collapses."""

    def found(*pairs: tuple[float, float]) -> int | None:
        return collapsed(history(*pairs), 500)

    assert found((0.4, 0.35), (0.45, 0.4), (0.8, 0.01), (0.85, 0.0)) == 2
    assert found((0.4, 0.35), (0.5, 0.4), (0.6, 0.25), (0.8, 0.1)) == 3
    assert found(*[(0.5 - 0.01 * k, 0.45 - 0.012 * k) for k in range(30)]) is None
    assert found((0.9, 0.05), (0.9, 0.05), (0.95, 0.1)) is None
    assert found((0.12, 0.1), (0.2, 0.01), (0.3, 0.0), (0.4, 0.0)) == 1
    assert found((0.3, 0.28), (0.3, 0.26), (0.35, 0.2), (0.41, 0.15), (0.4, 0.13)) == 4
    assert found((0.12, 0.1), (0.1, 0.07), (0.07, 0.03), (0.12, 0.1)) is None
    # As under a budget that has hardly begun to rise: there is nothing yet to fall from.
    assert found((0.02, 0.0), (0.05, 0.014), (0.07, 0.0), (0.5, 0.4)) is None
    # Epochs of clean images, after which FGSM is withstood by chance alone.
    assert found((0.098, 0.049), (0.07, 0.056), (0.063, 0.0), (0.34, 0.28)) is None
    assert found() is None


def test_fooled_from_the_start_is_no_collapse() -> None:
    """Single steps have to have told the truth once; a first epoch of noise is not that."""
    assert collapsed(history((0.3, 0.04), (0.4, 0.0), (0.6, 0.5)), 500) is None
    assert collapsed(history((0.52, 0.014), (0.42, 0.029), (0.78, 0.002), (0.70, 0.053), (0.78, 0.025)), 1000) is None
    # It learned to withstand several steps later, and lost that.
    assert collapsed(history((0.74, 0.06), (0.9, 0.0), (0.9, 0.5), (0.95, 0.1)), 1000) == 3


def test_what_counts_as_a_fall_depends_on_how_many_images_saw_it() -> None:
    low = history((0.09, 0.07), (0.14, 0.05), (0.19, 0.0))
    assert collapsed(low, 1000) == 2
    assert collapsed(low, 100) is None
    fewer = history((0.4, 0.3), (0.5, 0.1))
    assert collapsed(fewer, 1000) == 1
    assert collapsed(fewer, 20) is None


def test_withstanding_single_steps_is_told_from_guessing() -> None:
    """Of two classes a constant answer withstands half of all single steps; of a hundred, one in a hundred."""
    two = history((0.6, 0.5), (0.5, 0.0), (0.7, 0.0))
    assert collapsed(two, 500, classes=2) == 2
    many = history((0.08, 0.07), (0.06, 0.0))
    assert collapsed(many, 1000, classes=100) == 1
    assert collapsed(many, 1000) is None
