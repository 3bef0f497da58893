"""The documents of docs/ as pages of a site: every link leads to a page, an anchor, or is not made one."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

ORDER = (
    "start", "glossary", "report", "verify", "diagnose", "gate", "defenses", "models", "data", "libraries", "performance",
    "crash",
)  # fmt: skip
"""What a newcomer reads first; others follow by name."""
_NAMED = re.compile(r"docs/([a-z_]+)\.md")


class Document(NamedTuple):
    """One page."""

    name: str
    title: str
    body: Markup


def documents() -> list[Document]:
    """Every document of the package, those that come first first."""
    place = files("bench").joinpath("docs")
    texts = {
        entry.name.removesuffix(".md"): entry.read_text(encoding="utf-8")
        for entry in (place.iterdir() if place.is_dir() else ())
        if entry.name.endswith(".md")
    }
    names = sorted(texts, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return [rendered(name, texts[name], texts) for name in names]


def rendered(name: str, text: str, known: Collection[str]) -> Document:
    """A Markdown text as a page among others of these names; HTML in it is text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    title = next((tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"), name)
    _anchored(tokens)
    for token in tokens:
        if token.children:
            token.children = _linked(token.children, known)
    body = reader.renderer.render(tokens, reader.options, {})
    body = body.replace("<table>", '<div class="box" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Document(name, title.replace("`", ""), Markup(body))


def _anchored(tokens: list[Token]) -> None:
    """Headings get names, and so do the first cells of tables, where they are code or plain words."""
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _id(tokens[at + 1].content))
        first = token.type == "td_open" and tokens[at - 1].type == "tr_open"
        if first and (name := _id(tokens[at + 1].content)):
            token.attrSet("id", name)


def _id(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


def _linked(children: list[Token], known: Collection[str]) -> list[Token]:
    """Links among documents lead to their pages, others of the repository are no links, and a document that is named is one."""
    found: list[Token] = []
    dropped = 0
    within = False
    for token in children:
        if token.type == "link_open":
            target = _target(str(token.attrGet("href")), known)
            within = target is not None
            if target is None:
                dropped += 1
                continue
            token.attrSet("href", target)
        elif token.type == "link_close":
            within = False
            if dropped:
                dropped -= 1
                continue
        elif token.type == "text" and not within:
            found += _mentions(token.content, known)
            continue
        found.append(token)
    return found


def _target(href: str, known: Collection[str]) -> str | None:
    """Where a link of a document leads in the site; None where nothing of the site is there."""
    if re.match(r"https?://", href):
        return href
    path, _, fragment = href.partition("#")
    name = path.removeprefix("docs/").removesuffix(".md")
    if path and (not path.endswith(".md") or name not in known):
        return None
    return (f"{name}.html" if path else "") + (f"#{fragment}" if fragment else "")


def _mentions(text: str, known: Collection[str]) -> list[Token]:
    found, last = [], 0
    for match in _NAMED.finditer(text):
        if match[1] not in known:
            continue
        opened, closed = Token("link_open", "a", 1), Token("link_close", "a", -1)
        opened.attrSet("href", f"{match[1]}.html")
        found += [_plain(text[last : match.start()]), opened, _plain(match[0]), closed]
        last = match.end()
    return [*found, _plain(text[last:])]


def _plain(text: str) -> Token:
    return Token("text", "", 0, content=text)
