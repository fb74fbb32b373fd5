"""Pages of .html files as Markdown documents: titles and headings stay, what surrounds the content
(menus, footers, cookie notices) goes, by the library trafilatura."""

from __future__ import annotations

import codecs
import functools
import logging
import re
from collections.abc import Iterator
from typing import Any

from data.errors import DataError
from data.read.exports.markup import NEEDS, tidy
from data.read.reading import ReadOptions, Span, decode, parse_each
from data.read.text_files import whole

_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LATIN = ("iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii")  # browsers read windows-1252
_HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
# Where the library finds less, it takes the whole page, menus included; an answer may be short.
_LEAST = ("MIN_EXTRACTED_SIZE", "MIN_OUTPUT_SIZE")


def read_page(
    path: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """One (location, {"text": Markdown}) pair, with "title" where that is used; none if the file is
    blank."""
    del span

    def parse(raw: bytes) -> dict | None:
        page = _page(_decoded(raw)) if raw.strip() else None
        return page if page is None or options.uses("title") else {"text": page["text"]}

    return parse_each(whole(path, options), parse)


def _decoded(raw: bytes) -> str:
    """A page as text: by its byte order mark, as UTF-8, or by the encoding that it declares.

    Raises:
      DataError: it is none of these.
    """
    encoding = "utf-16" if raw.startswith(_UTF16) else ""
    if not encoding:
        try:
            return decode(raw)
        except DataError as error:
            declared = _CHARSET.search(raw[:4096])
            # UTF-16 would have a byte order mark; its name could not be read.
            if declared is None or declared[1].lower().startswith((b"utf", b"ucs")):
                raise error
            name = declared[1].decode("ascii", "replace").lower()
            encoding = "windows-1252" if name in _LATIN else name
    try:
        return raw.decode(encoding).replace("\r\n", "\n")
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(
            f"the page says that it is {encoding!r:.40}, and is not: {error}. Convert the file: "
            "iconv -f ENCODING -t UTF-8 FILE",
            "invalid_utf8",
        ) from None


def _page(html: str) -> dict[str, str]:
    """{"text", "title"} of a page.

    Raises:
      DataError: it has no text, or the library is not installed.
    """
    library, config = _library()
    if not re.search(r"<(?:html|body)\b", html, re.IGNORECASE):  # a fragment
        html = f"<html><body>{html}</body></html>"

    def extract(page: str) -> str:
        return library.extract(
            page, output_format="markdown", include_comments=False, include_formatting=True,
            include_links=True, config=config,
        ) or ""  # fmt: skip

    text = extract(html)
    if not _HEADING.search(text) and re.search(r"<h[1-4]\b", html, re.IGNORECASE):
        # In a page without an element that says where its content is, paragraphs alone are found.
        marked = extract(re.sub(r"<body\b[^>]*>", r"\g<0><article>", html, flags=re.IGNORECASE))
        text = marked if _HEADING.search(marked) else text
    if not text:
        raise DataError("the page has no text beside menus and the like", "no_text")
    metadata = library.extract_metadata(html)
    title = (metadata.title if metadata else None) or ""
    text = tidy(re.sub(r"(?<!\n)\n(#{1,6} )", r"\n\n\1", text))
    if title and not text.startswith("# "):
        text = f"# {title}\n\n{text}"
    return {"text": text, "title": title}


@functools.cache
def _library() -> tuple[Any, Any]:
    """(trafilatura, its settings)."""
    try:
        import trafilatura
        from trafilatura.settings import use_config
    except ImportError as error:
        raise DataError(f"a page of HTML {NEEDS}") from error
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # pages without text are counted
    config = use_config()
    for name in _LEAST:
        config.set("DEFAULT", name, "1")
    return trafilatura, config
