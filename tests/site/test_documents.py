"""The documents: every link of the repository and of the site leads somewhere, and every command of a page can be typed.

In a page, fences of kind `sh` are typed into a shell, one after the other in an empty folder, and one whose kind is followed by
the name of a file is that file. Whatever needs a network, a GPU or an hour is in a fence of another kind.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_shell import install
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bench.report import Leaderboard
from bench.site.documents import Documents, documents, rendered
from bench.site.pages import document
from bench.site.reference import MODULES

ROOT = Path(__file__).parents[2]
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")])
TYPED = [path for path in TEXTS if "\n```sh\n" in path.read_text(encoding="utf-8")]


def tokens_of(text: str) -> list[Token]:
    return MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)


@pytest.fixture(scope="module")
def docs() -> Documents:
    return documents()


# Links


def links(text: str) -> Iterator[str]:
    """Of a Markdown text: where links and images lead."""
    for token in tokens_of(text):
        for inner in token.children or ():
            if found := inner.attrGet("href" if inner.type == "link_open" else "src"):
                yield str(found)


def slugs(text: str) -> set[str]:
    """Anchors of headings as GitHub names them."""
    tokens, found = tokens_of(text), set[str]()
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            name = re.sub(r"[^\w\- ]", "", tokens[at + 1].content.lower()).replace(" ", "-")
            number = 0
            while (free := f"{name}-{number}" if number else name) in found:
                number += 1
            found.add(free)
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_the_repository_is_real(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in links(text):
        if re.match(r"(https?|mailto):", link):
            continue
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} leads to {link}"
        assert ROOT in target.parents, f"{path.name} leads out of the repository: {link}"
        if fragment:
            assert fragment in slugs(target.read_text(encoding="utf-8")), f"{path.name} leads to {link}"
    for named in re.findall(r"\bdocs/[\w/-]+\.\w+", text):
        placeholder = "NAME" in named or path.name == "CHANGELOG.md"
        assert placeholder or (ROOT / named).exists(), f"{path.name} names {named}"


def test_every_document_is_in_the_index_and_the_reference_too(docs: Documents) -> None:
    listed = [name for group in docs.groups for name, _ in group.pages]
    assert "More" not in [group.title for group in docs.groups]
    assert len(listed) == len(set(listed))
    top = {page.name for page in docs.pages if "/" not in page.name} - {"README"}
    assert top <= set(listed)
    assert "api" in listed


def test_no_anchor_is_there_twice(docs: Documents) -> None:
    for page in docs.pages:
        names = re.findall(r' id="([^"]+)"', page.body)
        assert len(names) == len(set(names)), page.name


# Rendering


def test_documents_link_each_other_and_hold_no_html() -> None:
    text = "# A\n\n[b](b.md#x), [out](../README.md), docs/b.md, docs/c.md, <script>1</script>, [ev](javascript:alert(1))\n"
    body = rendered("a", text, {"a", "b"}).body
    assert 'href="b.html#x"' in body
    assert '<a href="b.html">docs/b.md</a>' in body
    assert "docs/c.md" in body
    assert "README" not in body
    assert "<script" not in body
    assert "javascript:" not in re.findall(r'href="([^"]*)"', body)


def test_no_option_is_torn_from_its_dashes() -> None:
    body = rendered("a", "`gauntlet measure RUN landscape --set dimensions=2 <X> -`\n", {"a"}).body
    assert 'landscape <span class="option">--set</span> dimensions=2 &lt;X&gt; ' in body


def test_a_folder_has_pages_and_figures_of_its_own() -> None:
    """What somebody puts below docs/ is rendered: links up and down, a README as an index, figures that are there."""
    known, figures = {"README", "science", "findings/README", "findings/noise"}, {"findings/noise.svg", "findings/img/a.png"}
    text = (
        "# N\n\n[up](../science.md) [all](README.md) [docs](../README.md#x)\n\n![](noise.svg) ![](img/a.png) ![gone](no.png)\n"
    )
    page = rendered("findings/noise", text, known, figures)
    assert page.page == "findings/noise.html"
    for there in ("href=../science.html", "href=index.html", "href=../index.html#x", "src=noise.svg", "src=img/a.png"):
        assert there in page.body.replace('"', "")
    assert "no.png" not in page.body
    assert "gone" in page.body
    index = rendered("README", "[one](findings/noise.md) [all](findings/README.md) [folder](findings/)", known, figures)
    assert index.page == "index.html"
    assert index.body.count('href="findings/index.html"') == 2
    assert 'href="findings/noise.html"' in index.body


def test_what_lies_in_a_folder_is_shown_with_its_figures(tmp_path: Path) -> None:
    (tmp_path / "findings" / "img").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Docs\n\n## Seen\n\n- [All](findings/README.md): a table\n- `help(bench)`\n")
    (tmp_path / "findings" / "README.md").write_text("# Findings\n\n[noise](noise.md)\n")
    (tmp_path / "findings" / "noise.md").write_text("# Noise\n\n![a](img/a.png) ![b](b.svg)\n")
    for name in ("img/a.png", "b.svg", "unused.png"):
        (tmp_path / "findings" / name).write_bytes(name.encode())
    found = documents(tmp_path)
    assert found.figures == {"findings/b.svg": b"b.svg", "findings/img/a.png": b"img/a.png"}
    assert found.groups == (("Seen", (("findings/README", "All"), ("api", "API reference"))),)
    noise = next(page for page in found.pages if page.name == "findings/noise")
    html = document(Leaderboard((), ()), noise, found.groups)
    assert '<a href="index.html">All</a>' in html
    assert '<a href="../../docs/findings/index.html" aria-current="page">All</a>' in html
    assert 'href="../../assets/style.css"' in html


def test_headings_and_terms_have_names_that_do_not_collide() -> None:
    body = rendered("a", "# A\n\n## B\n\n## B\n\n| b | x |\n| --- | --- |\n| B | 1 |\n", {"a"})
    assert re.findall(r' id="([^"]+)"', body.body) == ["a", "b", "b-1", "b-2"]
    assert body.parts == (("b", "B"), ("b-1", "B"))


def test_the_reference_has_every_public_name_with_what_it_says_of_itself(docs: Documents) -> None:
    import importlib

    body = next(page for page in docs.pages if page.name == "api").body
    for name in MODULES:
        for public in importlib.import_module(name).__all__:
            assert f">{public}</h3>" in body, public
    assert "object at 0x" not in body
    assert "ForwardRef" not in body
    assert "factory" not in re.findall(r"= (\S+)", body)


# Commands


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a shell whose commands start at once."""
    home = tmp_path_factory.mktemp("shell")
    address = install(home)
    with subprocess.Popen([sys.executable, str(ROOT / "tests/pretended/command_shell.py"), address]) as server:
        for _ in range(600):
            if Path(address).exists() or server.poll() is not None:
                break
            time.sleep(0.1)
        yield {**os.environ, "PATH": f"{home}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        server.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("path", TYPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_typed(path: Path, shell: dict[str, str], tmp_path: Path) -> None:
    for token in tokens_of(path.read_text(encoding="utf-8")):
        if token.type != "fence":
            continue
        kind, _, file = token.info.strip().partition(" ")
        if file:
            (tmp_path / file).write_text(token.content, encoding="utf-8")
        elif kind == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", token.content], cwd=tmp_path, env=shell, capture_output=True, text=True,
                timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{token.content}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
