"""Conversations of Intercom: `intercom:PATH`.

A .json with `conversations`, a list of them, or a .jsonl with one a line. The first message is the
conversation's `source`; the others are its `conversation_parts`, of which notes are private, and
parts without a body, such as assignments, are events. Bodies are HTML.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from data.errors import DataError
from data.read.exports import files
from data.read.exports.markup import markdown_of
from data.read.reading import ReadOptions, Span, parse_each


def read(
    name: str, tfds_dir: str, span: Span | None, options: ReadOptions
) -> Iterator[tuple[str, dict | DataError]]:
    """(location, record) pairs, one a conversation."""
    del tfds_dir, span
    for path in files.files_of(name):
        conversations = files.objects(path, "conversations", options)
        yield from parse_each(conversations, functools.partial(_conversation, options=options))


def _inner(value: Any, key: str) -> Any:
    """The list in an object of the API, {"type": "…", key: […]}, or the list itself."""
    return value.get(key) if isinstance(value, dict) else value


def _conversation(conversation: dict, options: ReadOptions) -> dict:
    source = conversation.get("source") or conversation.get("conversation_message")
    parts = _inner(conversation.get("conversation_parts"), "conversation_parts")
    if source is None and parts is None:
        listed = ", ".join(repr(name)[:40] for name in list(conversation)[:12])
        raise DataError(
            f"neither 'source' nor 'conversation_parts' (the record has {listed})", "missing_field"
        )
    parts = files.list_at({"conversation_parts": parts}, "conversation_parts")
    parts = ([source] if isinstance(source, dict) else []) + parts
    messages = []
    for part in parts:
        body, person = files.text_at(part, "body"), part.get("author") or {}
        if not body and part.get("part_type", "comment") not in ("comment", "note"):
            options.leave_out("events dropped, such as an assignment")
            continue
        if not isinstance(person, dict):
            raise DataError("'author' should be an object", "wrong_type")
        author = files.author(
            person.get("id"), person.get("name"), person.get("email"), person.get("type")
        )
        private = part.get("part_type") == "note"
        message = {"author": author, "content": markdown_of(body), "private": private}
        messages.append(message | {"attachments": part.get("attachments")})
    contacts, tags = (
        files.list_at({name: _inner(conversation.get(name), name)}, name)
        for name in ("contacts", "tags")
    )
    rating = conversation.get("conversation_rating")
    subject = conversation.get("title") or (
        source.get("subject") if isinstance(source, dict) else None
    )
    fields = {
        "subject": markdown_of(subject) if isinstance(subject, str) else None,
        "status": conversation.get("state"),
        "rating": rating.get("rating") if isinstance(rating, dict) else rating,
        "tags": [tag.get("name") for tag in tags],
        "customer": contacts[0].get("id") if contacts else None,
    }
    taken = ("source", "conversation_message", "conversation_parts", "conversation_rating",
             "contacts", "state", "title")  # fmt: skip
    others = {k: v for k, v in conversation.items() if k not in taken}
    return others | fields | {"messages": messages}
