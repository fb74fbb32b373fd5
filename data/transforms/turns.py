"""Transforms of the turns of a conversation: notes, subjects, merging, and where it ends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from data.schemas.messages import ANSWER_FIELDS
from data.transforms.base import WHOLE, Conversation, Turn, add, switch, transform

# Fields of messages (data/schemas/messages.py) that two messages cannot share.
_OF_ONE = {*ANSWER_FIELDS, "weight", "train", "loss", "tool_call_id"}
Apply = Callable[[Conversation, Counter], str]


@transform("subject", order=WHOLE, reads=lambda value: {"subject"})
def subject(value: Any) -> Apply:
    """Puts the record's `subject` before the user's first message, where it does not begin so."""
    switch("subject", value)

    def apply(conversation: Conversation, counts: Counter) -> str:
        text = str(conversation.fields.get("subject") or "").strip()
        text = re.sub(r"^(?:(?:re|aw|fwd?|wg)\s*:\s*)+", "", text, flags=re.IGNORECASE)
        first = next((turn for turn in conversation.turns if turn.role == "user"), None)
        if text and first and not str(first.content).lower().startswith(text.lower()):
            first.content = f"{text}\n\n{first.content}"
            counts["subjects put before the first message"] += 1
        return ""

    return apply


def _is_blank(turn: Turn) -> bool:
    return not turn.others.get("tool_calls") and not (turn.content and str(turn.content).strip())


def _stands_alone(*turns: Turn) -> bool:
    """Whether one of the turns says more than its text, which a merged one could not."""
    return any(turn.role == "tool" or _OF_ONE & turn.others.keys() for turn in turns)


@transform("merge_turns", default=True, order=WHOLE)
def merge_turns(value: Any) -> Apply:
    """Makes one turn of those that follow each other with one role, a blank line between them;
    empty messages are left out."""
    switch("merge_turns", value)

    def apply(conversation: Conversation, counts: Counter) -> str:
        merged: list[Turn] = []
        for turn in conversation.turns:
            if _is_blank(turn):
                counts["messages without text dropped"] += 1
            elif merged and merged[-1].role == turn.role and not _stands_alone(turn, merged[-1]):
                last = merged[-1]
                last.content = f"{last.content}\n\n{turn.content}"
                last.others = turn.others | last.others
                counts["turns merged"] += 1
            else:
                merged.append(turn)
        conversation.turns = merged
        return "" if merged else "records left out, no message has text"

    return apply


@transform("trim", default=True, order=WHOLE)
def trim(value: Any) -> Apply:
    """Begins a conversation at the user's first turn, after a system message, and ends it at the
    assistant's last; one without both is left out."""
    switch("trim", value)

    def apply(conversation: Conversation, counts: Counter) -> str:
        turns = conversation.turns
        system = [turn for turn in turns[:1] if turn.role == "system"]
        numbers = range(len(system), len(turns))
        start = next((n for n in numbers if turns[n].role == "user"), len(turns))
        stop = next((n + 1 for n in reversed(numbers) if turns[n].role == "assistant"), 0)
        if stop <= start:
            return "records left out, no answer of the assistant"
        add(counts, "turns dropped before the user's first", start - len(system))
        add(counts, "turns dropped after the assistant's last", len(turns) - stop)
        conversation.turns = system + turns[start:stop]
        return ""

    return apply
