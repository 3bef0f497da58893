"""The two pictures of the README, from results/: `make screenshots`; needs Chromium, and GAUNTLET_DATA for the gallery."""

import os
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from bench.site import write_report

SIZE, TALL = (1180, 760), 1090
ROOT = Path(__file__).parents[3]


def main() -> None:
    """Write docs/report-board.png and docs/report-row.png."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    site = write_report(ROOT / "results", Path(tempfile.mkdtemp()) / "report", quiet=True).first.parent
    (board,) = (site / "board").glob("mnist-linf-*.html")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.set_viewport_size({"width": SIZE[0], "height": TALL})
        page.goto(board.as_uri())
        _save(page.screenshot(), "report-board")
        row = board.parent / _complete(page).get_attribute("href")
        page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
        page.goto(row.resolve().as_uri() + "#gallery")
        _save(page.screenshot(), "report-row")
        browser.close()


def _complete(page: Page) -> Locator:
    """The link to a row whose examples and weights are here."""
    return page.locator("table.board tbody a[href*='fast-at-s']").first


def _save(content: bytes, name: str) -> None:
    """Few colours are enough for a page, and a third of the bytes."""
    Image.open(BytesIO(content)).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE).save(
        ROOT / "docs" / f"{name}.png", optimize=True
    )


if __name__ == "__main__":
    main()
