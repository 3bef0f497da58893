"""What a reader sees and does: in a browser, from disk, at any width, light and dark, with scripts and without."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.report import Entry, write_leaderboard
from bench.site import write_report
from bench.site.markup import short

SHOWN = (
    "rank",
    "n",
    "clean",
    "pgd-20",
    "square",
    "robust",
    "8-bit",
    "train passes",
    "collapse",
    "verdict",
    "proof",
    "95% interval",
)
CELLS = """() => [...document.querySelectorAll('table.board')].flatMap(table => {
  const names = [...table.tHead.rows[0].cells].map(cell => cell.dataset.name);
  return [...table.tBodies].flatMap(body => {
    const rows = body.rows.length > 1 ? [...body.rows].slice(1) : [body.rows[0]];
    return rows.map(row => ({
      name: body.rows[0].cells[0].querySelector('a').textContent,
      seed: rows.length > 1 ? row.cells[0].textContent.trim().replace('seed ', '') : null,
      cells: Object.fromEntries([...row.cells].map((cell, at) => [names[at], cell.dataset.v ?? cell.textContent.trim()])),
    }));
  });
})"""
"""Every evaluation of a page as it stands there: a line for each seed, or the line of a method with one."""


def board(site: Path) -> Path:
    return next((site / "board").glob("*.html"))


def names(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "table.board tbody:not(.gone)", "bodies => bodies.map(body => body.rows[0].cells[0].querySelector('a').textContent)"
    )
    return found


def test_numbers_are_those_of_the_leaderboard(watched: Any, site: Path, shown_results: Path) -> None:
    """Cell by cell, as they stand in the page, against leaderboard.csv."""
    (path,), _ = write_leaderboard(shown_results, ["csv"])
    wanted = pd.read_csv(path, dtype=str, keep_default_na=False)
    page = watched.open(board(site))
    rows = page.evaluate(CELLS)
    assert len(rows) == len(wanted) == 6
    for line in wanted.to_dict("records"):
        (row,) = [row for row in rows if row["name"] == short(line["defense"], 60) and row["seed"] in (None, line["seed"])]
        for column in SHOWN:
            if column not in row["cells"]:
                assert not wanted[column].any(), f"{column} says something and is not shown"
                continue
            shown, exact = row["cells"][column].replace("\u2013", "-"), line[column]
            if column == "verdict":
                exact = exact or ""
            same = float(shown) == float(exact) if number(shown) and number(exact) else shown == exact
            assert same, f"{line['defense'][:30]}, {column}: the page says {shown}, leaderboard.csv {exact}"
    watched.calm()


def number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def test_every_page_opens_quietly_from_disk(watched: Any, site: Path) -> None:
    for path in sorted(site.rglob("*.html")):
        page = watched.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280, path.name
        broken = "images => images.filter(image => !image.getBBox || !image.getBBox().width).length"
        assert page.eval_on_selector_all("svg image", broken) == 0
    watched.calm()


def test_sorting_puts_rows_in_order_and_is_remembered(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    head = page.locator("th[data-name='defense'] .sort")
    before = names(page)
    head.click()
    assert names(page) == sorted(before, key=str.lower) or names(page) != before
    first = names(page)
    head.click()
    assert names(page) == list(reversed(first))
    assert page.locator("th[data-name='defense']").get_attribute("aria-sort") == "descending"
    assert "sort-" in page.url
    again = watched.open(board(site), "#" + page.url.partition("#")[2])
    assert names(again) == list(reversed(first))
    robust = again.locator("th[data-name='robust'] .sort")
    robust.click()
    values = again.eval_on_selector_all("table.board tbody", "b => b.map(x => parseFloat(x.rows[0].cells[2].textContent))")
    assert values == sorted(values, reverse=True)
    watched.calm()


def test_filtering_leaves_what_fits_in_table_and_picture(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    page.fill("#q", "doubted")
    assert names(page) == ["doubted"]
    assert page.locator(".count").text_content() == "1 of 4 methods"
    assert page.locator(".view figure:first-child .mark.off").count() == 3
    again = watched.open(board(site), "#" + page.url.partition("#")[2])
    assert names(again) == ["doubted"]
    again.fill("#q", "")
    again.select_option("#verdict", "suspicious")
    assert names(again) == ["doubted"]
    watched.calm()


def test_unfolding_shows_seeds_and_is_remembered(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    seeds = page.locator("tr.seed")
    assert seeds.count() == 3
    assert not seeds.first.is_visible()
    page.locator(".fold").click()
    assert seeds.first.is_visible()
    again = watched.open(board(site), "#" + page.url.partition("#")[2])
    assert again.locator("tr.seed").first.is_visible()
    watched.calm()


def test_the_switch_shows_the_cost(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    figures = page.locator(".view figure")
    assert [figures.nth(place).is_visible() for place in (0, 1)] == [True, False]
    page.get_by_text("against training cost").click()
    assert [figures.nth(place).is_visible() for place in (0, 1)] == [False, True]
    again = watched.open(board(site), "#" + page.url.partition("#")[2])
    assert again.locator(".view figure").nth(1).is_visible()
    watched.calm()


def test_two_ticked_methods_lead_to_their_comparison(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    boxes = page.locator(".tick-box")
    boxes.nth(0).check()
    assert page.locator(".versus").get_attribute("href") is None
    boxes.nth(2).check()
    page.locator(".versus").click()
    assert " and " in page.title()
    assert "Gauntlet" in page.title()
    watched.calm()


def test_the_meaning_of_a_column_opens_at_its_head(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    page.locator("th[data-name='robust'] .ask").click()
    shown = page.locator("[popover]:popover-open")
    assert "still right after every attack" in shown.inner_text()
    shown.get_by_text("In the glossary").click()
    assert page.url.endswith("glossary.html#robust")
    assert page.locator("#robust").is_visible()
    watched.calm()


@pytest.mark.parametrize("form", ["csv", "json", "tex"])
def test_buttons_save_what_is_shown(form: str, watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    page.fill("#q", "<script>")
    with page.expect_download() as waited:
        page.locator(f"a[data-form='{form}']").click()
    text = Path(waited.value.path()).read_text()
    assert waited.value.suggested_filename.endswith(form)
    assert "doubted" not in text
    if form == "json":
        (line,) = json.loads(text)
        assert line["defense"].startswith("<script>alert(1)</script>")
        assert isinstance(line["robust"], int | float)
    elif form == "tex":
        assert r"\toprule" in text
        assert "<script>" not in text
    else:
        assert len(text.splitlines()) == 2
    watched.calm()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_phones_and_the_dark_lose_nothing(scheme: str, width: int, chromium: Any, site: Path, tmp_path: Path) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for folder in ("board", "row", "compare", "docs"):
        page.goto(next((site / folder).glob("*.html")).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, folder
        ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        light = [sum(map(float, text[text.index("(") + 1 : -1].split(",")[:3])) / 3 for text in (ink, paper)]
        assert abs(light[0] - light[1]) > 180
        assert (light[1] < 60) == (scheme == "dark")
        assert len(page.screenshot(path=str(tmp_path / f"{folder}.png"))) > 5000
    page.goto(board(site).as_uri())
    page.eval_on_selector(".box", "box => { box.scrollLeft = 400; }")
    left = page.eval_on_selector("table.board tbody td", "cell => cell.getBoundingClientRect().left")
    edge = page.eval_on_selector(".box", "box => box.getBoundingClientRect().left")
    assert abs(left - edge) < 3, "the first column moves away"
    context.close()


def test_without_scripts_all_numbers_and_links_are_there(chromium: Any, site: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(board(site).as_uri())
    assert page.locator("tr.seed").first.is_visible()
    assert page.locator("table.board td:visible").count() == page.locator("table.board td").count()
    assert page.locator(".only-js:visible").count() == 0
    page.get_by_text("against training cost").click()
    assert page.locator(".view figure").nth(1).is_visible()
    assert page.locator("a[data-form='csv']").get_attribute("href", timeout=1000)
    context.close()


def test_printed_it_has_its_seeds_and_no_tools(watched: Any, site: Path) -> None:
    page = watched.open(board(site))
    page.emulate_media(media="print")
    assert page.locator("tr.seed").first.is_visible()
    assert not page.locator(".tools").first.is_visible()


def test_five_hundred_rows_are_quick(watched: Any, shown_results: Path, tmp_path: Path) -> None:
    """First paint within a second, a sort within half of one, the page within 600 KiB; of rows without files."""
    from bench.report import read_entries
    from bench.site import site as writer

    (first, *_), _ = read_entries([shown_results / "digits" / "linf-0.2" / "seed-1"])
    for number in range(500):
        card = first.card.model_copy(update={"name": f"method_{number:03d}", "seed": number})
        card.save(tmp_path / "many" / f"{number:03d}" / "smoke" / "card.json")
    assert isinstance(first, Entry)
    began = time.process_time()
    written = write_report(tmp_path / "many", tmp_path / "out", galleries=False, quiet=True)
    assert time.process_time() - began < 20
    assert writer.MARK
    path = board(written.first.parent)
    assert path.stat().st_size < 600 * 1024
    paints, sorts = [], []
    for _ in range(3):
        page = watched.open(path)
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        sorts.append(
            page.evaluate(
                """() => { const began = performance.now(); document.querySelector("th[data-name='robust'] .sort").click();
                document.body.offsetHeight; return performance.now() - began; }"""
            )
        )
    assert min(paints) < 1000, paints
    assert min(sorts) < 500, sorts
    watched.calm()
