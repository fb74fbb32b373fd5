"""Transforms of whole records: which are kept, the places of turns, and markup in fields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from data.errors import DataError
from data.read.exports.markup import markdown_of
from data.schemas.messages import CONTENT_KEYS, ROLE_KEYS
from data.schemas.templates import inside, one_of, wrong_type
from data.transforms.base import (
    RECORD,
    Conversation,
    Turn,
    root,
    switch,
    transform,
    value_at,
)
from ranges import split_names

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(
            f"data.transforms.{name}={value!r:.80}; set --config.data.transforms.{name}.NAME=VALUE"
        )
    return dict(value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    """The names in a setting: "a,b", a sequence of texts, or one number."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values or any(isinstance(item, Mapping) or item is None for item in values):
        raise DataError(f"data.transforms.{name}={value!r:.80}; write names, as 'a,b'")
    return split_names([str(item) for item in values])


def _without(value: Any) -> bool:
    """Whether a transform needs the turns of a conversation: never."""
    del value
    return False


def _roots(places: Any) -> set[str]:
    """The fields in which places are."""
    return {root(place) for place in places}


@transform("keep", order=RECORD, needs_turns=_without, reads=_roots)
def keep(value: Any) -> Callable[[Conversation, Counter], str]:
    """Keeps the records whose field has one of the values, as `keep.status='solved,closed'`; of a
    field that is a list, such as tags, those that have one of them. Null is `None`."""
    wanted = {
        place: _names(f"keep.{place}", values) for place, values in _mapping("keep", value).items()
    }

    def apply(conversation: Conversation, counts: Counter) -> str:
        kept = []
        for place, values in wanted.items():
            setting = f"data.transforms.keep.{place}"
            held = value_at(conversation.fields, place, setting)
            words = [str(item) for item in (held if isinstance(held, list) else [held])]
            if not (own := [word for word in words if word in values]):
                several = f"none of {', '.join(values)}" if isinstance(held, list) else words[0]
                return f"records left out, {place} is {several:.60}"
            kept.append(f"records kept, {place} is {own[0]:.60}")
        counts.update(kept)
        return ""

    return apply


@transform("front_matter", order=RECORD, needs_turns=_without)
def front_matter(value: Any) -> Callable[[Conversation, Counter], str]:
    """Takes the YAML front matter off the text of a Markdown page; its title becomes the heading,
    where the page does not begin with one."""
    switch("front_matter", value)

    def apply(conversation: Conversation, counts: Counter) -> str:
        text = conversation.fields.get("text")
        if not isinstance(text, str) or not (match := _FRONT_MATTER.match(text)):
            return ""
        try:
            head = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"its front matter is no YAML: {reason:.200}", "bad_yaml") from None
        body = text[match.end() :].lstrip()
        title = head.get("title") if isinstance(head, dict) else None
        if title and not body.startswith("# "):
            body = f"# {title}\n\n{body}"
        conversation.fields["text"] = body
        counts["front matter dropped"] += 1
        return ""

    return apply


# {name in `turns`: the default places}
_PLACES = {
    "messages": ("messages",),
    "role": ("author.kind", *ROLE_KEYS),
    "content": CONTENT_KEYS,
    "author": ("author.id",),
    "name": ("author.name",),
    "email": ("author.email",),
    "private": ("private",),
}


@transform("turns", order=RECORD)
def turns(value: Any) -> Callable[[Conversation, Counter], str]:
    """The places of a conversation: `messages` in the record; `role`, `content`, `author`, `name`,
    `email` and `private` in a message. `private='not public'` is the opposite of a field."""
    places = _mapping("turns", value)
    for name in places:
        one_of("place of data.transforms.turns", name, _PLACES)

    def find(message: dict, name: str, consumed: set[str]) -> Any:
        place = str(places.get(name, "")).removeprefix("not ")
        for at in (place,) if place else _PLACES[name]:
            try:
                found = inside(message, at)
            except KeyError:
                continue
            if not place and name == "role" and isinstance(found, dict | list):
                continue  # `from` may be an object, of which `author` names a part
            consumed.add(root(at))
            return found
        if place and name in ("author", "content", "role"):
            value_at(message, place, f"data.transforms.turns.{name}")
        return None

    def turn_of(message: Any, number: int) -> Turn:
        if not isinstance(message, dict):
            raise wrong_type(f"messages[{number}]", "an object", message)
        consumed: set[str] = set()
        found = {name: find(message, name, consumed) for name in _PLACES if name != "messages"}
        for name in ("role", "author", "name", "email"):
            held = found[name]
            if isinstance(held, dict | list):
                raise wrong_type(f"messages[{number}], {name}", "a text or a number", held)
            found[name] = "" if held is None else str(held)
        private = bool(found["private"]) != str(places.get("private", "")).startswith("not ")
        others = {k: v for k, v in message.items() if k not in consumed}
        return Turn(
            "", found["content"], found["author"], found["name"], found["email"], found["role"],
            private, others,
        )  # fmt: skip

    def apply(conversation: Conversation, counts: Counter) -> str:
        del counts
        place = str(places.get("messages", "messages"))
        messages = value_at(conversation.fields, place, "data.transforms.turns.messages")
        if not isinstance(messages, list):
            raise wrong_type(place, "a list of messages", messages)
        conversation.turns = [turn_of(message, i) for i, message in enumerate(messages)]
        conversation.people = tuple(sorted({t.name for t in conversation.turns if t.name}))
        conversation.fields.pop(root(place))
        return "" if messages else "records left out, no messages"

    return apply


@transform(
    "html", order=RECORD, needs_turns=lambda value: "messages" in split_names(value),
    reads=lambda value: _roots(split_names(value)) - {"messages"},
)  # fmt: skip
def html(value: Any) -> Callable[[Conversation, Counter], str]:
    """Turns the HTML in fields of the record into Markdown, as `html='body'`; `messages` names the
    content of every message."""
    names = _names("html", value)

    def apply(conversation: Conversation, counts: Counter) -> str:
        for name in names:
            if name == "messages" and conversation.turns:
                for turn in conversation.turns:
                    if isinstance(turn.content, str):
                        turn.content = markdown_of(turn.content)
                        counts["texts turned from HTML into Markdown"] += 1
                continue
            text = value_at(conversation.fields, name, "data.transforms.html")
            if text is not None and not isinstance(text, str):
                raise wrong_type(name, "a text", text)
            conversation.fields[name] = markdown_of(text or "")
            counts["texts turned from HTML into Markdown"] += 1
        return ""

    return apply
