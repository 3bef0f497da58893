"""Texts of strangers for those who read them: one function for each reader. Each gives a single line that can only be read.

What a card, a plan or a file calls something is anybody's: a terminal obeys escape sequences, a spreadsheet formulas, TeX
commands, and a page tags. No text of ours needs any of them, so what is plain stays as it is.
"""

from __future__ import annotations

import html as standard
import re


def line(text: object) -> str:
    """One line for a terminal: control characters, breaks, marks that turn the direction and lone surrogates are "?"."""
    told = str(text)
    return told if told.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in told)


def lines(text: object) -> str:
    """The same of a text whose line breaks are ours."""
    return "\n".join(map(line, str(text).split("\n")))


_MARKS = re.compile(r"[\\`*{}\[\]#|~$]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown, its tables and its extensions act on anywhere in a line; "_" inside a word is plain."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
"""Some dialects know no backslash before these."""
_FIRST = re.compile(r"^(\d+(?=[.)](\s|$))|(?=[-+=].))")
"""Where a line becomes a list, a heading or a rule."""


def markdown(text: object) -> str:
    """A line of a page or a cell of a table."""
    marked = _MARKS.sub(lambda found: "\\" + found[0], line(text).strip(" "))
    return _FIRST.sub(r"\g<0>\\", re.sub("[&<>]", lambda found: _ENTITIES[found[0]], marked))


_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r])")
"""How a formula begins, in wide letters too, and also where a spreadsheet splits at semicolons."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def csv(text: object) -> str:
    """A cell that a spreadsheet takes for text; numbers, and the dash of what is not there, stay as they are."""
    told = str(text)
    plain = told == "-" or _NUMBER.fullmatch(told)
    return line(told if plain else _FORMULA.sub(r"\1'", told))


_COMMANDS = str.maketrans(
    {
        "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "^": r"\^{}",
        "~": r"\textasciitilde{}", "\\": r"\textbackslash{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}", "·": "--",
    }
)  # fmt: skip


def latex(text: object) -> str:
    """Text of a document, captions included; tabulate does as much for the cells of a table."""
    return line(text).translate(_COMMANDS)


def html(text: object) -> str:
    """Text of an element or an attribute."""
    return standard.escape(line(text))
