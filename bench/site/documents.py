"""The documents of docs/ as pages of a site: every link leads to a page, a file or an anchor of it, or is not made one."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from bench.site.reference import API, reference

FIGURES = (".png", ".svg", ".jpg", ".webp")
_NAMED = re.compile(r"docs/((?:[\w-]+/)*[\w-]+)\.md")
_API = ("help(bench)", "help(bench.attack)", "help(bench.defense)")
"""Code that says what the page of the reference shows."""


class Document(NamedTuple):
    """One page."""

    name: str
    """Of its text, from docs/, without the ending."""
    title: str
    body: Markup
    parts: tuple[tuple[str, str], ...] = ()
    """Its sections: anchor and heading."""

    @property
    def page(self) -> str:
        """Its file below docs/ of the site."""
        return page_of(self.name)


class Group(NamedTuple):
    """Pages that belong together, as docs/README.md lists them: name and what the link says."""

    title: str
    pages: tuple[tuple[str, str], ...]


class Documents(NamedTuple):
    """All that docs/ holds."""

    pages: tuple[Document, ...]
    groups: tuple[Group, ...]
    figures: Mapping[str, bytes]
    """What the pages show, by its place below docs/."""


def page_of(name: str) -> str:
    """The page of a text: that of a README is the index of its folder."""
    return f"{posixpath.join(posixpath.dirname(name), 'index') if posixpath.basename(name) == 'README' else name}.html"


def documents(place: Traversable | None = None) -> Documents:
    """Every document of a folder, by default the package's, with its figures, and the reference made of the code."""
    place = place or files("bench").joinpath("docs")
    found = dict(_walked(place)) if place.is_dir() else {}
    texts = {name.removesuffix(".md"): entry.read_text("utf-8") for name, entry in found.items() if name.endswith(".md")}
    texts[API] = reference()
    figures = {name: entry.read_bytes() for name, entry in found.items() if name.endswith(FIGURES)}
    pages = tuple(rendered(name, text, texts, figures) for name, text in sorted(texts.items()))
    shown = {name: content for name, content in figures.items() if any(_shows(page, name) for page in pages)}
    return Documents(pages, tuple(_groups(texts.get("README", ""), {page.name: page.title for page in pages})), shown)


def _walked(place: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(place.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walked(entry, f"{above}{entry.name}/")
        else:
            yield above + entry.name, entry


def _shows(page: Document, figure: str) -> bool:
    return f'src="{posixpath.relpath(figure, posixpath.dirname(page.name) or ".")}"' in page.body


def _groups(index: str, titles: Mapping[str, str]) -> Iterator[Group]:
    """The sections of docs/README.md with the pages that their lists begin with; pages that it does not name come last."""
    left, title, listed = dict(titles), "", list[tuple[str, str]]()
    left.pop("README", None)
    for line in [*index.splitlines(), f"- `{_API[0]}`", "## More"]:
        item = re.match(r"- \[([^]]+)\]\(([^)#]+)\.md\)", line)
        if line.startswith("## "):
            if listed:
                yield Group(title, tuple(listed))
            title, listed = line[3:], []
        elif item and item[2] in left:
            del left[item[2]]
            listed.append((item[2], item[1].replace("`", "")))
        elif line.startswith(f"- `{_API[0]}`") and API in left:
            del left[API]
            listed.append((API, "API reference"))
    if more := [(name, text) for name, text in left.items() if "/" not in name]:
        yield Group("More", tuple(more))


def rendered(name: str, text: str, known: Collection[str], figures: Collection[str] = ()) -> Document:
    """A Markdown text as a page among others of these names; HTML in it is text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("fence", _fence)
    reader.add_render_rule("code_inline", _code)
    tokens = reader.parse(text)
    title = next((tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"), name)
    parts = _anchored(tokens)
    for token in tokens:
        if token.children:
            token.children = _linked(token.children, _Site(name, known, figures))
    body = reader.renderer.render(tokens, reader.options, {})
    body = body.replace("<table>", '<div class="box" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Document(name, title.replace("`", ""), Markup(body), tuple(parts))


def _fence(_: object, tokens: list[Token], at: int, *__: object) -> str:
    """A block of code; one of a file has its name above it."""
    kind, _, file = tokens[at].info.strip().partition(" ")
    code = f'<pre tabindex="0"{" class=typed" if kind == "sh" else ""}><code>{escape(tokens[at].content)}</code></pre>\n'
    return f'<figure class="file"><figcaption>{escape(file)}</figcaption>{code}</figure>\n' if file else code


def _code(_: object, tokens: list[Token], at: int, *__: object) -> str:
    """Code in a line of text, in which no option is torn from its dashes."""
    words = (
        f'<span class="option">{word}</span>' if word[:1] == "-" else word for word in escape(tokens[at].content).split(" ")
    )
    return f"<code>{' '.join(words)}</code>"


def _anchored(tokens: list[Token]) -> list[tuple[str, str]]:
    """Name headings, and the first cells of tables where they are code or plain words; the sections of the page."""
    taken, parts = set[str](), []
    for at, token in enumerate(tokens):
        first = token.type == "td_open" and tokens[at - 1].type == "tr_open"
        if token.type != "heading_open" and not first:
            continue
        text = tokens[at + 1].content
        name = _free(_id(text), taken)
        if name:
            token.attrSet("id", name)
            taken.add(name)
        if token.type == "heading_open" and token.tag == "h2":
            parts.append((name, text.replace("`", "")))
    return parts


def _id(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


def _free(name: str, taken: Collection[str]) -> str:
    numbered = (f"{name}-{number}" for number in range(1, len(taken) + 2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


class _Site(NamedTuple):
    """Where links of a page can lead."""

    name: str
    known: Collection[str]
    figures: Collection[str]

    def href(self, text: str) -> str | None:
        """Where a link of the text leads in the site; None where nothing of the site is there."""
        if re.match(r"https?://", text):
            return text
        path, _, fragment = text.partition("#")
        anchor = f"#{fragment}" if fragment else ""
        if not path:
            return anchor or None
        inside = self._inside(path)
        target = inside.removesuffix(".md") if inside.endswith(".md") else posixpath.join(inside, "README")
        return self.to(target) + anchor if target in self.known else None

    def to(self, name: str) -> str:
        """The page of another text, from this page."""
        return posixpath.relpath(page_of(name), posixpath.dirname(self.name) or ".")

    def image(self, text: str) -> bool:
        """Whether a figure is there."""
        return self._inside(text) in self.figures

    def _inside(self, path: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.name), path))


def _linked(children: list[Token], site: _Site) -> list[Token]:
    """Links among documents lead to their pages, others of the repository are no links, and a document that is named is one."""
    found: list[Token] = []
    open_links: list[bool] = []
    for token in children:
        if token.type == "link_open":
            target = site.href(str(token.attrGet("href")))
            open_links.append(target is not None)
            if target is None:
                continue
            token.attrSet("href", target)
        elif token.type == "link_close":
            if not open_links.pop():
                continue
        elif token.type == "image" and not site.image(str(token.attrGet("src"))):
            found.append(_plain(token.content))
            continue
        elif token.type == "text" and not any(open_links):
            found += _mentions(token.content, site)
            continue
        elif token.type == "code_inline" and token.content in _API and API in site.known and not any(open_links):
            found += _link(site.to(API), token)
            continue
        found.append(token)
    return found


def _mentions(text: str, site: _Site) -> list[Token]:
    found, last = [], 0
    for match in _NAMED.finditer(text):
        if match[1] in site.known:
            found += [_plain(text[last : match.start()]), *_link(site.to(match[1]), _plain(match[0]))]
            last = match.end()
    return [*found, _plain(text[last:])]


def _link(href: str, inner: Token) -> list[Token]:
    opened, closed = Token("link_open", "a", 1), Token("link_close", "a", -1)
    opened.attrSet("href", href)
    return [opened, inner, closed]


def _plain(text: str) -> Token:
    return Token("text", "", 0, content=text)
