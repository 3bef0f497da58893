"""`gauntlet list NAME`: parameters with their meaning, and the defaults that a training or an attack really has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.catalogue import catalogue
from bench.cli.details import in_short, meaning, of_attack, of_defense
from bench.errors import UnknownName
from bench.plugins import registry
from bench.training import recipe

EVERY = [*registry.defense_names(), *registry.broken_names()]


def cells(text: str) -> dict[str, dict[str, str]]:
    """The rows of all tables in a text, by name: its columns by their headers."""
    found: dict[str, dict[str, str]] = {}
    starts: list[tuple[str, int]] = []
    for line in text.splitlines():
        if re.match(r"(name|parameter)\s+default", line):
            starts = [(word[0].strip(), word.start()) for word in re.finditer(r"\S+( \S+)*", line)]
        elif starts and line and not line.startswith(("-", " ")):
            ends = [start for _, start in starts[1:]] + [None]
            row = {head: line[start:end].strip() for (head, start), end in zip(starts, ends, strict=True)}
            found[row.get("name", row.get("parameter", ""))] = row
        elif not line:
            starts = []
    return found


@pytest.mark.parametrize("name", EVERY)
def test_every_field_says_what_it_is(name: str) -> None:
    cls = registry.get_defense(name)
    assert not [field for field in cls.hyper_parameters() if not meaning(cls, field)]


def test_every_option_of_a_training_says_what_it_is() -> None:
    assert not [field for field in recipe.Recipe.__pydantic_fields__ if not meaning(recipe.Recipe, field)]


@pytest.mark.parametrize("name", registry.defense_names())
@pytest.mark.parametrize("key", list(recipe.BASE))
def test_what_is_shown_is_what_a_training_gets(name: str, key: str) -> None:
    shown = cells(of_defense(name))
    defense, chosen, model = recipe.configure(name, key, recipe.family_of(key), {})
    for owner in (defense, chosen):
        for field in type(owner).__pydantic_fields__:
            row, value = shown[field], getattr(owner, field)
            told = row["default"] if row[key] == "." else row[key]
            if told == "None" and value is not None:  # what the number of classes decides
                assert getattr(registry.make_defense(name, {}).for_classes(10), field) == value
            elif isinstance(value, float):
                assert float(told) == pytest.approx(value, rel=1e-3), field
            elif isinstance(value, (bool, int, type(None))):
                assert told == str(value), field
            elif isinstance(value, tuple):
                assert tuple(float(part) for part in told.split(",") if part) == pytest.approx(value, rel=1e-3), field
            else:
                assert told == re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", value), field
    if model:
        assert f"{model} ({key})" in of_defense(name)


def test_the_list_of_defenses_has_the_hyper_parameters_of_each() -> None:
    assert in_short("fast_at") == "step=1.25, box_start=True (mnist: False)"
    listed = " ".join(catalogue("defenses").split())
    for name in registry.defense_names():
        assert " ".join(in_short(name).split()) in listed, name


@pytest.mark.parametrize("name", registry.attack_names())
def test_attacks_show_their_parameters(name: str) -> None:
    text, attack = of_attack(name), registry.get_attack(name)
    assert attack.about in text
    assert list(cells(text)) == list(attack.parameters)


def test_choices_and_bounds_are_told() -> None:
    shown = cells(of_attack("pgd"))
    assert shown["steps"]["takes"] == "whole number >= 1"
    assert shown["decay"]["takes"] == "none | cosine | halving"
    assert shown["cycles"]["takes"] == "true | false"


def test_catalogue_knows_names_and_corrects_them() -> None:
    assert catalogue("trades") == of_defense("trades")
    assert catalogue("square") == of_attack("square")
    assert "svhn" in catalogue("fast_at")
    with pytest.raises(UnknownName, match="did you mean 'fast_at'"):
        catalogue("fastat")


@pytest.mark.parametrize(("name", "kind"), [("mnist", "datasets"), ("lenet", "models"), ("smoke", "plans")])
def test_anything_else_is_shown_in_its_table(name: str, kind: str) -> None:
    assert name in catalogue(name)
    assert catalogue(name) == catalogue(kind)
    with pytest.raises(UnknownName, match=f"did you mean '{name}'"):
        catalogue(name[:-1])


@pytest.mark.slow
def test_a_defense_typed_at_a_prompt_is_known_and_shown(tmp_path: Path) -> None:
    """Its source is out of reach; registering it must not need it."""
    typed = "\n".join((
        "from bench.cli.details import of_defense",
        "from bench.defense import Defense, defense",
        "@defense('typed')", "class Typed(Defense):", "    '''One typed.'''", "    k: int = 3", "    '''Lost.'''",
        "print(of_defense('typed'))",
    ))  # fmt: skip
    shown = subprocess.run([sys.executable, "-c", typed], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert cells(shown.stdout)["k"]["default"] == "3"


def test_what_has_no_fields_says_so_and_what_a_library_has_is_its() -> None:
    assert "\n\nnone\n\n" in of_defense("standard")
    assert registry.owner("attack", "torchattacks:PGD") == "torchattacks"
