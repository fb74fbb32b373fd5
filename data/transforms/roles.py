"""Transforms by author: private notes, and who of a conversation is the user, who the assistant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.errors import DataError
from data.schemas.messages import ROLES
from data.schemas.templates import one_of
from data.transforms.base import AUTHOR, Conversation, Turn, add, switch, transform
from ranges import split_names

OPENER, OTHERS, BOT = "opener", "others", "bot"
DROP = "drop"
# {word for who wrote a message: its role}. `opener` and `others` are of exports that know no roles.
_KINDS = ROLES | {
    "user": "user", "end-user": "user", "lead": "user", "contact": "user", "visitor": "user",
    "client": "user", OPENER: "user",
    "assistant": "assistant", "admin": "assistant", "team": "assistant", "operator": "assistant",
    "support": "assistant", OTHERS: "assistant",
    "system": "system", "tool": "tool", BOT: DROP,
}  # fmt: skip
_SETTABLE = ("user", "assistant", DROP)


def _is(turn: Turn, name: str) -> bool:
    """Whether a name is that of a turn's author: an id, a name, an address, "@" and a domain, or
    the record's word for who it is."""
    if name.startswith("@"):
        return turn.email.lower().endswith(name.lower())
    names = (turn.author, turn.name, turn.email, turn.kind)
    return bool(name) and name.lower() in (known.lower() for known in names)


@transform("drop_notes", default=True, order=AUTHOR)
def drop_notes(value: Any) -> Callable[[Conversation, Counter], str]:
    """Leaves out private notes, which the customer could not see."""
    switch("drop_notes", value)

    def apply(conversation: Conversation, counts: Counter) -> str:
        public = [turn for turn in conversation.turns if not turn.private]
        add(counts, "private notes dropped", len(conversation.turns) - len(public))
        conversation.turns = public
        return "" if public else "records left out, all messages are private notes"

    return apply


@transform("roles", order=AUTHOR)
def roles(value: Any) -> Callable[[Conversation, Counter], str]:
    """Gives each turn its role: `roles.assistant='U02,@shop.example'` names its authors by id,
    name, address, domain or kind, and so do `roles.user` and `roles.drop`, whose turns are left
    out; `others` is everyone else. Those who are not named have the role that the record gives
    them; if it gives none, and only one of the two is named, they have the other."""
    if not isinstance(value, Mapping):
        raise DataError(
            f"data.transforms.roles={value!r:.80}; set --config.data.transforms.roles.assistant="
            "'U02,@shop.example'"
        )
    named: dict[str, tuple[str, ...]] = {}
    for role, names in value.items():
        one_of("role of data.transforms.roles", role, dict.fromkeys(_SETTABLE))
        texts: Sequence = names if isinstance(names, list | tuple) else [names]
        named[role] = split_names([str(text) for text in texts])
    everyone = next((role for role, names in named.items() if OTHERS in names), "")
    one = [role for role in ("user", "assistant") if role in named]
    if not everyone and len(one) == 1:
        everyone = "assistant" if one == ["user"] else "user"

    # Names of nobody so far, as they are counted; a name is taken out when it is first seen.
    unseen = {
        (role, name): f"sources without {name!r:.40} of roles.{role}"
        for role, names in named.items()
        for name in names
        if name != OTHERS
    }
    pending = Counter(unseen.values())  # to be counted with the first conversation

    def role_of(turn: Turn, number: int, counts: Counter) -> str:
        for role, names in named.items():
            for name in names:
                if name != OTHERS and _is(turn, name):
                    if text := unseen.pop((role, name), ""):
                        counts.subtract([text])
                    return role
        kind = turn.kind.lower()
        knows = kind in _KINDS and kind not in (OPENER, OTHERS)
        if everyone and not knows:
            return everyone
        if kind in _KINDS:
            return _KINDS[kind]
        words = {"id": turn.author, "name": turn.name, "address": turn.email, "kind": turn.kind}
        listed = ", ".join(f"{word} {text!r:.60}" for word, text in words.items() if text)
        name = turn.author or turn.email or turn.name or turn.kind or "NAME"
        raise DataError(
            f"messages[{number}] is by someone without a role ({listed or 'no author'}); type "
            f"--config.data.transforms.roles.assistant='{name:.60}' (or .user, or .drop); commas "
            "separate several, 'others' is everyone else",
            "no_role",
        )

    def apply(conversation: Conversation, counts: Counter) -> str:
        counts.update(pending)
        pending.clear()
        kept = []
        for number, turn in enumerate(conversation.turns):
            turn.role = role_of(turn, number, counts)
            if turn.role == DROP:
                by_kind = _KINDS.get(turn.kind.lower()) == DROP
                counts[f"messages dropped, of {turn.kind if by_kind else 'roles.drop'}"] += 1
            else:
                kept.append(turn)
        conversation.turns = kept
        return "" if kept else "records left out, no message has a role"

    return apply
