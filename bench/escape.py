"""Texts of strangers for those who read them: one function for each reader. Each gives a single line that can only be read.

What a card, a plan or a file calls something is anybody's: a terminal obeys escape sequences, a spreadsheet formulas, TeX
commands, and a page tags. No text of ours needs any of them, so what is plain stays as it is.
"""

from __future__ import annotations

import html as standard
import re

_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters that Unicode calls printable and that show nothing, or only change what stands before them."""


def line(text: object) -> str:
    """One line for a terminal: control characters, breaks, marks that turn the direction, lone surrogates and letters that are
    printable and not seen are "?"."""
    told = str(text)
    if told.isascii() and told.isprintable():
        return told
    return "".join("?" if not letter.isprintable() or _BLANK.match(letter) else letter for letter in told)


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
