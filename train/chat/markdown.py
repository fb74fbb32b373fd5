"""Markdown of a model as HTML that is safe to show: no HTML of the model's own, no images, links to
http and https alone."""

from __future__ import annotations

from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

LINK = {"target": "_blank", "rel": "noopener noreferrer nofollow"}


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _adapt(tokens: list[Token]) -> None:
    """Opens links in a new tab, and puts headings below those of the page."""
    for token in tokens:
        if token.type == "link_open":
            token.attrs.update(LINK)
        elif token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        _adapt(token.children or [])


_parser = MarkdownIt("js-default", {"html": False, "breaks": True}).disable("image")
_parser.validateLink = _is_web
# A wide table scrolls, by keys too.
_WIDE = '<div class="wide" role="group" aria-label="Table" tabindex="0">'
_parser.add_render_rule("table_open", lambda *_: f"{_WIDE}<table>\n")
_parser.add_render_rule("table_close", lambda *_: "</table></div>\n")


def to_html(text: str) -> str:
    tokens = _parser.parse(text)
    _adapt(tokens)
    return _parser.renderer.render(tokens, _parser.options, {})
