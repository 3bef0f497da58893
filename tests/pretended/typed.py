"""The commands that can be typed."""

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand, TyperOption
from typer.main import get_command

from bench.cli.commands import app


def _below(group: Any, before: str) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = dict(_below(get_command(app), ""))
"""By their names, such as "plan show"."""


def options(name: str) -> list[TyperOption]:
    """Of a command."""
    return [option for option in COMMANDS[name].params if isinstance(option, TyperOption)]
