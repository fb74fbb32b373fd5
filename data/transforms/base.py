"""The registry of transforms, and their application to a record.

A record that holds a conversation is changed turn by turn. Its turns are found at the places that
`data.transforms.turns` names; readers of exports (data/read/exports) bring them in the places that
are its defaults.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data.errors import DataError
from data.schemas.templates import inside
from registry import Registry
from suggestions import did_you_mean, nearest

# The order in which transforms are applied.
RECORD, AUTHOR, TURN, WHOLE = range(4)


@dataclasses.dataclass
class Turn:
    """A message of a conversation.

    Attributes:
      role: `user`, `assistant`, or another of data/schemas/messages.py; "" while it is unknown.
      author, name, email: of who wrote it, "" where the record does not say. kind: the record's own
        word for who that is, such as `end-user` or `admin`.
      private: whether the customer cannot see it. others: the message's other fields.
    """

    role: str
    content: Any
    author: str = ""
    name: str = ""
    email: str = ""
    kind: str = ""
    private: bool = False
    others: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Conversation:
    """A record as transforms change it.

    Attributes:
      fields: the record, without the turns. turns: those of its messages; empty in a record of
        text. people: the names of those who wrote a turn.
    """

    fields: dict
    turns: list[Turn] = dataclasses.field(default_factory=list)
    people: tuple[str, ...] = ()


class Transform(NamedTuple):
    """A row of the registry.

    Attributes:
      make: value of the setting -> a function (conversation, counts) -> the reason for leaving the
        record out, "" to keep it. `counts` counts changes by what they are. Both raise DataError.
      default: the value for exports and mailboxes where the setting has none; None for off.
      order: RECORD for what finds turns or needs none, AUTHOR for what depends on who wrote them,
        TURN for what changes single turns, WHOLE for what comes after those.
      reads: value -> the record's fields that are read. needs_turns: value -> whether the record
        must hold a conversation.
    """

    make: Callable[[Any], Callable[[Conversation, Counter], str]]
    default: Any = None
    order: int = TURN
    reads: Callable[[Any], set[str]] = lambda value: set()
    needs_turns: Callable[[Any], bool] = lambda value: True


TRANSFORMS: Registry[Transform] = Registry("transform", "data.transforms")


def transform(name: str, **attributes: Any) -> Callable:
    """Decorates the `make` of a row; `attributes` are the others of Transform."""

    def register(make: Callable) -> Callable:
        TRANSFORMS.register(name, Transform(make, **attributes))
        return make

    return register


def switch(name: str, value: Any) -> None:
    """Raises DataError for a value other than True; False has been taken out."""
    if value is not True:
        raise DataError(f"data.transforms.{name}={value!r:.80}; it is True or False")


def add(counts: Counter, name: str, number: int) -> None:
    """Counts a change, if there is any."""
    if number:
        counts[name] += number


class Change:
    """The transforms of a source.

    Args:
      values: `data.transforms`. is_export: whether the records are conversations of an export or a
        mailbox, for which some are on by default.

    Attributes:
      reads: the record's fields that they read.

    Raises:
      DataError: there is no such transform, or it does not take its value.
    """

    def __init__(self, values: Mapping[str, Any], is_export: bool = False):
        for name in values:
            if name not in TRANSFORMS:
                raise DataError(
                    f"unknown config key data.transforms.{name}"
                    f"{did_you_mean(nearest(name, TRANSFORMS))}; known: {', '.join(TRANSFORMS)}"
                )
        defaults = {name: row.default for name, row in TRANSFORMS.items() if is_export}
        chosen = (defaults | dict(values)).items()
        active = {name: v for name, v in chosen if v is not None and v is not False}
        if is_export or any(TRANSFORMS[name].needs_turns(value) for name, value in active.items()):
            active = {"turns": {}, "roles": {}} | active
        names = sorted((name for name in TRANSFORMS if name in active), key=_order)
        self._steps = [TRANSFORMS[name].make(active[name]) for name in names]
        self.reads = set[str]().union(*(TRANSFORMS[name].reads(active[name]) for name in names))

    def __call__(self, record: dict, counts: Counter) -> Conversation | None:
        """The changed record, with its messages among its fields; None for one that is left out,
        which `counts` says.

        Raises:
          DataError: the record does not hold what a transform needs.
        """
        conversation = Conversation(dict(record) if self._steps else record)
        for step in self._steps:
            if reason := step(conversation, counts):
                counts[reason] += 1
                return None
        if conversation.turns:
            messages = [
                {"role": turn.role, "content": turn.content} | turn.others
                for turn in conversation.turns
            ]
            conversation.fields["messages"] = messages
        return conversation


def _order(name: str) -> int:
    return TRANSFORMS[name].order


def value_at(record: Mapping, place: str, setting: str) -> Any:
    """The value at a place such as `rating.score` in a record.

    Args:
      setting: the one that names it, for the error.

    Raises:
      DataError: there is none.
    """
    if place in record:
        return record[place]
    try:
        return inside(record, place)
    except KeyError:
        listed = ", ".join(repr(key)[:40] for key in list(record)[:12])
        raise DataError(
            f"{setting}: no field {place!r}{did_you_mean(nearest(place, sorted(record)))} (the "
            f"record has {listed})",
            "missing_field",
        ) from None


def root(place: str) -> str:
    """The field in which a place is."""
    return place.partition(".")[0].partition("[")[0]
