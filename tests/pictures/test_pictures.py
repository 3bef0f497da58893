"""Pictures are values: what is drawn lies where its values say, by either drawer, and texts are texts."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from bench.errors import BadInput
from bench.pictures import (
    Axis,
    Bar,
    Bars,
    Chart,
    Curve,
    Figure,
    Heat,
    Mark,
    Moment,
    Pair,
    Pairs,
    draw,
    percent_axis,
    rising_axis,
)
from bench.pictures.paper import save

NASTY = '<b>&"'
CHART = Chart(
    NASTY, Axis("x", 0, 10, ((0, "0"), (10, "10"))), percent_axis("accuracy, %"),
    (Curve(NASTY, ((0, 100), (5, 50), (10, 0)), 0, ((100, 100), (40, 60), (0, 10))), Curve("other", ((0, 20), (10, 20)), 1)),
    moments=(Moment(5, NASTY, bad=True),),
)  # fmt: skip
MARKS = Chart(
    "marks", percent_axis("clean, %", [90, 98], whole=False), percent_axis("robust, %"),
    marks=(Mark(NASTY, (95, 50), (40, 60), ((94, 48), (96, 52)), 20.0, hollow=True, link='x"y.html', told=NASTY),),
    front=((92, 10), (95, 50)),
)  # fmt: skip
BARS = Bars("bars", "%", (Bar("clean", 0, 90, "90"), Bar(NASTY, 60, 90, "-30", 1), Bar("robust", 0, 60, "60")))
PAIRS = Pairs("pairs", "%", ("robust", "clean"), (Pair(NASTY, 20, 80), Pair("1", 30, 60)))
HEAT = Heat(
    "heat", (NASTY, "b"), ("a", "b"), ((None, 0.5), (1.0, 0.0)), (("", "50"), (NASTY, "0")), "to", "from", {(0, 1): "p.html"}
)
PLANE = Heat("plane", ("1", "0"), (NASTY, "b"), ((0.0, 0.0), (1.0, None)), (("", ""), ("", "")), "a", NASTY, fine=True)
EVERY = [CHART, MARKS, BARS, PAIRS, HEAT, PLANE]


def test_the_band_of_steps_has_steps(tmp_path: Path) -> None:
    """Up to the second point the interval is that of the first, in pages and in papers."""
    curve = Curve("left", ((0, 100), (5, 50), (10, 50)), 0, ((100, 100), (20, 80), (20, 80)), steps=True)
    chart = Chart("steps", Axis("x", 0, 10, ((0, "0"), (10, "10"))), percent_axis("left, %"), (curve,))
    drawn = next(node for node in ET.fromstring(draw(chart)).iter("path") if node.get("class") == "band t0")
    assert _upright(str(drawn.get("d")))
    save(chart, tmp_path / "steps.svg")
    tree = ET.parse(tmp_path / "steps.svg")
    bands = [node for node in tree.iter("{http://www.w3.org/2000/svg}path") if "opacity: 0.15" in str(node.get("style"))]
    uses = [node for node in tree.iter("{http://www.w3.org/2000/svg}g") if "FillBetween" in str(node.get("id"))]
    paths = [node.get("d") for group in uses for node in group.iter("{http://www.w3.org/2000/svg}path")] or [
        node.get("d") for node in bands
    ]
    assert paths
    assert all(_upright(str(path)) for path in paths)


def _upright(d: str) -> bool:
    """Whether every line of an outline runs along an axis."""
    points = [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+)[ ,](-?[\d.]+)", d)]
    return len(points) > 4 and all(x == a or y == b for (x, y), (a, b) in pairwise(points))


@pytest.mark.parametrize("figure", EVERY, ids=lambda figure: type(figure).__name__)
def test_svg_is_well_formed_and_holds_no_markup_of_a_name(figure: Figure) -> None:
    tree = ET.fromstring(draw(figure))
    assert not list(tree.iter("b"))
    assert NASTY in "".join(tree.itertext()) + "".join(str(value) for node in tree.iter() for value in node.attrib.values())


def test_values_lie_where_the_axes_say() -> None:
    path = next(node for node in ET.fromstring(draw(CHART)).iter("path") if node.get("class") == "line t0")
    points = [tuple(map(float, part.split())) for part in str(path.get("d")).removeprefix("M").split("L")]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y0 < y1 < y2


def test_curves_that_end_together_are_named_apart() -> None:
    curves = tuple(Curve(f"c{number}", ((0, 5), (10, 50)), number) for number in range(4))
    texts = ET.fromstring(draw(Chart("", CHART.x, CHART.y, curves))).iter("text")
    heights = sorted(float(str(node.get("y"))) for node in texts if str(node.get("class")).startswith("name t"))
    assert [round(one - other) for one, other in zip(heights[1:], heights, strict=False)] == [15, 15, 15]


def test_a_doubted_mark_is_hollow_and_leads_somewhere() -> None:
    tree = ET.fromstring(draw(MARKS))
    mark = next(node for node in tree.iter("g") if node.get("class") == "mark")
    assert [node.get("href") for node in mark.iter("a")] == ['x"y.html']
    assert [node.get("class") for node in mark.iter("circle")] == ["hollow"]
    assert sum(node.get("class") in ("whisker", "floor") for node in mark.iter("path")) == 2
    assert len([node for group in tree.iter("g") if group.get("class") == "seeds" for node in group.iter("circle")]) == 2


def test_names_of_many_marks_do_not_lie_on_one_another() -> None:
    marks = tuple(Mark(f"method_{number}", (95 + number / 100, 50)) for number in range(200))
    texts = [
        node
        for node in ET.fromstring(draw(Chart("", MARKS.x, MARKS.y, marks=marks))).iter("text")
        if node.get("class") == "name"
    ]
    rows: dict[str, int] = {}
    for text in texts:
        rows[f"{text.get('y')} {text.get('text-anchor')}"] = rows.get(f"{text.get('y')} {text.get('text-anchor')}", 0) + 1
    assert 0 < len(texts) <= 16
    assert max(rows.values()) == 1


@pytest.mark.parametrize("values", [[0.5], [3.0, 3.0], [0.001, 2000.0], [1e-9, 1.0], [97.0, 99.9]])
@pytest.mark.parametrize("log", [False, True])
def test_axes_hold_their_values(values: list[float], log: bool) -> None:
    axis = rising_axis("x", values, log=log)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 1 <= len(axis.ticks) <= 12
    assert all(0 <= axis.at(value) <= 1 for value in values)


@pytest.mark.parametrize("figure", EVERY, ids=lambda figure: type(figure).__name__)
def test_papers_are_the_same_bytes_each_time(figure: Figure, tmp_path: Path) -> None:
    for number, kind in enumerate(("pdf", "svg", "png")):
        first, second = tmp_path / f"a{number}.{kind}", tmp_path / f"b{number}.{kind}"
        save(figure, first)
        save(figure, second)
        assert first.read_bytes() == second.read_bytes() != b""
        if figure is not BARS:
            break


def test_another_ending_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.pdf, \.svg, \.png"):
        save(CHART, tmp_path / "x.jpg")
