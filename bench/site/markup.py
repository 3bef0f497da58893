"""From values to pages: templates that escape everything, and the cells of tables."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from math import isnan

import jinja2
from markupsafe import Markup

from bench.escape import line as plain
from bench.pictures import NUMBERED, Figure, draw
from bench.report import Cells, Method, Part, Row, column_of, method_name
from bench.site import words
from bench.site.documents import page_of
from bench.wording import count_of

FIRST = ("defense", "rank", "robust", "sd", "95% interval", "clean")
LAST = ("certified", "8-bit", "verdict", "proof", "collapse", "train passes", "seeds", "n", "model")
UNSHOWN = ("differs in", "notes")
"""Columns that stand elsewhere: beside the name, and on the page of the row."""


@cache
def environment() -> jinja2.Environment:
    """The templates of this package; what they are handed is text."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.site", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    found.filters |= {
        "percent": percent,
        "short": short,
        "thousands": thousands,
        "tidy": tidy,
        "counted": words.counted,
        "count_of": count_of,
    }
    found.globals |= {
        "column_of": column_of, "method_name": method_name, "arm": arm, "chip": chip, "line": line, "seed_line": seed_line,
        "anchor": anchor, "page_of": page_of,
    }  # fmt: skip
    return found


def asset(name: str) -> str:
    """A style sheet or script of the package."""
    return (files("bench.site") / "assets" / name).read_text(encoding="utf-8")


def drawn(figure: Figure | None) -> Markup:
    """A picture as a part of a page; it is escaped where it is drawn."""
    return Markup(draw(figure)) if figure else Markup("")


def short(text: object, most: int = 80) -> str:
    """A line of at most so many characters; strangers' names are cut, not the page."""
    told = plain(text)
    return told if len(told) <= most else told[: most - 1] + "…"


def percent(value: object) -> str:
    """A percentage with one decimal; nothing for nothing."""
    return "" if _absent(value) else f"{float(str(value)):.1f}"


def thousands(value: object) -> str:
    """A count with separators."""
    return f"{int(str(value)):,}"


def tidy(value: object) -> str:
    """A number of three digits or so."""
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def anchor(name: str) -> str:
    """Where the glossary speaks of a column; attacks share a place."""
    known = column_of(name).meaning
    return "attacks" if known.startswith("Percent that ") else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def columns(part: Part) -> list[str]:
    """The columns of a page, what matters most first."""
    ours = {*FIRST, *LAST, *UNSHOWN, "seed"}
    attacks = [name for name in part.columns if name not in ours]
    if len(attacks) == 1 and all(method.cells[attacks[0]] == method.cells["robust"] for method in part.methods):
        attacks = []
    return [name for name in (*FIRST, *attacks, *LAST) if name in part.columns]


def line(part: Part, method: Method, number: int) -> Markup:
    """The line of a method, with the number that its mark has in a narrow picture."""
    name, apart = short(method.cells["defense"], 60), short(method.cells["differs in"], 120)
    several = len(method.rows) > 1
    first = Markup("<td{}{}>{}{}</td>").format(
        Markup(' data-no="{}"').format(number) if number <= NUMBERED else "",
        Markup(' data-v="{} ({})"').format(name, apart) if apart else "",
        Markup('<a href="../row/{}.html">{}</a>').format(method.key, name),
        Markup(' <span class="soft">{}</span>').format(apart) if apart else "",
    )
    rest = Markup("").join(_cell(column, method.cells, method) for column in columns(part)[1:])
    return Markup("<tr{}>{}{}</tr>").format(Markup(' class="several"') if several else "", first, rest)


def seed_line(part: Part, row: Row) -> Markup:
    """The line of one seed of a method."""
    name = short(row.cells["defense"], 60)
    first = Markup('<td data-v="{}"><a href="../row/{}.html">seed {}</a></td>').format(name, row.key, row.cells["seed"])
    rest = Markup("").join(_cell(column, row.cells, row) for column in columns(part)[1:])
    return Markup('<tr class="seed" data-row="{}">{}{}</tr>').format(row.key, first, rest)


def _cell(column: str, cells: Cells, of: Method | Row) -> Markup:
    value = cells.get(column, "")
    if _absent(value):
        return Markup("<td></td>")
    if column == "95% interval":
        return Markup('<td class="r arm">{}{}</td>').format(str(value).replace("-", "\u2013"), arm(cells))
    if column == "verdict":
        return Markup("<td>{}</td>").format(chip(value))
    if column == "proof":
        first = of.rows[0] if isinstance(of, Method) else of
        return Markup('<td><a href="../row/{}.html#proof">{}</a></td>').format(first.key, value)
    if isinstance(value, float):
        return _number(column, value)
    return Markup("<td{}>{}</td>").format(Markup(' class="r"') if column_of(column).numeric else "", short(value, 60))


def _number(column: str, value: float) -> Markup:
    """A percentage, with the value of the leaderboard's files behind it where one decimal is not all of it."""
    shown, exact = f"{value:.1f}", f"{value:.2f}"
    behind = Markup(' data-v="{}"').format(exact) if float(shown) != float(exact) else ""
    inner = Markup("<b>{}</b>").format(shown) if column == "robust" else shown
    return Markup('<td class="r"{}>{}</td>').format(behind, inner)


def arm(cells: Cells) -> Markup:
    """An interval as a bar from 0 to 100 %, its value as a dot."""
    low, _, high = str(cells["95% interval"]).partition("-")
    if not high:
        return Markup("")
    return Markup('<svg viewBox="0 0 100 12"><path d="M{} 6H{}"/><circle cx="{}" cy="6" r="4"/></svg>').format(
        low, high, f"{float(str(cells['robust'])):.1f}"
    )


def chip(verdict: object) -> Markup:
    """A verdict with its lamp, which also differs in shape."""
    kind = str(verdict) if verdict in ("ok", "suspicious", "broken", "constant") else "none"
    return Markup('<span class="chip {}">{}</span>').format(kind, verdict or "none")


def _absent(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and isnan(value))
