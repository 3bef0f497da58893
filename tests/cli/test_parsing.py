"""Nothing that somebody wrote on the command line is left out without a word."""

from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperOption
from typer.main import get_command

from bench.cli.commands import app


def commands(group: typer.core.TyperGroup, path: str = "") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_with_one_value_is_given_once(name: str) -> None:
    options = [option for option in COMMANDS[name].params if isinstance(option, TyperOption)]
    for option in options:
        if option.is_flag or option.multiple:
            continue
        with pytest.raises(typer.BadParameter, match="it is given 2 times") as told:
            COMMANDS[name].make_context(name, [option.opts[0], "1", f"{option.opts[0]}=2"])
        assert told.value.param is option


def test_all_commands_were_looked_at() -> None:
    assert {"train", "board", "plan show", "measure", "accept", "report", "new defense"} <= COMMANDS.keys()


def test_flags_and_lists_may_be_repeated() -> None:
    line = ["--quiet", "--quiet", "--set", "step=1", "--set", "epochs=1"]
    context = COMMANDS["train"].make_context("train", ["fast_at", *line])
    assert context.params["setting"] == ["step=1", "epochs=1"]
