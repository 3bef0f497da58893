"""A real Chromium on the pages of a board. `make browser` runs these and fails without one; elsewhere they are skipped."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRED = bool(os.environ.get("GAUNTLET_BROWSER"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser, started once."""
    if not REQUIRED:
        pytest.skip("`make browser` runs the tests in a browser")
    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert where, "there is no chromium; `apt-get install chromium` brings one"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=where, args=["--no-sandbox", "--disable-gpu", "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(shown_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a board."""
    from bench.site import write_report

    out = tmp_path_factory.mktemp("browser") / "report"
    write_report(shown_results, out, quiet=True)
    return out


class Watched:
    """A page, and all that it asked for and complained of."""

    def __init__(self, context: Any) -> None:
        self.page, self.requests, self.messages = context.new_page(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.messages.append("dialog " + dialog.message), dialog.dismiss()))

    def open(self, path: Path, fragment: str = "") -> Any:
        """Go there; a missing file would be a page of the browser's own."""
        self.page.goto("about:blank")
        self.page.goto(path.as_uri() + fragment)
        assert "Gauntlet" in self.page.title(), f"{path} did not open"
        return self.page

    def calm(self) -> None:
        """Nothing but files was asked for, and nothing complained."""
        assert [url for url in self.requests if not url.startswith(("file:", "about:", "blob:file:"))] == []
        assert self.messages == []


@pytest.fixture
def watched(chromium: Any) -> Iterator[Watched]:
    """A page as wide as a screen."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield Watched(context)
    context.close()
