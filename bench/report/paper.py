"""A leaderboard as a table of a paper: booktabs, best in bold, as wide as a two-column page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isnan

from bench.escape import latex as escaped
from bench.report.columns import column_of
from bench.report.tables import DOUBTED

CHOSEN = ("rank", "defense", "seeds", "clean", "robust", "sd", "95% interval", "certified", "verdict", "train passes")
"""Columns of a table that fits; others by name."""
_BOLD = ("clean", "robust", "certified")
"""Columns whose best is bold, among rows whose number is not doubted."""
_LONGEST = 40
"""Characters of a text in a cell."""


def latex(
    lines: Sequence[Mapping[str, object]], known: Collection[str], caption: str, label: str, columns: Sequence[str] = CHOSEN
) -> str:
    """A whole table environment of lines of a leaderboard; known: the columns that say something."""
    shown = [name for name in columns if name in known]
    best = {name: _best(lines, name) for name in shown if name in _BOLD}
    heads = " & ".join(r"$\pm$ sd" if name == "sd" else escaped(column_of(name).head) for name in shown)
    rows = [" & ".join(_cell(line, name, best) for name in shown) + r" \\" for line in lines]
    kinds = "".join("r" if column_of(name).numeric else "l" for name in shown)
    bold = " Bold: the best number that is not in doubt." if len(lines) > 1 else ""
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escaped(caption)}.{bold}}}", rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule", heads + r" \\", r"\midrule", *rows, r"\bottomrule",
            r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def samples(lines: Sequence[Mapping[str, object]]) -> str:
    """What a caption says of n."""
    counts = sorted({int(str(line["n"])) for line in lines})
    n = f"n = {counts[0]:,}" if len(counts) == 1 else f"n from {counts[0]:,} to {counts[-1]:,}"
    return f"{n} test images; accuracies in percent"


def _sound(line: Mapping[str, object]) -> bool:
    return line.get("verdict", "") not in DOUBTED


def _best(lines: Sequence[Mapping[str, object]], name: str) -> float | None:
    values = [_number(line.get(name)) for line in lines if _sound(line)]
    return max((value for value in values if value is not None), default=None)


def _cell(line: Mapping[str, object], name: str, best: Mapping[str, float | None]) -> str:
    value = line.get(name, "")
    if isinstance(value, float):
        number = _number(value)
        text = "--" if number is None else f"{number:.1f}"
        top = best.get(name)
        return rf"\textbf{{{text}}}" if top is not None and _sound(line) and text == f"{top:.1f}" else text
    text, apart = str(value), str(line.get("differs in", "")) if name == "defense" else ""
    text += f" ({apart})" if apart else ""
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    text = escaped(text)
    return (text.replace("-", "--") if name in ("95% interval", "rank") and text != "-" else text) or "--"


def _number(value: object) -> float | None:
    return value if isinstance(value, float) and not isnan(value) else None
