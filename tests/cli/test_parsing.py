"""Nothing that somebody wrote on the command line is left out without a word."""

import pytest
import typer
from typed import COMMANDS, options


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_with_one_value_is_given_once(name: str) -> None:
    for option in options(name):
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
