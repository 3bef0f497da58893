"""A leaderboard as a table of a paper: booktabs, best in bold, as wide as a two-column page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from bench.escape import latex as escaped
from bench.report.board import Method, Part
from bench.report.columns import column_of

CHOSEN = ("defense", "rank", "clean", "robust", "sd", "95% interval", "certified", "verdict", "train passes")
"""Columns of a table that fits; others by name."""
_SETTLED = {"rank": "down", "robust": "up", "clean": "up", "certified": "up"}
"""Columns whose best is bold, among rows whose number is not doubted."""


def latex(part: Part, caption: str, columns: Sequence[str] = ()) -> str:
    """A whole table environment."""
    shown = [name for name in columns or CHOSEN if name in part.columns]
    bold = {name: _best(part, name) for name in shown if _SETTLED.get(name) == "up"}
    heads = " & ".join(r"$\pm$ sd" if name == "sd" else escaped(column_of(name).head) for name in shown)
    lines = [" & ".join(_cell(method, name, bold) for name in shown) + r" \\" for method in part.methods]
    kinds = "".join("r" if column_of(name).numeric else "l" for name in shown)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escaped(caption)}. Bold: the best number that is not in doubt.}}", rf"\label{{tab:{part.key}}}",
            rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule", heads + r" \\", r"\midrule", *lines, r"\bottomrule",
            r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def _best(part: Part, name: str) -> float | None:
    values = [_number(m.cells.get(name)) for m in part.methods if m.cells["verdict"] in ("", "ok")]
    return max((value for value in values if value is not None), default=None)


def _cell(method: Method, name: str, bold: dict[str, float | None]) -> str:
    value = method.cells.get(name, "")
    number = _number(value)
    if isinstance(value, float):
        if number is None:
            return "--"
        text = f"{number:.1f}"
        sound = method.cells["verdict"] in ("", "ok")
        return rf"\textbf{{{text}}}" if sound and bold.get(name) is not None and text == f"{bold[name]:.1f}" else text
    text = str(value)
    apart = str(method.cells["differs in"]) if name == "defense" else ""
    shown = text.replace("-", "--") if name in ("95% interval", "rank") else text
    return escaped((shown + (f" ({apart})" if apart else ""))[:60]) or "--"


def _number(value: object) -> float | None:
    return value if isinstance(value, float) and not isnan(value) else None
