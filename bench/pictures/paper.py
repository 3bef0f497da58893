"""The same pictures for papers, by matplotlib: colours that the colour-blind tell apart, dashes that a grey print does."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from bench.errors import BadInput
from bench.files import atomic
from bench.pictures.figure import Axis, Bars, Chart, Curve, Figure, Heat, Mark, Pairs

FORMATS = ("pdf", "svg", "png")
TONE = ("#0a5bb5", "#d5602a", "#0b8a5f", "#a64a97", "#8a6d00", "#4a9fd0")
DASH: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
SHAPE = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "font.family": "serif", "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "pdf.fonttype": 42,
    "svg.hashsalt": "gauntlet", "svg.fonttype": "none", "axes.axisbelow": True, "savefig.dpi": 300, "text.parse_math": False,
}  # fmt: skip
_INK, _SOFT, _LINE = "#15181e", "#596170", "#dfe3ea"
_DATELESS = {"pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
"""The same rows give the same bytes."""


def save(figure: Figure, path: Path, width: float = 3.4) -> None:
    """Draw into a .pdf, .svg or .png; width in inches, 3.4 is a column of two. BadInput for another ending."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise BadInput(f"{path}: a picture ends in .{', .'.join(FORMATS)}")
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(width, _height(figure, width)), layout="constrained")
        axes = canvas.subplots()
        if isinstance(figure, Chart):
            _chart(axes, figure)
        elif isinstance(figure, Bars):
            _bars(axes, figure)
        elif isinstance(figure, Pairs):
            _pairs(axes, figure)
        else:
            _heat(axes, figure)
        content = BytesIO()
        canvas.savefig(content, format=kind, metadata=_DATELESS[kind])
    with atomic(path) as part:
        part.write_bytes(content.getvalue())


def _height(figure: Figure, width: float) -> float:
    if isinstance(figure, Chart):
        return 0.68 * width
    if isinstance(figure, Heat) and figure.fine:
        return 0.9 * width
    lines = len(figure.bars if isinstance(figure, Bars) else figure.pairs if isinstance(figure, Pairs) else figure.rows)
    return 0.6 + 0.19 * lines + (0.5 if isinstance(figure, Heat) else 0)


def _chart(axes: Any, chart: Chart) -> None:
    _scales(axes, chart.x, chart.y)
    for curve in chart.curves:
        _curve(axes, curve)
    if len(chart.curves) > 1:
        axes.legend(frameon=False, handlelength=2.4)
    for moment in chart.moments:
        colour = "#b3261e" if moment.bad else _SOFT
        axes.axvline(moment.at, color=colour, linewidth=0.7, linestyle=":")
        axes.annotate(
            moment.name,
            (moment.at, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=colour,
        )
    if len(chart.front) > 1:
        x, y = zip(*chart.front, strict=True)
        axes.step(x, y, where="post", color="#0b7a4b", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    _marks(axes, chart.marks)


def _scales(axes: Any, x: Axis, y: Axis) -> None:
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    if x.log:
        axes.set_xscale("log")
    for axis, scale in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_ticks([value for value, _ in scale.ticks], [text for _, text in scale.ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)


def _curve(axes: Any, curve: Curve) -> None:
    x, y = zip(*curve.points, strict=True)
    shape = SHAPE[curve.tone] if curve.dots and len(x) <= 40 else None
    style = {"color": TONE[curve.tone], "linestyle": DASH[curve.tone], "label": curve.name, "marker": shape, "markersize": 3}
    axes.step(x, y, where="post", **style) if curve.steps else axes.plot(x, y, **style)
    if curve.band:
        low, high = zip(*curve.band, strict=True)
        axes.fill_between(x, low, high, color=TONE[curve.tone], alpha=0.15, linewidth=0, step="post" if curve.steps else None)


def _marks(axes: Any, marks: Sequence[Mark]) -> None:
    for mark in marks:
        x, y = mark.at
        if len(mark.dots) > 1:
            axes.plot(*zip(*mark.dots, strict=True), "o", color=TONE[0], alpha=0.35, markersize=2, markeredgewidth=0, zorder=2)
        if mark.interval:
            axes.plot([x, x], mark.interval, color=TONE[0], linewidth=0.9, alpha=0.7, zorder=2)
        if mark.floor is not None:
            axes.plot([x, x], [mark.floor, y], color="#0b7a4b", linewidth=0.8, linestyle=":", zorder=1)
            axes.plot([x], [mark.floor], "_", color="#0b7a4b", markersize=8)
        axes.plot([x], [y], "o", color=TONE[0], markerfacecolor="white" if mark.hollow else TONE[0], markersize=5, zorder=3)
        late = mark.at[0] > sum(axes.get_xlim()) / 2
        axes.annotate(
            mark.name,
            mark.at,
            xytext=(-5 if late else 5, 3),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=7,
            color=_INK,
        )


def _rows(axes: Any, names: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlim(0, 108)
    axes.set_xticks((0, 25, 50, 75, 100))
    axes.set_xlabel(label)
    axes.grid(axis="x", color=_LINE, linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def _bars(axes: Any, bars: Bars) -> None:
    _rows(axes, [bar.name for bar in bars.bars], bars.label)
    for place, bar in enumerate(bars.bars):
        axes.barh(
            place,
            bar.end - bar.start,
            left=bar.start,
            height=0.66,
            color=TONE[bar.tone],
            hatch="////" if bar.tone else None,
            edgecolor="white",
            linewidth=0,
        )
        axes.annotate(
            bar.value,
            (max(bar.end, 0), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=_SOFT,
        )


def _pairs(axes: Any, pairs: Pairs) -> None:
    _rows(axes, [pair.name for pair in pairs.pairs], pairs.label)
    for place, pair in enumerate(pairs.pairs):
        axes.plot([pair.low, pair.high], [place, place], color="#c9ced8", linewidth=2, zorder=1)
    for tone, (end, key) in enumerate(zip(reversed(pairs.ends), ("high", "low"), strict=True)):
        axes.plot(
            [getattr(pair, key) for pair in pairs.pairs],
            range(len(pairs.pairs)),
            SHAPE[tone],
            color=TONE[tone],
            markersize=4,
            label=end,
            linestyle="none",
        )
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _heat(axes: Any, heat: Heat) -> None:
    values = [[float("nan") if shade is None else shade for shade in line] for line in heat.shades]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    if heat.fine:
        _edges(axes, heat)
        return
    slanted = any(len(name) > 4 for name in heat.columns)
    axes.set_xticks(range(len(heat.columns)), heat.columns, rotation=40 if slanted else 0, ha="left" if slanted else "center")
    axes.set_yticks(range(len(heat.rows)), heat.rows)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(heat.across)
    axes.set_ylabel(heat.down)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for down, line in enumerate(heat.texts):
        for across, text in enumerate(line):
            shade = heat.shades[down][across]
            axes.text(across, down, text, ha="center", va="center", fontsize=6, color="white" if (shade or 0) > 0.6 else _INK)


def _edges(axes: Any, heat: Heat) -> None:
    """A plane has a few names at its edges and no numbers."""
    for axis, names, label in ((axes.xaxis, heat.columns, heat.across), (axes.yaxis, heat.rows, heat.down)):
        places = sorted({0, (len(names) - 1) // 2, len(names) - 1})
        axis.set_ticks(places, [names[place] for place in places])
        axis.set_label_text(label)
    axes.set_aspect("equal")
