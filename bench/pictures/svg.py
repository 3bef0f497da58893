"""Pictures for a page: SVG whose colours are classes, so that one style sheet has them light, dark and printed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from math import dist

from bench.escape import html
from bench.pictures.figure import Axis, Bars, Chart, Curve, Figure, Heat, Mark, Pairs, Point

NARROW, WIDE = (460.0, 260.0), (640.0, 370.0)
"""Width and height in units of its own; a page scales it."""
NUMBERED, _TRIED = 16, 40
"""Marks that carry a number, or their names, at most, and those that are tried for a name, the first."""


def draw(figure: Figure) -> str:
    """An <svg> element."""
    if isinstance(figure, Chart):
        return _chart(figure)
    return _bars(figure) if isinstance(figure, Bars) else _pairs(figure) if isinstance(figure, Pairs) else _heat(figure)


def _svg(kind: str, width: float, height: float, about: str, body: str) -> str:
    return f'<svg class="{kind}" viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{html(about)}">{body}</svg>'


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _short(name: str, most: int) -> str:
    """A name as there is room for it; one that is cut says so."""
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    extra = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{_n(x)}" y="{_n(y)}"{extra}>{html(text)}</text>'


def _told(text: str) -> str:
    return f"<title>{html(text)}</title>" if text else ""


class _Frame:
    """Where values come to lie."""

    def __init__(self, chart: Chart) -> None:
        width, height = WIDE if chart.wide else NARROW
        right = (
            16.0 if chart.marks else 12 + max([0.0, *(6.4 * min(len(c.name), 18) for c in chart.curves if _labelled(chart))])
        )
        self.size, self.chart = (width, height), chart
        ticks = max([2, *(len(text) for _, text in chart.y.ticks)])
        self.left, self.top, self.right, self.bottom = 27 + 6.6 * ticks, 18.0, width - right, height - 44

    def x(self, value: float) -> float:
        return self.left + self.chart.x.at(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - min(max(self.chart.y.at(value), 0), 1) * (self.bottom - self.top)

    def path(self, points: Sequence[Point], *, steps: bool = False) -> str:
        where = [(_n(self.x(x)), _n(self.y(y))) for x, y in points]
        if steps:
            return f"M{where[0][0]} {where[0][1]}" + "".join(f"H{x}V{y}" for x, y in where[1:])
        return "M" + "L".join(f"{x} {y}" for x, y in where)


def _labelled(chart: Chart) -> bool:
    return len(chart.curves) > 1


def _chart(chart: Chart) -> str:
    frame = _Frame(chart)
    body = _axes(frame)
    body += "".join(_moment(frame, m.at, m.name, bad=m.bad) for m in chart.moments)
    body += "".join(_band(frame, curve) for curve in chart.curves)
    body += "".join(_curve(frame, curve) for curve in chart.curves)
    if _labelled(chart):
        body += _names(frame, chart.curves)
    if len(chart.front) > 1:
        body += f'<path class="front" d="{frame.path(chart.front, steps=True)}"/>'
    body += "".join(f'<g class="seeds">{_seeds(frame, mark)}</g>' for mark in chart.marks if len(mark.dots) > 1)
    body += _marks(frame, chart.marks)
    return _svg("chart wide" if chart.wide else "chart", *frame.size, chart.about, body)


def _axes(frame: _Frame) -> str:
    x, y, parts = frame.chart.x, frame.chart.y, []
    for value, text in y.ticks:
        at = frame.y(value)
        parts.append(f'<path class="grid" d="M{_n(frame.left)} {_n(at)}H{_n(frame.right)}"/>')
        parts.append(_text(frame.left - 8, at + 4, text, "tick", "end"))
    for value, text in x.ticks:
        at = frame.x(value)
        parts.append(f'<path class="stub" d="M{_n(at)} {_n(frame.bottom)}v4"/>')
        parts.append(_text(at, frame.bottom + 18, text, "tick", "middle"))
    parts.append(f'<path class="axis" d="M{_n(frame.left)} {_n(frame.bottom)}H{_n(frame.right)}"/>')
    parts.append(_text((frame.left + frame.right) / 2, frame.size[1] - 6, x.label, "label", "middle"))
    middle = (frame.top + frame.bottom) / 2
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(12 {_n(middle)}) rotate(-90)">{html(y.label)}</text>'
    )
    return "".join(parts)


def _moment(frame: _Frame, at: float, name: str, *, bad: bool) -> str:
    x, kind = frame.x(at), "moment bad" if bad else "moment"
    return f'<path class="{kind}" d="M{_n(x)} {_n(frame.top)}V{_n(frame.bottom)}"/>' + _text(
        x, frame.top - 6, name, "when bad" if bad else "when", "middle"
    )


def _band(frame: _Frame, curve: Curve) -> str:
    if not curve.band:
        return ""
    low = [(x, low) for (x, _), (low, _) in zip(curve.points, curve.band, strict=True)]
    high = [(x, high) for (x, _), (_, high) in zip(curve.points, curve.band, strict=True)]
    if curve.steps:
        low, high = _corners(low), _corners(high)
    return f'<path class="band t{curve.tone}" d="{frame.path([*low, *reversed(high)])}Z"/>'


def _corners(points: Sequence[Point]) -> list[Point]:
    """What a value that holds until the next one passes through."""
    return [points[0], *(corner for (_, held), (x, y) in pairwise(points) for corner in ((x, held), (x, y)))]


def _curve(frame: _Frame, curve: Curve) -> str:
    line = f'<path class="line t{curve.tone}" d="{frame.path(curve.points, steps=curve.steps)}"/>'
    if not curve.dots or len(curve.points) > 40:
        return line
    dots = "".join(
        f'<circle class="dot t{curve.tone}" cx="{_n(frame.x(x))}" cy="{_n(frame.y(y))}" r="2.6">'
        f"{_told(f'{curve.name}: {y:.4g}')}</circle>"
        for x, y in curve.points
    )
    return line + dots


def _names(frame: _Frame, curves: Sequence[Curve]) -> str:
    """Each curve's name at its right end, moved apart."""
    ends = sorted(((frame.y(curve.points[-1][1]), curve) for curve in curves), key=lambda end: end[0])
    places: list[float] = []
    for at, _ in ends:
        places.append(max(at, places[-1] + 15) if places else at)
    over = max((places[-1] - frame.bottom) if places else 0, 0)
    return "".join(
        _text(frame.right + 6, at - over + 4, _short(curve.name, 18), f"name t{curve.tone}")
        for at, (_, curve) in zip(places, ends, strict=True)
    )


def _seeds(frame: _Frame, mark: Mark) -> str:
    return "".join(f'<circle cx="{_n(frame.x(x))}" cy="{_n(frame.y(y))}" r="2.4"/>' for x, y in mark.dots)


def _marks(frame: _Frame, marks: Sequence[Mark]) -> str:
    """Marks with whiskers, the first numbered and named where there is room."""
    labels, parts = _placed(frame, marks), []
    for number, mark in enumerate(marks, 1):
        x, y = frame.x(mark.at[0]), frame.y(mark.at[1])
        inner = _told(mark.told or mark.name)
        if mark.interval:
            low, high = (frame.y(end) for end in mark.interval)
            inner += f'<path class="whisker" d="M{_n(x)} {_n(low)}V{_n(high)}"/>'
        if mark.floor is not None:
            floor = frame.y(mark.floor)
            inner += f'<path class="floor" d="M{_n(x - 9)} {_n(floor)}h18M{_n(x)} {_n(floor)}V{_n(y)}"/>'
        if number in labels:
            at, anchor = labels[number]
            inner += _leader((x, y), at) + _text(at[0], at[1], _short(mark.name, 28), "name", anchor)
        kind = ' class="hollow"' if mark.hollow else ""
        inner += f'<circle{kind} cx="{_n(x)}" cy="{_n(y)}" r="5.5"/>'
        if number <= NUMBERED:
            inner += _text(x, y - 11, str(number), "number", "middle")
        wrapped = f'<a href="{html(mark.link)}">{inner}</a>' if mark.link else inner
        parts.append(f'<g class="mark">{wrapped}</g>')
    return "".join(parts)


def _placed(frame: _Frame, marks: Sequence[Mark]) -> dict[int, tuple[Point, str]]:
    """Where names go without lying on one another or on a mark: beside their own, which no other is closer to, else above or
    below, where a line leads to it, else nowhere."""
    spots = [(frame.x(mark.at[0]), frame.y(mark.at[1])) for mark in marks]
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in spots]
    found: dict[int, tuple[Point, str]] = {}
    for number, (mark, (x, y)) in enumerate(zip(marks[:_TRIED], spots, strict=False), 1):
        if len(found) >= NUMBERED:
            break
        width = 6.8 * len(_short(mark.name, 28))
        for dx, dy, anchor in (
            (10, 4, "start"),
            (-10, 4, "end"),
            (10, -8, "start"),
            (-10, -8, "end"),
            (10, 17, "start"),
            (-10, 17, "end"),
            (14, 30, "start"),
            (-14, 30, "end"),
            (14, -22, "start"),
            (-14, -22, "end"),
        ):
            left = x + dx if anchor == "start" else x + dx - width
            box = (left - 2, y + dy - 11, left + width + 2, y + dy + 3)
            inside = box[0] > frame.left and box[2] < frame.size[0] + 30 and box[1] > frame.top - 10 and box[3] < frame.bottom
            end = (x + dx, y + dy)
            if not _far((x, y), end) and any(dist(end, spot) < dist(end, (x, y)) for spot in spots):
                continue
            if inside and not any(_meet(box, other) for other in taken if other != (x - 8, y - 8, x + 8, y + 8)):
                taken.append(box)
                found[number] = (end, anchor)
                break
    return found


def _far(mark: Point, name: Point) -> bool:
    """Whether a name is not beside its mark."""
    return abs(name[1] - mark[1]) > 10


def _leader(mark: Point, name: Point) -> str:
    """A line from a mark to a name that is not beside it."""
    if not _far(mark, name):
        return ""
    (x, y), end = mark, name[1] - 9 if name[1] > mark[1] else name[1] + 3
    return f'<path class="leader" d="M{_n(x)} {_n(y)}L{_n(name[0])} {_n(end)}"/>'


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


_LABELS, _ROW = 165.0, 26.0


def _bars(bars: Bars) -> str:
    width = NARROW[0] + 140
    room, height = width - _LABELS - 64, _ROW * len(bars.bars) + 30
    body = _scale(room, height, bars.label)
    for number, bar in enumerate(bars.bars):
        y, x = 6 + _ROW * number, _LABELS + bar.start / 100 * room
        body += f"<g>{_told(bar.told)}" + _text(_LABELS - 10, y + 13, _short(bar.name, 24), "cell", "end")
        wide = max((bar.end - bar.start) / 100 * room, 1)
        body += f'<rect class="bar t{bar.tone}" x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" height="18" rx="2"/>'
        body += _text(_LABELS + max(bar.end, 0) / 100 * room + 7, y + 13, bar.value, "value") + "</g>"
    for number, (above, below) in enumerate(pairwise(bars.bars)):
        edge = above.end if not above.tone else above.start
        if below.end == edge or below.tone:
            x = _LABELS + edge / 100 * room
            body += f'<path class="stub" d="M{_n(x)} {_n(24 + _ROW * number)}V{_n(6 + _ROW * (number + 1))}"/>'
    return _svg("bars", width, height, bars.about, body)


def _pairs(pairs: Pairs) -> str:
    width = NARROW[0] + 140
    room, row = width - _LABELS - 64, 24.0
    height = row * len(pairs.pairs) + 50
    body = _scale(room, height, pairs.label, top=20)
    x = [_LABELS + end / 100 * room for end in (pairs.pairs[0].low, pairs.pairs[0].high)] if pairs.pairs else [0.0, 0.0]
    close = abs(x[1] - x[0]) < 60
    body += _text(x[0] - (24 if close else 0), 12, pairs.ends[0], "name t1", "middle") + _text(
        x[1] + (24 if close else 0), 12, pairs.ends[1], "name t0", "middle"
    )
    for number, pair in enumerate(pairs.pairs):
        y = 32 + row * number
        low, high = (_LABELS + end / 100 * room for end in (pair.low, pair.high))
        body += f"<g>{_told(f'{pair.name}: {pair.low:.1f} and {pair.high:.1f} %')}" + _text(
            _LABELS - 10, y + 4, _short(pair.name, 24), "cell", "end"
        )
        body += f'<path class="between" d="M{_n(low)} {_n(y)}H{_n(high)}"/>'
        body += f'<circle class="dot t1" cx="{_n(low)}" cy="{_n(y)}" r="4.5"/>'
        body += f'<circle class="dot t0" cx="{_n(high)}" cy="{_n(y)}" r="4.5"/></g>'
    return _svg("bars", width, height, pairs.about, body)


def _scale(room: float, height: float, label: str, top: float = 0) -> str:
    """A percent scale below rows."""
    axis = Axis(label, 0, 100, tuple((t, str(t)) for t in (0, 25, 50, 75, 100)))
    parts = []
    for value, text in axis.ticks:
        x = _LABELS + axis.at(value) * room
        parts.append(f'<path class="grid" d="M{_n(x)} {_n(top)}V{_n(height - 22)}"/>')
        parts.append(_text(x, height - 7, text if value < 100 else f"{text} %", "tick", "middle"))
    return "".join(parts)


def _heat(heat: Heat) -> str:
    """Cells as wide as what stands in them."""
    if heat.fine:
        return _plane(heat)
    chars = max([3, *(len(text) for row in heat.texts for text in row)])
    longest = max([0, *(len(name) for name in heat.columns)])
    chars = max(chars, longest - 1) if longest <= 9 else chars
    names = max([4, *(len(_short(name, 22)) for name in heat.rows)])
    slanted = any(len(name) > chars + 1 for name in heat.columns)
    cell, left = max(7.0 * chars + 10, 34.0), 7.0 * names + 30
    top = (24.0 + 4.6 * max(len(_short(name, 22)) for name in heat.columns)) if slanted else 40.0
    width, height = left + cell * len(heat.columns) + (60 if slanted else 8), top + 26 * len(heat.rows) + 6
    body = (
        _text(left, 12, heat.across, "label")
        + f'<text class="label" text-anchor="middle" transform="translate(11 {_n(top + 13 * len(heat.rows))}) rotate(-90)">'
        + f"{html(heat.down)}</text>"
    )
    for number, name in enumerate(heat.columns):
        x = left + cell * (number + 0.5)
        body += (
            f'<text class="cell" transform="translate({_n(x)} {_n(top - 8)}) rotate(-40)">{html(_short(name, 22))}</text>'
            if slanted
            else _text(x, top - 8, name, "cell", "middle")
        )
    for down, name in enumerate(heat.rows):
        y = top + 26 * down
        body += _text(left - 8, y + 17, _short(name, 22), "cell", "end")
        for across, text in enumerate(heat.texts[down]):
            body += _cell(heat, down, across, left + cell * across, y, cell, text)
    picture = _svg("heat", width, height, heat.about, body)
    return f'<div class="scroll"><svg width="{_n(width)}"{picture.removeprefix("<svg")}</div>'


def _plane(heat: Heat) -> str:
    """A plane: cells side by side, alike ones in a row as one piece; a few names at its edges."""
    side = max(240 / max(len(heat.rows), len(heat.columns), 1), 4.0)
    left, top, deep = 52.0, 8.0, side * len(heat.rows)
    wide = side * len(heat.columns)
    body = ""
    for down, row in enumerate(heat.shades):
        place = 0
        for level, alike in groupby(map(_level, row)):
            count = len(list(alike))
            body += f'<rect class="h{level}" x="{_n(left + side * place)}" y="{_n(top + side * down)}" '
            body += f'width="{_n(side * count)}" height="{_n(side)}"/>'
            place += count
    for names, across in ((heat.columns, True), (heat.rows, False)):
        for at in sorted({0, (len(names) - 1) // 2, len(names) - 1}) if names else ():
            middle = side * (at + 0.5)
            body += (
                _text(left + middle, top + deep + 16, names[at], "tick", "middle")
                if across
                else _text(left - 6, top + middle + 4, names[at], "tick", "end")
            )
    body += _text(left + wide / 2, top + deep + 33, heat.across, "label", "middle")
    body += f'<text class="label" text-anchor="middle" transform="translate(12 {_n(top + deep / 2)}) rotate(-90)">'
    return _svg("plane", left + wide + 16, top + deep + 40, heat.about, f"{body}{html(heat.down)}</text>")


def _level(shade: float | None) -> str:
    return "none" if shade is None else str(min(int(max(shade, 0) * 9.999), 9))


def _cell(heat: Heat, down: int, across: int, x: float, y: float, width: float, text: str) -> str:
    level = _level(heat.shades[down][across])
    told = _told(f"{heat.down} {heat.rows[down]}, {heat.across} {heat.columns[across]}: {text}") if text else ""
    inner = f'{told}<rect class="h{level}" x="{_n(x)}" y="{_n(y)}" width="{_n(width - 2)}" height="24" rx="2"/>' + (
        _text(x + width / 2 - 1, y + 16, text, f"in{level}", "middle") if text else ""
    )
    link = heat.links.get((down, across))
    return f'<a href="{html(link)}">{inner}</a>' if link else inner
