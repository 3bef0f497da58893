"""How a command line is read: nothing that somebody wrote is left out without a word."""

from __future__ import annotations

from collections import Counter

import typer
from typer.core import TyperCommand, TyperOption


class Command(TyperCommand):
    """A command that refuses an option with two values, of which the last alone would count."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """The arguments that are left; misuse where an option that takes one value is there more than once."""
        _, _, order = self.make_parser(ctx).parse_args(args=[*args])
        for option, times in Counter(order).items():
            if times > 1 and isinstance(option, TyperOption) and not (option.multiple or option.is_flag):
                told = f"it is given {times} times, and one value counts; give it once, and call again for another."
                raise typer.BadParameter(told, ctx=ctx, param=option)
        return super().parse_args(ctx, args)
