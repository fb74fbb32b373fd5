"""Markup of exports as Markdown: HTML, by the library markdownify, and Slack's."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from data.errors import DataError

NEEDS = "needs the packages of the extra `knowledge`: pip install 'seedpod[knowledge]'"


def markdown_of(text: str) -> str:
    """A fragment of HTML, such as a message, as Markdown; a text without tags stays as it is.

    Raises:
      DataError: the library is not installed.
    """
    if not re.search(r"<[a-zA-Z/!][^>]*>|&#?\w+;", text):
        return text
    try:
        import bs4
        import markdownify
    except ImportError as error:
        raise DataError(f"HTML in a record {NEEDS}") from error
    soup = bs4.BeautifulSoup(text, "html.parser")
    for tag in soup(["script", "style", "head"]):
        tag.decompose()
    converter = markdownify.MarkdownConverter(
        heading_style="ATX", bullets="-", strip=["img"], escape_asterisks=False,
        escape_underscores=False, escape_misc=False,
    )  # fmt: skip
    try:
        return tidy(converter.convert_soup(soup))
    except RecursionError:
        raise DataError("HTML that is nested too deeply to be read", "bad_html") from None


def tidy(text: str) -> str:
    """Text without spaces at the ends of lines, and with at most one blank line in a row."""
    text = text.replace("\xa0", " ").replace("\r\n", "\n")
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


_SLACK = re.compile(r"<([@#!]?)([^>|]*)(?:\|([^>]*))?>")


def from_slack(text: str, name_of: Callable[[str], str]) -> str:
    """Slack's markup as Markdown: mentions by name, links, and the three escaped characters.

    Args:
      name_of: a user's id -> the name.
    """

    def replace(match: re.Match) -> str:
        sign, target, label = match.groups()
        if sign == "@":
            return f"@{label or name_of(target)}"
        if sign in ("#", "!"):
            return f"{'#' if sign == '#' else '@'}{label or target.partition('^')[0]}"
        bare = target.removeprefix("mailto:")
        return f"[{label}]({target})" if label and label not in (target, bare) else bare

    return tidy(html.unescape(_SLACK.sub(replace, text)))
