"""Transforms of mails: quoted replies and signatures, by the library mail-parser-reply, which knows
how mail programs of thirteen languages write them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from data.errors import DataError
from data.read.exports.markup import NEEDS, tidy
from data.transforms.base import Conversation, switch, transform

Apply = Callable[[Conversation, Counter], str]
# A signature is sought in so many lines at the end, and begins with a line of so few words: the
# library alone takes all that follows a line such as "thanks, that worked".
_MOST_LINES, _MOST_WORDS = 8, 4
_MARK = re.compile(r"--\s*$|_{3,}\s*$")


@functools.cache
def _library() -> tuple[Any, list[str]]:
    """(the module, the languages that it knows)."""
    try:
        import mailparser_reply
        from mailparser_reply.constants import MAIL_LANGUAGES
    except ImportError as error:
        raise DataError(f"data.transforms of quotes and signatures {NEEDS}") from error
    return mailparser_reply, list(MAIL_LANGUAGES)


def _parsed(text: str) -> list[Any]:
    """The replies in a mail, the newest first."""
    module, languages = _library()
    mail = module.EmailMessage(text=text, languages=list(languages), keep_hyphen_lists=True)
    return mail.read().replies


def without_quotes(text: str) -> str:
    """A mail without the earlier mails below it, and without lines that begin with ">"."""
    lines = text.replace("\r\n", "\n").strip().split("\n")
    quoted = any(line.lstrip().startswith(">") for line in lines)
    first, *others = _parsed(text)
    if first.headers and quoted:  # the answer is below what it quotes
        lines = first.body.split("\n")
    elif others and not first.headers:
        lines = lines[: first.content.count("\n") + 1]
    elif not quoted:
        return text
    return tidy("\n".join(line for line in lines if not line.lstrip().startswith(">")))


def without_signature(text: str) -> str:
    """A mail without the signature at its end."""
    lines = text.rstrip().split("\n")
    for at in range(max(1, len(lines) - _MOST_LINES), len(lines)):
        tail = lines[at:]
        marked = _MARK.match(tail[0])
        if not tail[0].strip() or (not marked and len(tail[0].split()) > _MOST_WORDS):
            continue
        replies = [] if marked else _parsed("\n".join(["-", "", *tail]))
        if marked or (len(replies) == 1 and replies[0].body.strip() == "-"):
            before = "\n".join(lines[:at]).rstrip()
            return before or text
    return text


def _cutting(name: str, value: Any, cut: Callable[[str], str], counted: str) -> Apply:
    switch(name, value)
    _library()

    def apply(conversation: Conversation, counts: Counter) -> str:
        for turn in conversation.turns:
            if isinstance(turn.content, str) and (shorter := cut(turn.content)) != turn.content:
                turn.content = shorter
                counts[counted] += 1
        return ""

    return apply


@transform("drop_quotes")
def drop_quotes(value: Any) -> Apply:
    """Cuts the earlier mails that a mail quotes."""
    return _cutting("drop_quotes", value, without_quotes, "quoted replies dropped")


@transform("drop_signatures")
def drop_signatures(value: Any) -> Apply:
    """Cuts signatures at the end of mails."""
    return _cutting("drop_signatures", value, without_signature, "signatures dropped")
