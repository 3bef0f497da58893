"""Presets that no data set would look up are told, before anything is trained with other settings than were meant."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.data import CLASSES
from bench.errors import PluginWarning, UnknownName
from bench.plugins import Defense, get_defense
from bench.plugins.registry import _defenses, _owners, defense, defense_names
from bench.training import configure, misplaced


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A way to register a defense with these presets, undone afterwards."""
    get_defense("standard")
    monkeypatch.setattr("bench.plugins.registry._defenses", {**_defenses})
    monkeypatch.setattr("bench.plugins.registry._owners", {**_owners})

    def register(presets: Mapping[str, Mapping[str, Any]]) -> str:
        made = type("Preset", (Defense,), {"__annotations__": {"scale": "float"}, "scale": 1.0, "presets": presets})
        defense("preset")(made)
        return "preset"

    return register


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("Digits", "digits"), ("MNIST", "mnist"), ("cifar-10", "cifar10"), ("CIFAR 100", "cifar100"),
        ("Fashion-MNIST", "fashion_mnist"), ("Default", "default"), ("Cifar", "cifar"), ("SVHN", "svhn"),
    ],
)  # fmt: skip
def test_a_name_spelt_otherwise_is_refused(registered: Any, key: str, meant: str) -> None:
    name = registered({key: {"scale": 0.5}})
    with pytest.raises(UnknownName, match=f"unknown data set in the presets of 'preset' '{key}': did you mean '{meant}'"):
        configure(name, "digits", "digits", {})


def test_a_name_like_a_known_one_is_told(registered: Any) -> None:
    name = registered({"minst": {"scale": 0.5}})
    with pytest.warns(PluginWarning, match="for 'minst' are used for a data set of just that name; did you mean 'mnist'"):
        configure(name, "digits", "digits", {})


def test_presets_for_data_of_ones_own_are_used(registered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flowers").mkdir()
    name = registered(
        {"mine.npz": {"scale": 0.25}, "data/birds": {"scale": 0.125}, "flowers": {"scale": 0.5}, "cifar": {"scale": 2.0}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", PluginWarning)
        for dataset, scale in (("mine.npz", 0.25), ("data/birds", 0.125), ("flowers", 0.5), ("svhn", 2.0), ("other.npz", 2.0)):
            made, _, _ = configure(name, dataset, "cifar", {})
            assert made.scale == scale


@pytest.mark.parametrize("key", ["digits", "mnist", "default", "mine.npz"])
def test_a_setting_misspelt_in_any_preset_is_refused(registered: Any, key: str) -> None:
    name = registered({key: {"scael": 0.5}})
    with pytest.raises(UnknownName, match="unknown setting of 'preset' in its presets 'scael': did you mean 'scale'"):
        configure(name, "digits", "digits", {})


def test_ours_are_all_looked_up() -> None:
    assert not [key for name in defense_names() for key in misplaced(get_defense(name))]
    assert set(CLASSES) >= {"digits", "cifar10"}
